"""Whether rows are cells of a grid, events or a table; what names their node; and how far apart they are.

Legend: R rows of the sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.insight.first_look.dialect import INVENTED
from dateshard.insight.first_look.own_files import shared_start
from dateshard.insight.first_look.rows_sample import FILE
from dateshard.insight.first_look.sampled_columns import Column
from dateshard.insight.first_look.times_guess import Times
from dateshard.shardstore.coverage.spacing import NEAR, REGULAR, spelled
from dateshard.shardstore.times.calendar import MILLISECOND

DAY, SECOND = 86_400 * 10**9, 10**9
STEPS = tuple(
    [k * MILLISECOND for k in (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 200, 250, 500)]
    + [k * SECOND for k in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)]
    + [k * 60 * SECOND for k in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60, 120, 180, 240, 360, 480, 720, 1440)]
)
TWICE = 0.02  # of the rows may have the time of another one of their node
SHARED = 0.3  # of the rows have the time of another one, where there are nodes; with fewer it is chance
CROSSED = 0.7  # of all pairs of a time and a node have a row
COVERED = 0.2  # of the steps of its dates a node has at least, or its rows are sessions
ALIKE = 5.0  # times larger or smaller than that of most columns is the size of others at most: they are one quantity
MANY_ROWS = 20  # of each node
FEWEST, MANY = 3, 8  # columns that may be nodes: where their names are numbered, and where they are not
NODE_NAMED = re.compile(
    r"node|sensor|station|site|device|meter|host|server|cell|detector|location|place|city|machine|turbine|zone|region|"
    r"store|shop|plant|building|customer|client|unit_?id|entity|series|name$|symbol|ticker|item",
    re.IGNORECASE,
)
CUT_NAMED = re.compile(
    r"session|subject|trial|participant|patient|person|trip|ride|recording|episode|flight_id", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What rows are.

    Attributes:
        name: grid, events or table. step: of a grid, in nanoseconds.
        keys: of `pipeline.source`: node, wide or cut, and others that go with them. columns: those that they take.
        by_node: the name of a file is its node.
        seen: {what: from what it was guessed}. doubts: (what is unsure, which key to change).
        num_names: nodes, or cuts, of the sample; 0 where nothing names any. records: of a cut, or a date, usually.
        covered: the share of the steps of a date that usually have a row.
    """

    name: str
    step: int = 0
    keys: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    by_node: bool = False
    seen: dict[str, str] = field(default_factory=dict)
    doubts: tuple[tuple[str, str], ...] = ()
    num_names: int = 0
    records: int = 0
    covered: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows that have a time, each once.

    Attributes:
        pieces: stretches of each file that they are of.
    """

    time_R: NDArray[np.int64]
    file_R: NDArray[np.int64]
    frame: pl.DataFrame
    pieces: int

    def share_twice(self, *others: str) -> float:
        """The share of rows that have the time, and the values of some columns, of another row."""
        keys = pl.DataFrame({"\0time": self.time_R, FILE: self.file_R}).hstack(self.frame.select(others))
        same = [*others, "\0time", *([FILE] if FILE in others else [])]
        return 1 - keys.select([*dict.fromkeys(same)]).n_unique() / max(1, len(self.time_R))


def table_layout() -> Layout:
    """Rows that have no time."""
    return Layout(name="table", seen={"layout": "no column holds times: rows are independent of each other"})


def guess_layout(
    frame: pl.DataFrame, columns: Mapping[str, Column], times: Times, pieces: int, several: bool
) -> Layout:
    """Guesses what rows with a time are.

    Args:
        columns: all but those of the time. pieces: of each file, that rows were taken from.
        several: files of the same dates are beside each other, so that a file's name may be its node.
    """
    once = frame.with_columns(pl.Series("\0time", times.instant_R)).filter(pl.Series(times.valid_R))
    once = once.unique(maintain_order=True)
    time_R, file_R = once["\0time"].to_numpy(), once[FILE].to_numpy()
    rows = _Rows(time_R=time_R, file_R=file_R, frame=once.drop("\0time", FILE), pieces=pieces)
    if several and _same_times(rows) and not _node(rows, columns):
        return _by_file(rows, columns)
    if rows.share_twice() < SHARED:
        return _one_stream(rows, columns)
    name = _node(rows, columns)
    if name is None:
        why = "rows have the time of another row, and no column tells them apart"
        return _events(rows, columns, why, doubt="a row is a record of its own; to aggregate them by step and node")
    return _of_nodes(rows, columns, name)


def _same_times(rows: _Rows) -> bool:
    """Whether files overlap in time."""
    ends = sorted(
        (rows.time_R[rows.file_R == k].min(), rows.time_R[rows.file_R == k].max()) for k in np.unique(rows.file_R)
    )
    return any(low < high for (_, high), (low, _) in pairwise(ends))


def _node(rows: _Rows, columns: Mapping[str, Column]) -> str | None:
    """The column by whose values, with the time, rows are told apart."""
    candidates = [
        column for column in columns.values() if _may_name(column, len(rows.time_R)) or _crosses(rows, column)
    ]
    shares = {column.name: rows.share_twice(column.name) for column in candidates}
    good = [column for column in candidates if shares[column.name] <= TWICE]
    ranks = {column.name: (bool(NODE_NAMED.search(column.name)), column.numbers is None) for column in good}
    return max(ranks, key=ranks.__getitem__, default=None) if good else None


def _crosses(rows: _Rows, column: Column) -> bool:
    """Whether nearly every value of a column stands beside nearly every time, as numbers of nodes do."""
    num_times = len(np.unique(rows.time_R))
    return column.is_whole and column.distinct > 1 and len(rows.time_R) >= CROSSED * num_times * column.distinct


def _may_name(column: Column, num_rows: int) -> bool:
    few = 1 < column.distinct <= max(2, num_rows // 2)
    named = (
        NODE_NAMED.search(column.name)
        or CUT_NAMED.search(column.name)
        or re.search(r"_?id$", column.name, re.IGNORECASE)
    )
    return few and (column.numbers is None or (column.is_whole and bool(named))) and column.texts.null_count() == 0


def _by_file(rows: _Rows, columns: Mapping[str, Column]) -> Layout:
    """The name of a file is its node."""
    step, covered = _step(rows, rows.file_R)
    number = len(np.unique(rows.file_R))
    seen = {"node": f"{number} files of the same times and columns: each is a node, by its name"}
    if not step:
        step, seen["step"] = (
            _usual_step(rows, rows.file_R),
            "rows come at no regular distance; the usual one, four times",
        )
    doubts = (("files of the same times are taken for one node each", "pipeline.source.path"),)
    seen.setdefault("step", f"rows of a file are {spelled(step)} apart")
    return Layout(name="grid", step=step, by_node=True, seen=seen, doubts=doubts, num_names=number, covered=covered)


def _one_stream(rows: _Rows, columns: Mapping[str, Column]) -> Layout:
    """Rows that follow each other in time: sessions, one node, or a column a node."""
    alone = np.zeros(len(rows.time_R), dtype=np.int64)
    if cut := _cut(rows, columns):
        return _events(rows, columns, f"rows of one {cut} follow each other, with a pause before the next", cut=cut)
    step, covered = _step(rows, alone)
    if not step:
        if name := _named_node(columns, len(rows.time_R)):
            return _of_nodes(rows, columns, name)
        return _events(rows, columns, "rows come at no regular distance", doubt="for values at equal steps instead")
    if covered < COVERED:
        why = f"rows are {spelled(step)} apart, and only {100 * covered:.0f} % of a date has any: recordings"
        return _events(rows, columns, why)
    seen = {"step": f"rows are {spelled(step)} apart"}
    if wide := _wide(columns):
        pattern, names, sure = wide
        alike = "have numbered names" if sure else "are of one size"
        seen["wide"] = f"{len(names)} columns from {names[0]} to {names[-1]} {alike}"
        doubt = (f"{len(names)} columns are taken for one node each, not for features", "pipeline.source.wide")
        keys = {"wide": {"value": "value", "nodes": pattern}}
        return Layout(
            name="grid",
            step=step,
            keys=keys,
            columns=names,
            seen=seen,
            doubts=(doubt,),
            num_names=len(names),
            covered=covered,
        )
    seen["node"] = "no time comes twice: there is one node"
    return Layout(name="grid", step=step, seen=seen, covered=covered)


def _named_node(columns: Mapping[str, Column], num_rows: int) -> str:
    """A column that is called as nodes are, with many rows of each of its values; empty if there is none."""
    named = (column for column in columns.values() if NODE_NAMED.search(column.name) and _may_name(column, num_rows))
    return next((column.name for column in named if column.distinct * MANY_ROWS <= num_rows), "")


def _of_nodes(rows: _Rows, columns: Mapping[str, Column], name: str) -> Layout:
    code_R = rows.frame[name].rank("dense").to_numpy().astype(np.int64)
    step, covered = _step(rows, code_R)
    number = columns[name].distinct
    apart_by = f"{name} has {number} values, each with times of its own"
    if not step and CUT_NAMED.search(name):
        return _events(rows, columns, f"{apart_by}, at no regular distance", cut=name)
    seen, doubts = {"node": apart_by}, list[tuple[str, str]]()
    if step:
        seen["step"] = f"rows of a node are {spelled(step)} apart"
    else:
        step = _usual_step(rows, code_R)
        seen["step"] = f"rows of a node come at no regular distance: {spelled(step)} is four times the usual one"
        doubts.append(("rows of a node come at no regular distance", "pipeline.step"))
    return Layout(
        name="grid",
        step=step,
        keys={"node": name},
        columns=(name,),
        seen=seen,
        doubts=tuple(doubts),
        num_names=number,
        covered=covered,
    )


def _events(rows: _Rows, columns: Mapping[str, Column], why: str, *, cut: str = "", doubt: str = "") -> Layout:
    keys = {"cut": cut} if cut else {}
    by = (
        rows.frame[cut].rank("dense").to_numpy().astype(np.int64) if cut else np.zeros(len(rows.time_R), dtype=np.int64)
    )
    day_R = rows.time_R // DAY
    _, count = np.unique(np.stack([by, day_R]), axis=1, return_counts=True)
    doubts = ((doubt, "pipeline.layout: grid, with pipeline.step"),) if doubt else ()
    seen = {"layout": why} | ({"cut": f"{columns[cut].distinct} values, one after the other"} if cut else {})
    number = columns[cut].distinct if cut else 0
    return Layout(
        name="events",
        keys=keys,
        columns=(cut,) if cut else (),
        seen=seen,
        doubts=doubts,
        num_names=number,
        records=int(np.median(count)) if len(count) else 0,
    )


def _distances(rows: _Rows, code_R: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yields the distances in time between a node's rows in a file, without those between pieces that were taken of it."""
    order = np.lexsort((rows.time_R, code_R, rows.file_R))
    time_R, code_R, file_R = rows.time_R[order], code_R[order], rows.file_R[order]
    apart = np.diff(time_R)
    own = (np.diff(code_R) == 0) & (np.diff(file_R) == 0) & (apart > 0)
    group = (file_R[1:] * (int(code_R.max(initial=0)) + 1) + code_R[1:])[own]
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    for some in np.split(apart[own], begins[1:]):
        yield some if rows.pieces == 1 else np.sort(some)[: max(1, len(some) - rows.pieces + 1)]


