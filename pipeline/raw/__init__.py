"""Raw dumps -> rows: which files, in which format and dialect, when and who a row is, and which rows are bad.

Read `dumps.py` (which files), then `decode.py` (a dump's rows as columns), then `formats/` (one file a format).
"""
