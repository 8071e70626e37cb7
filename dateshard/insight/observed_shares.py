"""How much of each split was observed, in a line, and a warning where a split rests on almost nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from dateshard.shardstore.commit import load_sources
from dateshard.shardstore.coverage.observed import Counts, ObservedCells, by_split
from dateshard.shardstore.coverage.spacing import too_short_a_step
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.sources import SourceRow

THIN = 0.1  # of the training dates' observed share, below which a split is named


def short_step(dataset: Dataset) -> str:
    """Why the step is too short for the records; empty where it is not."""
    return too_short_a_step(dataset.root, dataset.generation, dataset.manifest, _rows(dataset))


def observed_cells(dataset: Dataset, features: Sequence[int]) -> dict[str, ObservedCells]:
    """Returns {split: its cells} of some features. Masks are read of those dates alone that an older version prepared."""

    def read(date: dt.date) -> Counts:
        return [int(count) for count in np.asarray(dataset.map(date, "observed")).sum(axis=(0, 1))]

    return by_split(dataset.manifest, _rows(dataset), features, read)


def _rows(dataset: Dataset) -> Mapping[dt.date, SourceRow]:
    """Reads the dates' rows of the sources file. Missing or damaged it is no hindrance to what only tells."""
    with suppress(StoreError):
        return load_sources(dataset.root, dataset.generation).dates
    return {}


def shares_line(cells: Mapping[str, ObservedCells], what: str = "cells") -> str:
    """Writes `observed cells: train 98 %, validation 0.1 %, test 97 %`; empty where nothing is known."""
    shares = ", ".join(f"{split} {percent(own)}" for split, own in cells.items())
    return f"observed {what}: {shares}" if shares else ""


def shares_of(cells: Mapping[str, ObservedCells]) -> dict[str, float]:
    """Returns the observed share of each split, for --json."""
    return {split: float(f"{own.share:.7g}") for split, own in cells.items()}


def percent(cells: ObservedCells) -> str:
    """A share that says 100 % of all cells alone and 0 % of none alone."""
    share = 100 * cells.share
    if cells.observed in (0, cells.cells):
        return f"{share:.0f} %"
    if share < 0.05:
        return "< 0.1 %"
    return f"{min(share, 99.9):.1f} %" if share < 1.5 or share > 99.4 else f"{share:.0f} %"


def thin_splits(cells: Mapping[str, ObservedCells]) -> list[str]:
    """A sentence for each split of which hardly anything was observed beside the training dates."""
    train = cells.get("train", ObservedCells(0, 0)).share
    return [
        f"{split} has only {own.observed:,} of its {own.cells:,} cells observed ({percent(own)}, of the training "
        f"dates {percent(cells['train'])}): set pipeline.split"
        for split, own in cells.items()
        if own.share < THIN * train
    ]
