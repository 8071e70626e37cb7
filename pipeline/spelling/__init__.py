"""How dates and times are spelled: in the path of dumps, and as strptime patterns with the meaning of Python."""
