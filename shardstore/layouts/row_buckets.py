"""How the rows of a table are divided where neither dates nor a column do: the names of their hundred buckets."""

from __future__ import annotations

ROW = "row"  # what cuts such a table, as a column does another
BUCKETS = tuple(f"{number:02}" for number in range(100))
