"""Dates measured and normalised in several processes.

`engine.py` is what runs tasks in general, `pool.py` runs them on this machine, `child_process.py` is such a process.
"""
