"""What carrying out a plan consists of: measuring, merging, normalising and storing, each a generator of events."""
