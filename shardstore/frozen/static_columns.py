"""The static columns of a node table: what belongs to a node and does not change, kept once for all dates.

static/<id>/static.json   sealed JSON: the nodes of the table, and of each column its name and raw values

What a model sees is scaled over the nodes of training, and made when a dataset is opened: a table that changes makes no
shard anew. Legend: N nodes of a dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.frozen.frozen_folders import (
    first_good,
    how_to_mend,
    publish_files,
    read_file,
    refuse_other_id,
)
from dateshard.shardstore.identity import expected_form, identity, seal, unseal
from dateshard.shardstore.layouts.category_codes import sorted_names

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class StaticTable:
    """The static columns of all nodes of a node table, as they are written there; None where a value is missing.

    Attributes:
        nodes: names, sorted.
        numbers, texts: {column: a value for each node}.
    """

    nodes: tuple[str, ...] = ()
    numbers: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of the columns, made of their content; empty where there are none."""
        return identity(self.describe()) if self.names else ""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns by name, sorted."""
        return tuple(sorted([*self.numbers, *self.texts]))

    def describe(self) -> dict[str, Any]:
        """Returns the JSON form."""
        columns = {"numbers": self.numbers, "texts": self.texts}
        described = {kind: {name: list(own) for name, own in named.items()} for kind, named in columns.items()}
        return {"nodes": list(self.nodes), **described}


@dataclass(frozen=True, slots=True)
class StaticColumn:
    """One static column on the nodes of a dataset.

    Attributes:
        values_N: float32 numbers, scaled to mean 0 and spread 1 over the nodes of training, 0 where one is missing; or
            int64 codes of texts, 0 for one that is missing or that no node of training has.
        observed_N: bool, which values there are.
        categories: of texts, those of the nodes of training, sorted; the code of the k-th is k + 1.
        complete: no node of training lacks its value.
    """

    values_N: NDArray[Any]
    observed_N: NDArray[np.bool_]
    categories: tuple[str, ...] = ()
    complete: bool = True


def place_columns(table: StaticTable, nodes: Sequence[str], trained_N: NDArray[np.bool_]) -> dict[str, StaticColumn]:
    """The columns on the nodes of a dataset, by name; nothing of a node that training never saw decides a scale.

    Args:
        trained_N: which nodes have an observed cell on a training date.

    Raises:
        UsageError: a column has no value at any node of training, or one that float32 cannot hold scaled.
    """
    place = {name: number for number, name in enumerate(table.nodes)}
    rows = [place.get(name) for name in nodes]
    placed: dict[str, StaticColumn] = {}
    for name in table.names:
        own = table.numbers[name] if name in table.numbers else table.texts[name]
        values = [None if row is None else own[row] for row in rows]
        observed_N = np.array([value is not None for value in values], dtype=np.bool_)
        if not (observed_N & trained_N).any():
            what = f"the static column '{name}' has no value at any node that the training dates have"
            raise UsageError(what, todo="Correct the node table, or leave it out of pipeline.nodes.static")
        complete = bool(observed_N[trained_N].all())
        known_N = observed_N & trained_N
        if name in table.texts:
            codes_N, categories = _coded(list(map(str, values)), observed_N, known_N)
            placed[name] = StaticColumn(codes_N, observed_N, categories, complete)
        else:
            placed[name] = StaticColumn(_scaled(name, values, observed_N, known_N), observed_N, (), complete)
    return placed


def _coded(
    texts: Sequence[str], observed_N: NDArray[np.bool_], known_N: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    categories = sorted_names({text for text, known in zip(texts, known_N, strict=True) if known})
    code = {category: number for number, category in enumerate(categories, start=1)}
    pairs = zip(texts, observed_N, strict=True)
    return np.array([code.get(text, 0) if there else 0 for text, there in pairs], dtype=np.int64), categories


def _scaled(
    name: str, values: Sequence[Any], observed_N: NDArray[np.bool_], known_N: NDArray[np.bool_]
) -> NDArray[np.float32]:
    raw_N = np.array([0.0 if value is None else value for value in values], dtype=np.float64)
    known = raw_N[known_N]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = known.mean()
        spread = known.std()
        if not spread > 8 * np.finfo(np.float64).eps * abs(mean):  # a constant, but for rounding
            spread = np.float64(1.0)
        scaled_N = np.where(observed_N, (raw_N - mean) / spread, 0.0)
        fits = np.abs(scaled_N) <= LARGEST
    if not fits.all():
        what = f"the static column '{name}' has {float(raw_N[~fits][0])!r}, which float32 cannot hold scaled"
        raise UsageError(what, todo="Correct the node table, or leave it out of pipeline.nodes.static")
    return scaled_N.astype(np.float32)


def save_static(root: Path, table: StaticTable) -> Path:
    """Publishes static/<id>/ (not yet durable) and returns the folder."""
    return publish_files(root, root / "static" / table.id, {"static.json": seal(table.describe())})


def load_static(root: Path, folder_id: str) -> StaticTable:
    """Loads the static columns of an id; an empty id has none.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "static" / folder_id, _load_static) if folder_id else StaticTable()


def _load_static(folder: Path) -> StaticTable:
    path = folder / "static.json"
    content = unseal(read_file(path), str(path), how_to_mend())
    with expected_form(str(path), how_to_mend()):
        table = StaticTable(tuple(content["nodes"]), content["numbers"], content["texts"])
        refuse_other_id(table.id, folder)
        return table
