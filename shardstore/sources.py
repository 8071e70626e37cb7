"""What only preparing reads of a generation: of which dump each date was made, what failed and what was dropped.

It is the content of manifests/g*.sources.json. A key that a version before did not write is None here, and is not
written then: a file that is read and written again keeps its bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

from dateshard.shardstore.identity import expected_form
from dateshard.shardstore.manifest import FOLDER_NAME, folder_name

NO_ROWS: Mapping[str, Any] = {}


class DumpRow(NamedTuple):
    """The bytes that a date was made of; the path may hold what is no UTF-8, and is empty where nothing is known."""

    path: str = ""
    size: int = 0
    hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        return {"path": self.path, "size": self.size, "hash": self.hash}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> DumpRow:
        """Makes a row of a file's content; ValueError where it holds something else."""
        dump = DumpRow(content["path"], content["size"], content["hash"])
        _refuse_unlike(str, dump.path, dump.hash)
        _refuse_unlike(int, dump.size)
        return dump


class SourceRow(NamedTuple):
    """What a committed date was made of. A tuple, as each of thousands is made before a command begins.

    Attributes:
        staged: key of its measured array; empty where it failed before it had one.
        measure: identity of the settings that it was measured with.
        rows: what became of the dump's rows, as in its receipt; {} where that is not known.
        observed: cells of each feature into which a record with a value fell; None of a version before 0051.
        weight: by which a split that nobody configured is chosen; None of a version before 0051.
    """

    staged: str
    measure: str = ""
    dump: DumpRow = DumpRow()
    rows: Mapping[str, Any] = NO_ROWS
    observed: tuple[int, ...] | None = None
    weight: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        content = {"staged": self.staged, "measure": self.measure, "dump": self.dump.to_json(), "rows": self.rows}
        return content | _known(observed=self.observed, weight=self.weight)


def _source_rows(content: Mapping[str, Mapping[str, Any]]) -> dict[dt.date, SourceRow]:
    """Makes rows by date of a file's content; ValueError and its like where it holds something else.

    Each kind of field is checked of all rows at once."""
    rows = {dt.date.fromisoformat(day): _source_row(row) for day, row in content.items()}
    made = rows.values()
    keys = [row.staged for row in made]
    _refuse_unlike(str, *keys, *(row.measure for row in made), *(row.dump.path for row in made))
    _refuse_unlike(str, *(row.dump.hash for row in made))
    _refuse_unlike(dict, *(row.rows for row in made))
    counted = [row.rows for row in made if row.rows]
    _refuse_unlike(int, *(row.dump.size for row in made), *(row["read"] for row in counted))
    _refuse_unlike(int, *(row["accepted"] for row in counted), *(row.weight for row in made if row.weight is not None))
    _refuse_unlike(int, *chain.from_iterable(row.observed for row in made if row.observed))
    for kind in ("rejected", "changed"):
        _refuse_unlike(int, *chain.from_iterable(row[kind].values() for row in counted))
    if not all(map(FOLDER_NAME.fullmatch, filter(None, keys))):
        raise ValueError(keys)
    return rows


