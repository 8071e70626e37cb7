"""What a feature's value never goes beyond: a forecast that does is moved to the bound, wherever forecasts are made.

Legend: N nodes, F numeric targets, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, Where
from dateshard.shardstore.scaling.transform import Floats, transform
from dateshard.trainer.config import Trainer
from dateshard.trainer.optimization.count_likelihood import COUNTS
from dateshard.trainer.optimization.objective import Head, points_of

INFINITE = (None, None)


def refuse_bounds(config: Trainer, dataset: Dataset) -> None:
    """Refuses bounds that no number of the dataset can have.

    Raises:
        UsageError: bounds of a feature that is not there, or of a category.
    """
    for name in config.bounds:
        what = "" if name in dataset.feature_names else f"the dataset has no feature '{name}'"
        if not what and dataset.features[dataset.feature_names.index(name)].categorical:
            what = f"'{name}' is a category"
        if what:
            where = Where(file=str(dataset.root))
            raise UsageError(f"trainer.bounds: {what}", where=where, todo="Correct the configuration")


def bounds_of(config: Trainer, dataset: Dataset, places: Sequence[int]) -> Floats:
    """Returns [2, F] least and largest raw value of some features; infinite where there is none.

    A count is never below 0, nor is the growth of a counter, nor a log1p feature that training never saw below 0.
    """
    bounds = np.empty((2, len(places)))
    least_F = dataset.statistics.over_nodes[4]
    for column, place in enumerate(places):
        feature = dataset.features[place]
        never = feature.aggregate in ("count", "difference") or (feature.transform == "log1p" and least_F[place] >= 0)
        low, high = config.bounds.get(feature.name, INFINITE)
        bounds[:, column] = (
            max(-np.inf if low is None else low, 0.0 if never else -np.inf),
            np.inf if high is None else high,
        )
    return bounds


def scaled_bounds(config: Trainer, dataset: Dataset, places: Sequence[int]) -> torch.Tensor | None:
    """Returns the bounds in scaled units, [2, N, F]; None where no feature has a bound."""
    raw_2F = bounds_of(config, dataset, places)
    if not np.isfinite(raw_2F).any():
        return None
    scale = dataset.scale.of(places)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved_2F = transform(raw_2F, [dataset.features[place].transform for place in places])
    moved_2F = np.where(np.isnan(moved_2F), [[-np.inf], [np.inf]], moved_2F)  # of a logarithm what has none
    return torch.from_numpy(np.stack([scale.apply(end_F) for end_F in moved_2F])).float()


def clamped(
    outputs: Mapping[str, torch.Tensor], heads: Sequence[Head], bounds_2NF: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """A model's outputs by head, all that are values of a number moved into its bounds, which are in the order of the heads."""
    moved, at = dict(outputs), 0
    for head in heads:
        if head.loss != "cross_entropy":
            if (
                head.name in moved and bounds_2NF is not None and head.loss not in COUNTS
            ):  # whose channels are no values
                width = moved[head.name].shape[-1] // len(head.targets)
                low, high = bounds_2NF[:, :, at : at + len(head.targets)].repeat_interleave(width, dim=-1)
                moved[head.name] = moved[head.name].clamp(low, high)
            at += len(head.targets)
    return moved


def points_within(
    outputs: Mapping[str, torch.Tensor], heads: Sequence[Head], bounds_2NF: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """The forecast by head that `clamped` outputs hold; the means of counts are moved into their bounds as well."""
    points, at = points_of(outputs, heads), 0
    for head in heads:
        if head.loss in COUNTS and bounds_2NF is not None and head.name in points:
            points[head.name] = points[head.name].clamp(*bounds_2NF[:, :, at : at + len(head.targets)])
        at += len(head.targets) if head.loss != "cross_entropy" else 0
    return points
