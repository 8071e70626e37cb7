"""The page about the data: its facts, its cards and sections, and how it is written."""