def _source_row(content: Mapping[str, Any]) -> SourceRow:
    dump, observed = content["dump"], content.get("observed")
    return SourceRow(
        content["staged"],
        content["measure"],
        DumpRow(dump["path"], dump["size"], dump["hash"]),
        content["rows"],
        None if observed is None else tuple(observed),
        content.get("weight"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRow:
    """Why a date failed.

    Attributes:
        staged: key of the measured array that it should have had.
        what: the error in words; `kind`: its kind, as in an error's document.
        tolerated: identity of the tolerance under which it failed: under another it is tried again.
    """

    staged: str
    what: str
    dump: DumpRow
    kind: str | None = None
    tolerated: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        content = {"staged": self.staged, "what": self.what, "dump": self.dump.to_json()}
        return content | _known(kind=self.kind, tolerated=self.tolerated)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> FailedRow:
        """Makes a row of a file's content; ValueError and its like where it holds something else."""
        row = FailedRow(
            staged=content["staged"] and folder_name(content["staged"]),
            what=content["what"],
            dump=DumpRow.from_json(content["dump"]),
            kind=content.get("kind"),
            tolerated=content.get("tolerated"),
        )
        _refuse_unlike(str, row.staged, row.what, row.kind or "", row.tolerated or "")
        return row


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """Why a date is left out.

    Attributes:
        statistics: id of the statistics that rest on it; empty where they do not.
        empty: key of the measured array of a dump without rows; None where it was dropped by hand.
        tolerated: identity of the tolerance under which the dump had no row; None where it was dropped by hand.
    """

    statistics: str
    empty: str | None = None
    tolerated: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        return {"statistics": self.statistics} | _known(empty=self.empty, tolerated=self.tolerated)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> DroppedRow:
        """Makes a row of a file's content; ValueError and its like where it holds something else."""
        statistics, empty, tolerated = content["statistics"], content.get("empty"), content.get("tolerated")
        _refuse_unlike(str, statistics, empty or "", tolerated or "")
        return DroppedRow(statistics and folder_name(statistics), empty and folder_name(empty), tolerated)


@dataclass(frozen=True, slots=True)
class NormaliseRow:
    """The settings and the code that the shards were scaled by."""

    settings: str
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The content of a sources file; without arguments, that of a dataset without a generation.

    Attributes:
        basis: identity of the settings that the statistics rest on; None where no file reads.
        split: as configured, in JSON.
        cut: the file of many dates that the dumps were cut from, and what became of its rows; {files, rows}.
        settings: all settings that a dump is encoded by; None of a version that did not keep them.
    """

    basis: str | None = None
    split: Any = None
    normalise: NormaliseRow | None = None
    dates: Mapping[dt.date, SourceRow] = field(default_factory=dict)
    failed: Mapping[dt.date, FailedRow] = field(default_factory=dict)
    dropped: Mapping[dt.date, DroppedRow] = field(default_factory=dict)
    cut: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None

    def without(self, dates: set[dt.date]) -> Sources:
        """Returns the sources without the rows of some dates, committed or failed."""
        kept = {date: row for date, row in self.dates.items() if date not in dates}
        return replace(self, dates=kept, failed={d: row for d, row in self.failed.items() if d not in dates})

    def to_json(self) -> dict[str, Any]:
        """The content of manifests/g*.sources.json."""
        content: dict[str, Any] = {
            "dates": {str(date): row.to_json() for date, row in self.dates.items()},
            "failed": {str(date): row.to_json() for date, row in self.failed.items()},
        }
        if self.basis is not None:
            content |= {"basis": self.basis, "split": self.split}
        if self.dropped:
            content["dropped"] = {str(date): row.to_json() for date, row in self.dropped.items()}
        if self.normalise:
            content["normalise"] = {"settings": self.normalise.settings, "code": self.normalise.code}
        return content | _known(cut=self.cut, settings=self.settings)

    @staticmethod
    def from_json(content: Mapping[str, Any], file: str, todo: str = "") -> Sources:
        """Makes the sources of a file's content, once all of it is checked.

        Raises:
            DamagedError: content that is no sources file's.
        """
        with expected_form(file, todo):
            normalise, settings, cut = content.get("normalise"), content.get("settings"), content.get("cut")
            _refuse_unlike(dict, settings or {}, cut or {})
            _refuse_unlike(str, content.get("basis", ""))
            day = dt.date.fromisoformat
            return Sources(
                basis=content.get("basis"),
                split=content.get("split"),
                normalise=NormaliseRow(normalise["settings"], normalise["code"]) if normalise else None,
                dates=_source_rows(content["dates"]),
                failed={day(date): FailedRow.from_json(row) for date, row in content["failed"].items()},
                dropped={day(date): DroppedRow.from_json(row) for date, row in content.get("dropped", {}).items()},
                cut=cut,
                settings=settings,
            )


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _refuse_unlike(kind: type, *values: object) -> None:
    if not {*map(type, values)} <= {kind}:  # a bool is no int
        raise TypeError(values)
