"""The offline stage: raw daily dumps -> normalised shards. Imports shardstore, never trainer.

Read `plan.py` (what would be done and why), then `prepare.py` (the acts), then `execute.py` (carrying them out).
"""
