"""Which share of a split's observed targets lies inside the intervals: by target, node, hour of day and month.

Legend: B batch, P target steps, N nodes, F numeric targets, G groups: nodes, hours or months.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.trainer.metrics.raw_errors import HOURS

FEWEST_TARGETS = 100  # of a group that is named
FAR = 0.05  # from the level, from which on the worst group is named
Counts = NDArray[np.int64]
Cells = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Counts how many of a split's observed targets lie inside their intervals.

    Attributes:
        by_node, by_hour, by_month: {nodes | hours | months: their names, target: {targets: [G], inside: [G]}}; hours of
            the local day and months of the target steps; None where it was not counted.
    """

    split: str
    windows: int
    of: int
    targets: int
    inside: int
    by_feature: dict[str, float | None]
    by_node: dict[str, Any] | None = None
    by_hour: dict[str, Any] | None = None
    by_month: dict[str, Any] | None = None

    @property
    def share(self) -> float | None:
        """Returns the share that lies inside; None where nothing was observed."""
        return self.inside / self.targets if self.targets else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A node, an hour or a month of one target, and which share of its observed targets lies inside."""

    kind: str
    target: str
    name: str
    share: float
    targets: int


def worst(coverage: Coverage, level: float) -> list[Group]:
    """Returns for each kind the group furthest from the level, if it is `FAR` off and has `FEWEST_TARGETS`."""
    furthest = []
    for kind, groups in (("node", coverage.by_node), ("hour", coverage.by_hour), ("month", coverage.by_month)):
        ranked = _furthest(kind, groups or {}, level)
        if ranked:
            chosen = max(ranked, key=lambda group: abs(group.share - level))
            furthest += [chosen] if abs(chosen.share - level) >= FAR else []
    return furthest


def _furthest(kind: str, groups: Mapping[str, Any], level: float) -> list[Group]:
    """Names each target's group that is furthest from the level, of those with `FEWEST_TARGETS`."""
    chosen = []
    for target in [name for name in groups if name != f"{kind}s"]:
        targets_G, inside_G = (np.asarray(groups[target][key], dtype=np.int64) for key in ("targets", "inside"))
        counted = np.flatnonzero(targets_G >= FEWEST_TARGETS)
        if counted.size:
            shares = inside_G[counted] / targets_G[counted]
            place = np.abs(shares - level).argmax()
            at = int(counted[place])
            name = str(groups[f"{kind}s"][at])
            chosen.append(
                Group(kind=kind, target=target, name=name, share=float(shares[place]), targets=int(targets_G[at]))
            )
    return chosen


@dataclass(slots=True, kw_only=True)
class CoverageTally:
    """Counts of observed targets, and of those inside.

    Memory: 16 bytes a target and node, hour and date.

    Args:
        dates: of the dataset's days. names: of the numeric targets.
    """

    nodes: Sequence[str]
    dates: Sequence[dt.date]
    names: Sequence[str]
    by_node: Counts = field(init=False)
    by_hour: Counts = field(init=False)
    by_day: Counts = field(init=False)

    def __post_init__(self) -> None:
        features = len(self.names)
        self.by_node, self.by_hour, self.by_day = (
            np.zeros((2, size, features), dtype=np.int64) for size in (len(self.nodes), HOURS, len(self.dates))
        )

    def add(self, seen: Cells, inside: Cells, hours_BP: Counts, day_BP: Counts) -> None:
        """Adds [B, P, N, F] cells that were observed, and those of them inside."""
        for row, cells in enumerate((seen, inside)):
            self.by_node[row] += cells.sum((0, 1))
            by_step = np.einsum("bpnf->bpf", cells, dtype=np.int64).reshape(-1, len(self.names))
            for groups, place in ((self.by_hour[row], hours_BP.ravel()), (self.by_day[row], day_BP.ravel())):
                np.add.at(groups, place, by_step)

    def coverage(self, split: str, windows: int, of: int) -> Coverage:
        """What was counted."""
        targets, inside = self.by_node.sum(1)
        shares = {name: float(i / n) if n else None for name, n, i in zip(self.names, targets, inside, strict=True)}
        months = sorted(
            {f"{date:%Y-%m}" for date, count in zip(self.dates, self.by_day[0].sum(1), strict=True) if count}
        )
        by_month = np.zeros((2, len(months), len(self.names)), dtype=np.int64)
        place = {month: index for index, month in enumerate(months)}
        for index, date in enumerate(self.dates):
            if (month := f"{date:%Y-%m}") in place:
                by_month[:, place[month]] += self.by_day[:, index]
        return Coverage(
            split=split,
            windows=windows,
            of=of,
            targets=int(targets.sum()),
            inside=int(inside.sum()),
            by_feature=shares,
            by_node={"nodes": list(self.nodes), **self._columns(self.by_node)},
            by_hour={"hours": list(range(HOURS)), **self._columns(self.by_hour)},
            by_month={"months": months, **self._columns(by_month)},
        )

    def _columns(self, counts_2GF: Counts) -> dict[str, dict[str, list[int]]]:
        return {
            name: {"inside": counts_2GF[1, :, index].tolist(), "targets": counts_2GF[0, :, index].tolist()}
            for index, name in enumerate(self.names)
        }
