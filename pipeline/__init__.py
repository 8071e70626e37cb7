"""The offline stage: raw daily dumps -> normalised shards. Imports shardstore, never trainer.

Read `planning/plan.py` (what would be done and why), then `acts.py` (the acts), then `execute.py` (carrying them out)
and the room `execution/` (its steps).
"""

from dateshard.shardstore.own_code.public_names import lazy as _lazy

_NAMES = {
    "Pipeline": "config",
    "preprocess": "execute",
    "Wish": "planning.plan",
    "Request": "raw.formats",
    "RowBlock": "raw.formats",
}
__all__ = list(_NAMES)
__getattr__ = _lazy(__name__, _NAMES)
