"""The contract that both stages stand on: what lies on disk, what it means, and how it is read.

Imports neither `pipeline` nor `trainer`. Start with `dataset.py` (reading) and `commit.py` (writing).
"""
