"""The edges between nodes: which are joined, and how strongly; for models that look from one node at others.

edges/<id>/edges.json    sealed JSON: the nodes that edges name, and the hashes of
edges/<id>/index.i64     [2, E] int64, little-endian: from and to, as places among these nodes
edges/<id>/weights.f32   [E] float32, little-endian

Edges are sorted by from, then to. Legend: E edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.frozen.frozen_folders import (
    first_good,
    how_to_mend,
    publish_files,
    read_file,
    read_whole,
    refuse_other_id,
)
from dateshard.shardstore.identity import expected_form, hash_bytes, identity, seal, unseal


def _no_index() -> NDArray[np.int64]:
    return np.empty((2, 0), dtype=np.int64)


def _no_weights() -> NDArray[np.float32]:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class EdgeList:
    """Edges as places among their own nodes.

    Attributes:
        nodes: names that edges have, sorted.
        index_2E: int64, from and to. weights_E: float32.
    """

    nodes: tuple[str, ...] = ()
    index_2E: NDArray[np.int64] = field(default_factory=_no_index)
    weights_E: NDArray[np.float32] = field(default_factory=_no_weights)

    @property
    def id(self) -> str:
        """The id of the edges, made of their content; empty where there are none."""
        return identity(self.describe()) if self.nodes else ""

    def files(self) -> dict[str, bytes]:
        """Returns the two arrays as they lie on disk."""
        index, weights = np.ascontiguousarray(self.index_2E, "<i8"), np.ascontiguousarray(self.weights_E, "<f4")
        return {"index.i64": index.tobytes(), "weights.f32": weights.tobytes()}

    def describe(self) -> dict[str, Any]:
        """Returns the JSON form: the nodes, and bytes and hash of each array."""
        hashes = {name: [len(data), hash_bytes(data)] for name, data in self.files().items()}
        return {"nodes": list(self.nodes), "files": hashes}

    def on(self, nodes: Sequence[str]) -> EdgeList:
        """The edges as places among the nodes of a dataset; an edge of a node that is not there is left out."""
        place = {name: number for number, name in enumerate(nodes)}
        place_K = np.array([place.get(name, -1) for name in self.nodes], dtype=np.int64)
        index_2E = place_K[self.index_2E]
        there_E = (index_2E >= 0).all(axis=0)
        return EdgeList(tuple(nodes), index_2E[:, there_E], self.weights_E[there_E])


def save_edges(root: Path, edges: EdgeList) -> Path:
    """Publishes edges/<id>/ (not yet durable) and returns the folder."""
    files = {"edges.json": seal(edges.describe()), **edges.files()}
    return publish_files(root, root / "edges" / edges.id, files)


def load_edges(root: Path, folder_id: str) -> EdgeList:
    """Loads the edges of an id; an empty id has none.

    Raises:
        StoreError: missing or damaged.
    """
    return first_good(root / "edges" / folder_id, _load_edges) if folder_id else EdgeList()


def _load_edges(folder: Path) -> EdgeList:
    path = folder / "edges.json"
    content = unseal(read_file(path), str(path), how_to_mend())
    with expected_form(str(path), how_to_mend()):
        index, weights = (read_whole(folder / name, content["files"][name]) for name in ("index.i64", "weights.f32"))
        index_2E = np.frombuffer(index, dtype="<i8").reshape(2, -1).astype(np.int64)
        edges = EdgeList(tuple(content["nodes"]), index_2E, np.frombuffer(weights, dtype="<f4").astype(np.float32))
        if index_2E.shape[1] != len(edges.weights_E) or not (0 <= index_2E.min() <= index_2E.max() < len(edges.nodes)):
            raise ValueError(index_2E.shape)
        refuse_other_id(edges.id, folder)
        return edges
