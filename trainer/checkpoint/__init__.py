"""Checkpoints: all state at a position, hashed, complete or absent, without pickle.

folder (one checkpoint: its files, and every way in which they can be wrong), saving (how one appears), choice (which one
to take, and what to do about the others).
"""

from trainer.checkpoint.choice import best, find, newest, scan, set_aside_later, tidy
from trainer.checkpoint.folder import NAME, Checkpoint, Tensors, inspect, read_files, refuse_unbound, refuse_unfit
from trainer.checkpoint.saving import point, save

__all__ = [
    "NAME",
    "Checkpoint",
    "Tensors",
    "best",
    "find",
    "inspect",
    "newest",
    "point",
    "read_files",
    "refuse_unbound",
    "refuse_unfit",
    "save",
    "scan",
    "set_aside_later",
    "tidy",
]
