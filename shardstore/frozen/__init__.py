"""What is frozen over the training dates: the node list with positions, vocabularies, and the global statistics.

A damaged folder stays as it is; what mends it is published beside it as <id>-2 and found there.

nodes/<id>/nodes.json             sealed JSON
statistics/<id>/statistics.json   sealed JSON, names the hash of
statistics/<id>/moments.f64       [6, N, F] float64, little-endian
statistics/<id>/histogram.i64     [4, K] int64, little-endian; only where a scale needs quantiles
vocabularies/<id>/vocabularies.json   sealed JSON; only where a feature is categorical
static/<id>/static.json           sealed JSON; only where the node table has static columns
new_nodes/<id>/nodes.json         sealed JSON; only where nodes that training never saw are kept
edges/<id>/edges.json             sealed JSON, names the hashes of index.i64 and weights.f32; only where there are edges
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.frozen.edges import load_edges
from dateshard.shardstore.frozen.frozen_folders import (
    first_good,
    how_to_mend,
    publish_files,
    read_file,
    read_whole,
    refuse_other_id,
)
from dateshard.shardstore.frozen.static_columns import load_static
from dateshard.shardstore.identity import expected_form, hash_bytes, identity, seal, unseal
from dateshard.shardstore.layouts.category_codes import sorted_names
from dateshard.shardstore.scaling.histogram import Histogram
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.scaling.transform import Floats

STATISTICS_FILE = "statistics.json"


@dataclass(frozen=True, slots=True)
class Nodes:
    """Names in the order of axis 1, sorted by their UTF-8 bytes; positions [N, P] float64 in `axes`, NaN if unknown."""

    names: tuple[str, ...]
    axes: tuple[str, ...]
    positions_NP: Floats

    @staticmethod
    def plain(names: Collection[str]) -> Nodes:
        """Nodes without positions, sorted."""
        ordered = sorted_names(names)
        return Nodes(ordered, (), np.empty((len(ordered), 0)))

    def positions_of(self, names: Sequence[str]) -> Nodes:
        """The named nodes in this order, with the positions that are known here."""
        place = {name: number for number, name in enumerate(self.names)}
        rows = [place.get(name, len(self.names)) for name in names]
        known_NP = np.vstack([self.positions_NP, np.full((1, len(self.axes)), np.nan)])
        return Nodes(tuple(names), self.axes, known_NP[rows])

    def joined(self, new: Nodes) -> Nodes:
        """These nodes, and behind them the new ones."""
        if not new.names:
            return self
        return Nodes((*self.names, *new.names), self.axes, np.vstack([self.positions_NP, new.positions_NP]))

    def describe(self) -> dict[str, Any]:
        """Returns the JSON form, in which an unknown coordinate is null."""
        unknown_NP = np.isnan(self.positions_NP)
        known_NP: NDArray[Any] = self.positions_NP
        if unknown_NP.any():
            known_NP = known_NP.astype(object)
            known_NP[unknown_NP] = None
        return {"names": list(self.names), "axes": list(self.axes), "positions": known_NP.tolist()}

    @property
    def id(self) -> str:
        """The id of a node list, made of its content."""
        return identity(self.describe())


NO_NODES = Nodes((), (), np.empty((0, 0)))


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """The categories of each categorical feature over the training dates, sorted by their UTF-8 bytes.

    The code of `names[feature][k]` is k + 1; code 0 is a category that no training date has, or none.
    """

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of the vocabularies, made of their content; empty where no feature is categorical."""
        return identity(self.describe()) if self.names else ""

    def describe(self) -> dict[str, list[str]]:
        """Returns the JSON form: the names of each feature's categories."""
        return {feature: list(names) for feature, names in self.names.items()}


@dataclass(frozen=True, slots=True)
class Frozen:
    """What every shard of a generation rests on.

    `new_nodes`: those that training never saw, in the order in which they came; they stand behind the frozen list.
    """

    nodes: Nodes
    vocabularies: Vocabularies
    statistics: Statistics
    new_nodes: Nodes = NO_NODES


def save_frozen(root: Path, frozen: Frozen) -> list[Path]:
    """Publishes all of it (not yet durable) and returns the folders."""
    folders = [save_statistics(root, frozen.statistics), save_nodes(root, frozen.nodes)]
    return folders + ([save_vocabularies(root, frozen.vocabularies)] if frozen.vocabularies.names else [])


def load_frozen(root: Path, statistics: str, nodes: str | Nodes, vocabularies: str) -> Frozen:
    """Loads what a generation froze by its ids; a node list that is at hand may be given instead of its id.

    Raises:
        StoreError: missing or damaged.
    """
    nodes = load_nodes(root, nodes) if isinstance(nodes, str) else nodes
    return Frozen(nodes, load_vocabularies(root, vocabularies), load_statistics(root, statistics))


