"""A training run's folder: how it begins, stands, and goes on, and where its checkpoints lie."""
