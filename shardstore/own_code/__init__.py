"""Code of the user's own that a configuration names, and the former names that it may import."""
