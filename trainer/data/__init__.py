"""Shards -> batches: which windows come when, and how they are gathered.

Read `order.py` (which windows come when), then `reader.py` (who brings them), then `blocks.py` (what is held in memory).
"""
