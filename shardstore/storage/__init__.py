"""Storage formats of a shard; each is one file. `zarr_raw` is the one that is mapped, and what training reads.

Every other one is a row of `STORAGES` and two pure functions, which `tests/contracts/test_storage.py` holds to:

    encode(arrays, about) -> bytes     {values, time[, observed]} of a date as one file
    decode(data) -> arrays             the same arrays, bit for bit

A store without Zarr is trained from through a cache in Zarr's form (`zarr_cache.py` beside this file).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.scale import Scale

STORAGES = {"parquet": "dateshard.shardstore.storage.parquet"}
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a dataset's files say of themselves beside their arrays; the same for every date of a generation.

    Attributes:
        step: nanoseconds.
        nodes: names, axis 1. begin: place of the first of them in the dataset's list, above 0 in a part of a date.
        ids: {nodes, statistics, vocabularies: id}; no vocabularies where no feature is categorical.
    """

    dataset: str
    timezone: str
    step: int
    features: tuple[Feature, ...]
    nodes: tuple[str, ...]
    ids: Mapping[str, str]
    scale: Scale
    begin: int = 0

    def of_nodes(self, first: int, last: int) -> About:
        """What the files of a date, or of its part, say that has these nodes alone."""
        if (first, last) == (0, len(self.nodes)):
            return self
        own = slice(first, last)
        return replace(self, nodes=self.nodes[own], scale=self.scale.nodes(own), begin=self.begin + first)

    def to_json(self) -> dict[str, Any]:
        """Returns all but the names of the nodes, whose id stands for them.

        raw = (scaled x spread + delta) + pivot, and then the transform undone; pivot, delta and spread are lists in the
        order of the nodes where `scale_per` is node."""
        scales = [self.scale.pivot_NF, self.scale.delta_NF, self.scale.spread_NF]
        features = []
        for index, feature in enumerate(self.features):
            per_node = feature.scale_per == "node"
            columns = [column[:, index].tolist() for column in scales]
            numbers = [column if per_node else (column[0] if column else 0.0) for column in columns]
            features.append(feature.to_json() | dict(zip(("pivot", "delta", "spread"), numbers, strict=True)))
        named = {"dataset": self.dataset, "timezone": self.timezone, "step": self.step, **self.ids}
        named |= {"first_node": self.begin} if self.begin else {}
        return named | {"features": features}


class Storage(Protocol):
    """A storage beside Zarr."""

    CODE: int  # raised by hand when the same arrays are laid out differently

    def encode(self, arrays: Arrays, about: About, date: dt.date) -> memoryview:
        """One file of a date."""
        ...

    def decode(self, data: memoryview) -> dict[str, NDArray[Any]]:
        """Decodes a date's arrays. Raises ValueError for bytes that are none of `encode`'s."""
        ...


def storage_of(name: str) -> Storage:
    """The storage of that name; imported on first use, for its library may be heavy."""
    return cast(Storage, import_module(STORAGES[name]))
