"""Nodes that a history says nothing of: a forecast there has no error that was ever measured, so it has no interval.

Legend: N nodes, F features, K targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.errors import counted, shorten
from dateshard.trainer.assessment.forecaster import Forecaster

NAMED = 10  # nodes that a note names


def known_targets(forecaster: Forecaster, seen_NF: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tells [..., N, K] whether the history holds a value of the target at the node; if it is no input, one of any input.

    Args:
        seen_NF: which features the history holds a value of, [..., N, F].
    """
    columns = forecaster.columns
    inputs = list(columns.inputs)
    measured = [place for place in inputs if not forecaster.dataset.features[place].everywhere] or inputs
    any_N = seen_NF[..., measured].any(axis=-1)
    return np.stack([seen_NF[..., place] if place in inputs else any_N for place in columns.targets], axis=-1)


def silent_nodes(forecaster: Forecaster, known_NK: NDArray[np.bool_]) -> dict[str, list[str]]:
    """Returns {target: nodes of which no value of it is in the history}, without targets that are known everywhere."""
    names, targets = forecaster.dataset.nodes.names, enumerate(target.name for target in forecaster.targets)
    silent = {target: [names[node] for node in np.flatnonzero(~known_NK[:, place])] for place, target in targets}
    return {target: nodes for target, nodes in silent.items() if nodes}


def silence(silent: Mapping[str, list[str]]) -> list[str]:
    """A sentence for all targets that the same nodes lack."""
    targets: dict[tuple[str, ...], list[str]] = {}
    for target, nodes in silent.items():
        targets.setdefault(tuple(nodes), []).append(target)
    return [
        f"{counted(len(nodes), 'node has', 'nodes have')} no value of {', '.join(of)} in the history: {some_names(nodes)}. "
        "Their forecasts are made from filled cells, so low and high are empty."
        for nodes, of in targets.items()
    ]


def some_names(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(map(shorten, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
