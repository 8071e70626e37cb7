"""How far figures of several trainings lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dateshard.documents.backtesting import Spread


def spread_of(values: Sequence[float | None]) -> Spread:
    """Mean, standard deviation (of n - 1) and range of those figures that exist."""
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "deviation": stdev(known) if len(known) > 1 else None,
        "lowest": min(known, default=None),
        "highest": max(known, default=None),
    }
