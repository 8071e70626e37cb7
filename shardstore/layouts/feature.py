"""A feature: what becomes of one column between its records and a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

CALENDAR = "calendar"  # the aggregate of a feature that the date decides, and no record

TYPES: Mapping[str, tuple[type, ...]] = dict.fromkeys(
    ("name", "aggregate", "fill", "transform", "scale", "scale_per"), (str,)
) | {"fill_limit": (int, type(None)), "categorical": (bool,), "ahead": (int,), "future": (bool,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """All that decides a column's bytes in a shard, and whether it is known ahead.

    Attributes:
        fill_limit: most steps in a row that are filled after the last observed one, or after a date's start.
        clip: least and greatest value of a shard, in scaled units.
        ahead: nanoseconds of the interval that begins with a record, of whose records an event's value is an aggregate; 0
            where it is the record's own.
        categorical: cells are codes of a frozen vocabulary, 0 for an unseen category or none.
        future: whether its values are known ahead: of no shard's bytes, but of what a trainer may look at.
    """

    name: str
    aggregate: str = "mean"  # mean | sum | min | max | first | last | count | difference | gap | calendar
    fill: str = "none"  # none | zero | forward | mean
    fill_limit: int | None = None
    transform: str = "none"  # none | log1p
    scale: str = "zscore"  # none | zscore | minmax | robust
    scale_per: str = "feature"  # feature | node
    clip: tuple[float, float] | None = None
    categorical: bool = False
    ahead: int = 0
    future: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether every cell is observed, whatever records come."""
        return self.aggregate in ("count", CALENDAR)

    def to_json(self) -> dict[str, Any]:
        """Returns the form it has in a manifest: `clip`, `categorical`, `ahead` and `future` only where they are used."""
        content = asdict(self)
        clip, some = content.pop("clip"), {name: content.pop(name) for name in ("categorical", "ahead", "future")}
        if clip is not None:
            content["clip"] = list(clip)
        return content | {name: value for name, value in some.items() if value}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Feature:
        """The inverse of `to_json`.

        Raises:
            TypeError, ValueError: content that is no feature.
        """
        known = dict(content)
        if "clip" in known:
            low, high = known["clip"]
            known["clip"] = (float(low), float(high))
        feature = Feature(**known)
        if any(type(getattr(feature, name)) not in types for name, types in TYPES.items()):
            raise ValueError(content)
        return feature


def categorical(features: Sequence[Feature]) -> dict[int, str]:
    """Returns {place: name} of the categorical features."""
    return {index: feature.name for index, feature in enumerate(features) if feature.categorical}


def with_histogram(features: Sequence[Feature]) -> list[tuple[int, str]]:
    """Returns (place, per `feature` | `node`) of the features whose scale needs quantiles."""
    return [(index, feature.scale_per) for index, feature in enumerate(features) if feature.scale == "robust"]


def partial_settings(features: Sequence[Feature]) -> list[Any]:
    """What partial statistics depend on beside the staged cells, in JSON."""
    transforms, histograms = [feature.transform for feature in features], with_histogram(features)
    return [transforms, [list(row) for row in histograms]] if histograms else transforms
