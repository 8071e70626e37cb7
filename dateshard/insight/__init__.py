"""What the shards hold, for people: figures, surveys, what changed between generations."""
