"""What a preprocess would do, and why, before it does anything.

Read `plan.py` first: it is pure. `observe.py` looks at dumps and store for it, `preview.py` adds what it costs.
"""
