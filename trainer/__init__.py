"""The online stage: shards -> a trained, evaluated model. Imports shardstore, never pipeline.

Read `loop.py` first: it is the story. `data/order.py` says which windows come when, `data/reader.py` brings them.
"""

from dateshard.shardstore.own_code.public_names import lazy as _lazy

_NAMES = {
    "Trainer": "config",
    "ModelConfig": "config",
    "Shape": "models.shape",
    "Batch": "data.batch",
    "BatchForm": "data.batch",
    "Window": "data.order",
    "Order": "data.order",
    "Reader": "data.reader",
    "runs_of": "data.split_runs",
    "make_session": "setup",
    "evaluate": "assessment.evaluate",
}
__all__ = list(_NAMES)
__getattr__ = _lazy(__name__, _NAMES)
