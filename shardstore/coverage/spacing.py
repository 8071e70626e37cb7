"""Whether records come at a longer spacing than the grid's step: then most of its cells can never be observed.

Nothing is measured for it: the mask of one date tells how many steps lie between two observed cells of a node.

Legend: T steps of the date, N nodes, F features.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.coverage.observed import counts_of
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.layouts.feature import CALENDAR
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.sources import SourceRow
from dateshard.shardstore.times.calendar import MILLISECOND, NANOSECONDS, UNITS

DATES, NODES = 30, 1000  # that are looked at, at most
SPARSE = 0.5  # of the cells: with more of them observed no step is too short
REGULAR, NEAR = 0.75, 0.2  # so many of the distances lie within 20 % of a multiple, or records come as they come
DAY = 86_400 * NANOSECONDS


def too_short_a_step(root: Path, generation: int, manifest: Manifest, rows: Mapping[dt.date, SourceRow]) -> str:
    """Returns the warning that the step is too short for the records, and the step to set; empty if it fits.

    `8 % of the cells are observed: records come every 1h, and a step is 5m. Set pipeline.step: 1h`. Empty also where
    records come at no regular spacing. Counts, which observe every cell, and counters say nothing of it.

    Reads the mask of one training date, where fewer than half of the cells of some of them were observed.

    Args:
        rows: of the sources file, by date.
    """
    hows = [feature.aggregate for feature in manifest.features]
    features = [place for place, how in enumerate(hows) if how not in ("count", "difference", CALENDAR)]
    dates = [date for date in sorted(manifest.dates) if manifest.split_of(date) == "train"]
    known = {}
    for date in dates[:: -(-len(dates) // DATES) or 1]:
        counts = counts_of(manifest, manifest.dates[date], rows.get(date))
        if counts is not None:
            known[date] = sum(counts[place] for place in features)
    if not features or not dates:
        return ""
    fullest = max(known, key=known.__getitem__) if known else dates[len(dates) // 2]
    cells = len(features) * manifest.num_frozen_nodes
    if known and sum(known.values()) >= SPARSE * cells * sum(manifest.dates[date].num_steps for date in known):
        return ""
    with suppress(StoreError):  # damaged: whatever needs it says so
        return _sentence(root, generation, manifest, fullest, features)
    return ""


def _sentence(root: Path, generation: int, manifest: Manifest, date: dt.date, features: Sequence[int]) -> str:
    mask = Dataset(root, generation, replace(manifest, dates={date: manifest.dates[date]})).map(date, "observed")
    if mask is None:
        return ""
    every = -(-manifest.num_nodes // NODES)
    seen_TNF = np.asarray(mask)[:, ::every, list(features)].astype(bool)
    apart = [steps_apart(seen_TNF[:, :, place]) for place in range(len(features))]
    spacing = min(DAY if steps is None else steps * manifest.step for steps in apart)
    if spacing < 2 * manifest.step:
        return ""
    share = 100 * seen_TNF.mean()
    longer = f"Set pipeline.step: {spelled(spacing)}" if DAY % spacing == 0 else "Set a longer pipeline.step"
    come = f"records come every {spelled(spacing)}, and a step is {spelled(manifest.step)}"
    return f"{share:.0f} % of the cells are observed: {come}. {longer}"


def steps_apart(seen_TN: NDArray[np.bool_]) -> int | None:
    """Returns the usual number of steps between two observed cells of a node.

    It is the lower quartile, where the others are multiples of it (a record may be missing); 1 where they lie at no
    regular distance, None where hardly a node has two of them."""
    node, step = np.nonzero(seen_TN.T)
    distances = np.diff(step)[np.diff(node) == 0]
    if 4 * len(distances) < len(node):
        return None
    if not len(distances):
        return None
    usual = int(np.quantile(distances, 0.25))
    off = np.abs(distances - np.round(distances / usual) * usual)
    return usual if np.mean(off <= NEAR * usual) >= REGULAR else 1


def spelled(nanoseconds: int) -> str:
    """Spells a duration as `pipeline.step` is written: `1h`."""
    for unit, seconds in sorted(UNITS.items(), key=lambda pair: -pair[1]):
        if nanoseconds % (seconds * NANOSECONDS) == 0:
            return f"{nanoseconds // (seconds * NANOSECONDS)}{unit}"
    return f"{nanoseconds // MILLISECOND}ms"  # of which every step is a multiple
