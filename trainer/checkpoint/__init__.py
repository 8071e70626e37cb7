"""Checkpoints: all state at a position, hashed, complete or absent, without pickle.

folder (one checkpoint: its files, and every way in which they can be wrong), checkpoint_state (what its manifest says),
snapshot (a copy of the state as the bytes of its files), saving (how a folder appears), writer (both, while training goes
on), choice (which one to take, and what to do about the others), retention (which go) and removal (how), pth (exports, and
weights from elsewhere), tending (what follows a save).
"""

from typing import TYPE_CHECKING

from dateshard.shardstore.own_code.public_names import lazy as _lazy
from dateshard.trainer.checkpoint.after_save import mend, retain, tend
from dateshard.trainer.checkpoint.checkpoint_folder import (
    NAME,
    Checkpoint,
    Tensors,
    inspect,
    read_files,
    refuse_unfit,
    verify,
)
from dateshard.trainer.checkpoint.checkpoint_state import Bound, CheckpointState, DataIdentity
from dateshard.trainer.checkpoint.choice import best, find, loss_of_best, newest, ranked, scan, set_aside_later, tidy
from dateshard.trainer.checkpoint.saving import point, write

if TYPE_CHECKING:
    from dateshard.trainer.checkpoint.snapshot import Part, Snapshot, TakenRows
    from dateshard.trainer.checkpoint.writer import CheckpointWriter, Saved

__all__ = [
    "NAME",
    "Bound",
    "Checkpoint",
    "CheckpointState",
    "CheckpointWriter",
    "DataIdentity",
    "Part",
    "Saved",
    "Snapshot",
    "TakenRows",
    "Tensors",
    "best",
    "find",
    "inspect",
    "loss_of_best",
    "mend",
    "newest",
    "point",
    "ranked",
    "read_files",
    "refuse_unfit",
    "retain",
    "scan",
    "set_aside_later",
    "tend",
    "tidy",
    "verify",
    "write",
]

# These import torch, which lists of runs and checkpoints do without: 1.5 s of each of those commands
_SAVING = {
    "Part": "snapshot",
    "Snapshot": "snapshot",
    "TakenRows": "snapshot",
    "CheckpointWriter": "writer",
    "Saved": "writer",
}
__getattr__ = _lazy(__name__, _SAVING)
