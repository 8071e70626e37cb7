"""What tests and benchmarks share: a small world of dumps, processes that are killed and traced, oracles of raw data."""
