"""Names of cuts that no split has: people or sessions that came after the names were divided."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError, counted, shorten
from dateshard.shardstore.layouts.events import decode_names
from dateshard.shardstore.manifest import Manifest

SHOWN_NAMES = 5


def names_in_no_split(dataset: Dataset) -> list[str]:
    """Names of cuts that are in no split, sorted: those that came after fractions were divided; none where dates are.

    Memory: the names.
    """
    if not dataset.manifest.split_cuts or dataset.manifest.by_row:
        return []
    divided = {name for names in dataset.manifest.split_cuts.values() for name in names}
    left = set[str]()
    for day in dataset.days:
        names = decode_names(dataset.arrays(day.date, ("cut_names",))["cut_names"])
        left.update(name for name in names if name not in divided)
    return sorted(left)


def about_cuts_in_no_split(root: Path, generation: int, manifest: Manifest) -> str:
    """A sentence about names of cuts that are in no split; empty where all are in one, or a shard cannot be read."""
    names = list[str]()
    with suppress(StoreError):
        names = names_in_no_split(Dataset(root, generation, manifest)) if manifest.split_cuts else []
    if not names:
        return ""
    values = counted(len(names), "value")
    shown = ", ".join(map(shorten, names[:SHOWN_NAMES])) + (", ..." if len(names) > SHOWN_NAMES else "")
    todo = f"Name them in pipeline.split, or divide fractions again: {command('preprocess', '--resplit', config=True)}"
    return f"{values} of '{manifest.cut}' in no split: {shown}. {todo}"