def _step(rows: _Rows, code_R: NDArray[np.int64]) -> tuple[int, float]:
    """Returns (the step at which a node's rows come, the share of steps that have one); 0 where they come at none."""
    groups = [some for some in _distances(rows, code_R) if len(some)]
    if not groups:
        return 0, 0.0
    apart = np.concatenate(groups)
    usual = float(np.quantile(apart, 0.25))
    off = np.abs(apart - np.round(apart / usual) * usual)
    near = float(np.mean(np.abs(apart - usual) <= NEAR * usual))
    if np.mean(off <= NEAR * usual) < REGULAR or near < 0.5:
        return 0, 0.0
    step = min(STEPS, key=lambda step: abs(step - usual))
    if abs(step - usual) > NEAR * usual:
        step = max((step for step in STEPS if step <= usual), default=0)
    return step, _covered(rows, code_R, step)


def _covered(rows: _Rows, code_R: NDArray[np.int64], step: int) -> float:
    """The share of the steps of a date in which a node usually has a row; 1 where the sample does not tell it."""
    if rows.pieces > 1 or step <= 0:
        return 1.0
    _, count = np.unique(np.stack([code_R, rows.time_R // DAY]), axis=1, return_counts=True)
    return float(np.median(count)) * step / DAY if len(count) else 1.0


def _usual_step(rows: _Rows, code_R: NDArray[np.int64]) -> int:
    """The step in which a node's irregular rows usually come four times."""
    groups = [some for some in _distances(rows, code_R) if len(some)]
    usual = 4 * float(np.median(np.concatenate(groups))) if groups else 3600 * SECOND
    return next((step for step in STEPS if step >= usual and step >= SECOND), DAY)


def _cut(rows: _Rows, columns: Mapping[str, Column]) -> str:
    """A column whose values follow each other in time, with a pause between two of them; empty if none does."""
    order = np.argsort(rows.time_R, kind="stable")
    day_R, apart = rows.time_R[order] // DAY, np.diff(rows.time_R[order])
    for column in columns.values():
        if not _may_name(column, len(rows.time_R)):
            continue
        code_R = rows.frame[column.name].rank("dense").to_numpy().astype(np.int64)[order]
        changes = (np.diff(code_R) != 0) & (np.diff(day_R) == 0)
        pairs = len(np.unique(np.stack([code_R, day_R]), axis=1).T)
        days = len(np.unique(day_R))
        inside = apart[(np.diff(code_R) == 0) & (np.diff(day_R) == 0)]
        if not changes.any() or pairs != int(changes.sum()) + days or not len(inside):
            continue
        if np.median(apart[changes]) > 3 * np.quantile(inside, 0.9):
            return column.name
    return ""


def _wide(columns: Mapping[str, Column]) -> tuple[str, tuple[str, ...], bool] | None:
    """Returns (the pattern of columns that are nodes, their names, whether their names are numbered); None if none are."""
    numeric = [name for name, column in columns.items() if column.numbers is not None and not column.no_quantity]
    templates = {re.sub("[0-9]+", "#", name) for name in numeric}
    template = templates.pop() if len(templates) == 1 else ""
    numbered = len(numeric) >= FEWEST and "#" in template and template != f"{INVENTED}#"
    if not numbered and not (len(numeric) >= MANY and _one_size([columns[name] for name in numeric])):
        return None
    prefix = re.sub("[0-9]+$", "", shared_start(numeric))
    literal = "".join(f"[{character}]" if character in "*?[" else character for character in prefix)
    texts = [name for name, column in columns.items() if column.numbers is None]
    for pattern in (f"{literal}*", "[0-9]*", "[A-Z]*"):
        if all(fnmatchcase(name, pattern) for name in numeric) and not any(
            fnmatchcase(name, pattern) for name in texts
        ):
            return pattern, tuple(numeric), numbered
    return None


def _one_size(columns: Sequence[Column]) -> bool:
    """Whether the values of nearly all columns are of one size, and spread alike."""
    for quantile in (0.5, 0.9):
        numbers = [column.numbers for column in columns]
        sizes = [float(n.values.abs().quantile(quantile) or 0.0) for n in numbers if n is not None]
        usual = float(np.median(sizes))
        near = [usual / ALIKE <= size <= usual * ALIKE for size in sizes]
        if np.mean(near) < 0.8:
            return False
    return True
