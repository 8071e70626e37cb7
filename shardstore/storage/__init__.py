"""Storage formats of a shard. `zarr_raw` is the one that is mapped; each format is one file."""