def save_nodes(root: Path, nodes: Nodes, kind: str = "nodes") -> Path:
    """Publishes nodes/<id>/, or another `kind` of list as `new_nodes` (not yet durable), and returns the folder."""
    return publish_files(root, root / kind / nodes.id, {"nodes.json": seal(nodes.describe())})


def load_nodes(root: Path, folder_id: str) -> Nodes:
    """Loads the node list of an id.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "nodes" / folder_id, _load_nodes)


def _load_nodes(folder: Path) -> Nodes:
    path = folder / "nodes.json"
    content = unseal(read_file(path), str(path), how_to_mend())
    with expected_form(str(path), how_to_mend()):
        names, axes = tuple(content["names"]), tuple(content["axes"])
        positions_NP = np.asarray(content["positions"], dtype=float).reshape(len(names), len(axes))  # null becomes NaN
        nodes = Nodes(names, axes, positions_NP)
        refuse_other_id(nodes.id, folder)
        return nodes


def load_new_nodes(root: Path, folder_id: str) -> Nodes:
    """Loads the nodes behind the frozen list; an empty id has none.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "new_nodes" / folder_id, _load_nodes) if folder_id else NO_NODES


def save_vocabularies(root: Path, vocabularies: Vocabularies) -> Path:
    """Publishes vocabularies/<id>/ (not yet durable) and returns the folder."""
    files = {"vocabularies.json": seal(vocabularies.describe())}
    return publish_files(root, root / "vocabularies" / vocabularies.id, files)


def load_vocabularies(root: Path, folder_id: str) -> Vocabularies:
    """Loads the vocabularies of an id; an empty id has none.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "vocabularies" / folder_id, _load_vocabularies) if folder_id else Vocabularies()


def _load_vocabularies(folder: Path) -> Vocabularies:
    path = folder / "vocabularies.json"
    content = unseal(read_file(path), str(path), how_to_mend())
    with expected_form(str(path), how_to_mend()):
        vocabularies = Vocabularies({feature: tuple(names) for feature, names in content.items()})
        refuse_other_id(vocabularies.id, folder)
        return vocabularies


def save_statistics(root: Path, statistics: Statistics) -> Path:
    """Publishes statistics/<id>/ (not yet durable) and returns the folder."""
    moments = np.ascontiguousarray(statistics.merged.moments_6NF, dtype="<f8").tobytes()
    files = {"moments.f64": moments}
    if statistics.merged.histogram.rows_4K.size:
        files["histogram.i64"] = statistics.merged.histogram.to_bytes()
    hashes = {name.partition(".")[0]: [len(data), hash_bytes(data)] for name, data in files.items()}
    files[STATISTICS_FILE] = seal({**statistics.describe(), **hashes})
    return publish_files(root, root / "statistics" / statistics.id, files)


def load_statistics(root: Path, folder_id: str) -> Statistics:
    """Loads the statistics of an id.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "statistics" / folder_id, _load_statistics)


def _load_statistics(folder: Path) -> Statistics:
    path = folder / STATISTICS_FILE
    content = unseal(read_file(path), str(path), how_to_mend())
    with expected_form(str(path), how_to_mend()):
        moments = read_whole(path.with_name("moments.f64"), content["moments"])
        array = np.frombuffer(moments, dtype="<f8").reshape(content["shape"])
        histogram = Histogram()
        if "histogram" in content:
            histogram = Histogram.from_bytes(read_whole(path.with_name("histogram.i64"), content["histogram"]))
        sources = tuple((dt.date.fromisoformat(date), partial) for date, partial in content["sources"])
        statistics = Statistics(tuple(content["features"]), PartialStatistics(array, histogram), sources)
        refuse_other_id(statistics.id, folder)
        return statistics


def merged_dates(root: Path, folder_id: str) -> tuple[dt.date, ...]:
    """The dates that statistics were merged over, without their moments.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "statistics" / folder_id, _merged_dates)


def _merged_dates(folder: Path) -> tuple[dt.date, ...]:
    path = folder / STATISTICS_FILE
    content = unseal(read_file(path), str(path), how_to_mend())
    with expected_form(str(path), how_to_mend()):
        return tuple(dt.date.fromisoformat(date) for date, _ in content["sources"])


LOADS: dict[str, Callable[[Path, str], object]] = {
    "nodes": load_nodes,
    "statistics": load_statistics,
    "vocabularies": load_vocabularies,
    "static": load_static,
    "edges": load_edges,
    "new_nodes": load_new_nodes,
}


def verify_frozen(root: Path, ids: Mapping[str, str]) -> dict[str, StoreError | None]:
    """What is wrong with each frozen folder, by its name.

    Args:
        ids: {kind: id}, as a manifest names them.
    """
    errors: dict[str, StoreError | None] = {}
    for kind, folder_id in ids.items():
        errors[f"{kind}/{folder_id}"] = None
        try:
            LOADS[kind](root, folder_id)
        except StoreError as error:
            errors[f"{kind}/{folder_id}"] = error
    return errors
