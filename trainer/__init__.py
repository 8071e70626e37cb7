"""The online stage: shards -> a trained, evaluated model. Imports shardstore, never pipeline.

Read `loop.py` first: it is the story. `data/order.py` says which windows come when, `data/reader.py` brings them.
"""
