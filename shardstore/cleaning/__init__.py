"""Generations that are kept beside the current one, and the removal of what none of them needs."""
