"""The contract that both stages stand on: what lies on disk, what it means, and how it is read.

Imports neither `pipeline` nor `trainer`. Start with `dataset.py` (reading) and `commit.py` (writing).
"""

from dateshard.shardstore.own_code.public_names import lazy as _lazy

_NAMES = {
    "Dataset": "dataset",
    "Feature": "layouts.feature",
    "Manifest": "manifest",
    "Nodes": "frozen",
    "Scale": "scaling.scale",
    "Statistics": "scaling.statistics",
    "Vocabularies": "frozen",
    "Day": "times.calendar",
    "Segment": "times.calendar",
    "DateshardError": "errors",
    "UsageError": "errors",
    "StoreError": "errors",
    "DamagedError": "errors",
    "NotThereError": "errors",
    "DumpError": "errors",
    "DiskFullError": "errors",
    "ResourceError": "errors",
    "BusyError": "errors",
    "Where": "errors",
}
__all__ = list(_NAMES)
__getattr__ = _lazy(__name__, _NAMES)
