"""The offline stage: raw daily dumps -> normalised shards. Imports shardstore, never trainer.

Read `planning/plan.py` (what would be done and why), then `acts.py` (the acts), then `execute.py` (carrying them out).
"""
