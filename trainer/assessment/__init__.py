"""A model judged: evaluation beside baselines, prediction intervals and example windows.

Read `evaluate.py` first.
"""
