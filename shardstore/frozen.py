"""What is frozen over the training dates: the node list with positions, and the global statistics.

A damaged folder stays as it is; what mends it is published beside it as <id>-2 and found there.

nodes/<id>/nodes.json             sealed JSON
statistics/<id>/statistics.json   sealed JSON, names the hash of
statistics/<id>/moments.f64       [6, N, F] float64, little-endian
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shardstore.commit import publish, staging_folder
from shardstore.errors import DamagedError, StoreError, Where
from shardstore.identity import expected_form, hash_bytes, identity, seal, unseal
from shardstore.statistics import Floats, PartialStatistics, Statistics

Loaded = TypeVar("Loaded")
REPAIR = "Run: dateshard preprocess -c CONFIG --refit-statistics"


@dataclass(frozen=True, slots=True)
class Nodes:
    """Names in the order of axis 1, sorted by their UTF-8 bytes; positions [N, P] float64 in `axes`, NaN if unknown."""

    names: tuple[str, ...]
    axes: tuple[str, ...]
    positions_NP: Floats

    @staticmethod
    def plain(names: Collection[str]) -> Nodes:
        """Nodes without positions, sorted."""
        ordered = sorted(set(names), key=str.encode)
        return Nodes(tuple(ordered), (), np.empty((len(ordered), 0)))

    def describe(self) -> dict[str, Any]:
        """JSON form; an unknown coordinate is null."""
        rows = [[None if math.isnan(x) else x for x in row] for row in self.positions_NP.tolist()]
        return {"names": list(self.names), "axes": list(self.axes), "positions": rows}

    @property
    def id(self) -> str:
        """By content."""
        return identity(self.describe())


def save_nodes(root: Path, nodes: Nodes) -> Path:
    """Publishes nodes/<id>/ (not yet durable) and returns the folder."""
    return _publish(root, root / "nodes" / nodes.id, {"nodes.json": seal(nodes.describe())})


def load_nodes(root: Path, folder_id: str) -> Nodes:
    """Raises:
    StoreError: missing or damaged.
    """
    return _first_good(root / "nodes" / folder_id, _load_nodes)


def _load_nodes(folder: Path) -> Nodes:
    path = folder / "nodes.json"
    content = unseal(_read(path), str(path), REPAIR)
    with expected_form(str(path), REPAIR):
        rows = [[math.nan if x is None else x for x in row] for row in content["positions"]]
        names, axes = tuple(content["names"]), tuple(content["axes"])
        nodes = Nodes(names, axes, np.asarray(rows, dtype=float).reshape(len(names), len(axes)))
        _refuse_other_id(nodes.id, folder)
        return nodes


def _refuse_other_id(found: str, folder: Path) -> None:
    """A folder is named by its content, a mended copy `<id>-2` likewise."""
    if found != folder.name.partition("-")[0]:
        raise ValueError(found)


def save_statistics(root: Path, statistics: Statistics) -> Path:
    """Publishes statistics/<id>/ (not yet durable) and returns the folder."""
    moments = np.ascontiguousarray(statistics.merged.moments_6NF, dtype="<f8").tobytes()
    content = {**statistics.describe(), "moments": [len(moments), hash_bytes(moments)]}
    files = {"statistics.json": seal(content), "moments.f64": moments}
    return _publish(root, root / "statistics" / statistics.id, files)


def load_statistics(root: Path, folder_id: str) -> Statistics:
    """Raises:
    StoreError: missing or damaged.
    """
    return _first_good(root / "statistics" / folder_id, _load_statistics)


def _load_statistics(folder: Path) -> Statistics:
    path = folder / "statistics.json"
    content = unseal(_read(path), str(path), REPAIR)
    moments_path = path.with_name("moments.f64")
    moments = _read(moments_path)
    with expected_form(str(path), REPAIR):
        if [len(moments), hash_bytes(moments)] != content["moments"]:
            what = "size or hash is not what was committed"
            raise DamagedError(what, where=Where(file=str(moments_path)), todo=REPAIR)
        array = np.frombuffer(moments, dtype="<f8").reshape(content["shape"])
        sources = tuple((dt.date.fromisoformat(date), partial) for date, partial in content["sources"])
        statistics = Statistics(tuple(content["features"]), PartialStatistics(array), sources)
        _refuse_other_id(statistics.id, folder)
        return statistics


def _first_good(folder: Path, load: Callable[[Path], Loaded]) -> Loaded:
    """What `load` gives of the folder, or of a later copy of it; the folder's own error where none is good."""
    try:
        return load(folder)
    except StoreError:
        for copy in sorted(folder.parent.glob(f"{folder.name}-*")):
            with suppress(StoreError):
                return load(copy)
        raise


def _publish(root: Path, final: Path, files: dict[str, bytes]) -> Path:
    with staging_folder(root) as folder:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return publish(root, folder, final, {name: (len(data), hash_bytes(data)) for name, data in files.items()})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=REPAIR) from None


def verify_frozen(root: Path, nodes: str, statistics: str) -> list[tuple[str, StoreError]]:
    """(path, error) of each frozen file that is missing or damaged."""
    found = []
    for load, name, label in ((load_nodes, nodes, "nodes"), (load_statistics, statistics, "statistics")):
        try:
            load(root, name)
        except StoreError as error:
            found.append((f"{label}/{name}", error))
    return found
