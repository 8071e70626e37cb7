"""How much of a generation was observed, and whether its step fits the spacing of the records."""
