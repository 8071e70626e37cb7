"""Which targets are counts, as far as the data tell: their aggregate, the statistics of the training dates, and one date."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.scaling.transform import untransform
from dateshard.trainer.optimization.count_likelihood import COUNTS, CountScale
from dateshard.trainer.optimization.objective import Head, Target

WHOLE = 2.0**-20  # of a value's size: what rounding may have moved a whole number by


def refuse_no_counts(dataset: Dataset, places: Sequence[int], targets: Sequence[Target], heads: Sequence[Head]) -> None:
    """Refuses a loss of counts for a target that may be negative or a fraction.

    Args:
        places: of the targets among the dataset's features.

    Raises:
        UsageError: naming the target and its least value.
    """
    for head in heads:
        for target in head.targets if head.loss in COUNTS else ():
            scale, place = targets[target].scale, places[target]
            assert scale is not None, "a category has another loss"
            feature = dataset.features[place]
            least, most = untransform(dataset.statistics.over_nodes[4:6, [place]], [feature.transform])[:, 0].tolist()
            if why := _no_count(dataset, place, scale, (least, most)):
                least_value = f"its least training value is {least:.6g}"
                what = f"loss {head.loss} is for counts, and '{feature.name}' is none: {why}; {least_value}"
                raise UsageError(what, todo="Take loss: quantile; or forecast a count, or a sum of whole numbers")


def _no_count(dataset: Dataset, place: int, scale: CountScale, ends: tuple[float, float]) -> str:
    """Why a feature is no count; empty if nothing tells that."""
    if ends[0] < -WHOLE:
        return "a value may be negative"
    if dataset.features[place].aggregate == "mean":
        return "a mean of records may be a fraction"
    fractions = [end for end in ends if abs(end - round(end)) > WHOLE * max(1.0, abs(end))]
    fractions += _fractions(dataset, place, scale)
    return f"{fractions[0]:.6g} is no whole number" if fractions else ""


def _fractions(dataset: Dataset, place: int, scale: CountScale) -> list[float]:
    """Returns a value of the first training date that is no whole number, if there is one."""
    day = next((day for day in dataset.days if dataset.manifest.split_of(day.date) == "train"), None)
    if day is None:
        return []
    values, seen = dataset.read_day(day)
    scaled = torch.from_numpy(values[..., place])
    away = (scale.scaled(scale.raw(scaled)) - scaled).abs()
    wrong = (away > WHOLE * scaled.abs().clamp(min=1.0)).numpy() & seen[..., place]
    raw = untransform(dataset.scale.undo(values), [feature.transform for feature in dataset.features])
    return [float(value) for value in raw[..., place][wrong][:1]]
