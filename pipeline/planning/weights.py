"""How much dates hold, by which a split that nobody configured is chosen: an almost empty last date validates nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.splits import default_split
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.measured import load_parts, load_receipt
from dateshard.shardstore.scaling.transform import Floats

if TYPE_CHECKING:
    from dateshard.pipeline.acts import Measured
    from dateshard.pipeline.config import Pipeline
    from dateshard.pipeline.planning.plan import Observed, Plan
    from dateshard.shardstore.sources import SourceRow

Weights = dict[dt.date, int]


def weight_of(values_TNF: Floats, rows: Mapping[str, Any], config: Pipeline, *, first_part: bool = True) -> int:
    """The observed cells of a date; where all features are counts, which observe every cell, its rows.

    Those of its parts add up: the first has the rows."""
    numbers = [place for place, feature in enumerate(config.feature_specs()) if not feature.everywhere]
    if not numbers:
        return int(rows["accepted"]) if first_part else 0
    seen = cells_by_feature(np.isfinite(values_TNF))
    return sum(seen[place] for place in numbers)


def cells_by_feature(chosen_TNF: NDArray[np.bool_]) -> tuple[int, ...]:
    """How many cells of each feature are chosen. numpy's sum over two axes of bool takes twenty times as long."""
    return tuple(int(np.count_nonzero(chosen_TNF[..., place])) for place in range(chosen_TNF.shape[-1]))


def known_weights(seen: Observed, config: Pipeline) -> Weights:
    """Returns the weights of committed dates by the sources file, and of those that were measured just now."""
    weights = {
        date: _estimate(date, row, seen, config) if row.weight is None else row.weight
        for date, row in seen.sources.dates.items()
    }
    return {date: weight for date, weight in weights.items() if weight is not None} | {**seen.weights}


def _estimate(date: dt.date, row: SourceRow, seen: Observed, config: Pipeline) -> int | None:
    """Bounds the weight of a date that a version before 0051 prepared: a record falls into one cell of a feature."""
    entry = seen.manifest.dates.get(date) if seen.manifest else None
    rows = row.rows.get("accepted")
    if seen.manifest is None or entry is None or rows is None:
        return None
    features = sum(not feature.everywhere for feature in config.feature_specs())
    nodes = seen.manifest.num_nodes
    most = rows * features * (nodes if config.source.wide else 1)
    return min(entry.num_steps * nodes * features, most) if features else int(rows)


def all_weights(
    plan: Plan, seen: Observed, measured: Mapping[dt.date, Measured], config: Pipeline, root: Path
) -> Weights:
    """Returns the weights of all dates; {} where the split is configured or does not depend on them.

    Counts dates measured in this run, or in one that was killed before it committed."""
    dates = [date.date for date in plan.dates if date.state != "excluded"]
    if config.split is not None or not dates:
        return {}
    fresh = {date: receipt.weight for date, receipt in measured.items()}
    known = known_weights(seen, config)
    for date in plan.to_normalise:
        if date.date not in known | fresh and date.key in seen.staged[date.date]:
            with suppress(StoreError):  # it is measured again when it is asked for
                folder = root / "staged" / str(date.date) / date.key
                rows = load_receipt(folder)["rows"]
                each = [weight_of(own, rows, config, first_part=at.start == 0) for at, own in load_parts(folder)]
                fresh[date.date] = sum(each)
    same = default_split(dates, known | fresh) == plan.split
    return {**seen.weights} if same else fresh | {**seen.weights}
