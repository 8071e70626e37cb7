"""Training runs and their checkpoints, for people: lists, comparisons, curves, and what is done with them."""
