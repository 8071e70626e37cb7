"""Dates measured and normalised in several processes.

`pool.py` hands out tasks and collects results; `forked.py` is what runs in each process.
"""
