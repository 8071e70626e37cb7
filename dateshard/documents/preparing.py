"""What the commands of the offline stage print with `--json`."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

DateText = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
State = Annotated[
    str,
    Field(
        pattern=r"^(no-dump|missing|measured|fresh|stale\((dump|config|code|statistics)\)|failed|excluded)$",
        description="no-dump, missing, measured, fresh, stale(dump|config|code|statistics), failed, excluded",
    ),
]
Split = Annotated[
    dict[str, list[Annotated[list[DateText], Field(min_length=2, max_length=2)]]],
    Field(description="train, validation, test: ranges of dates, both ends included"),
]


class DateRow(TypedDict):
    """The state of one date."""

    date: DateText
    state: State
    reason: Annotated[str, Field(description="why it is in this state")]


class PlannedRow(DateRow):
    """One date, and what will be done with it."""

    measure: Annotated[bool, Field(description="its dump is read")]
    normalise: Annotated[bool, Field(description="its shard is written, or found to be equal")]
    store: Annotated[bool, Field(description="its shard stays, and is written in other formats")]


class CostDocument(TypedDict):
    """What a plan reads and writes, and how long it takes."""

    read_bytes: Annotated[int, Field(description="of dumps, as they lie on disk")]
    written_bytes: Annotated[int | None, Field(description="about; null before the nodes are known")]
    free_bytes: Annotated[int, Field(description="on the store's disk")]
    seconds: Annotated[float | None, Field(description="at the pace of earlier runs here; null if there is none")]
    at_most: Annotated[
        bool | None, Field(description="it may take less: so little was never timed, or no shard may need writing")
    ]
    paced_by: Annotated[int | None, Field(description="dates of the remembered run that `seconds` was taken from")]


class ToCutDocument(TypedDict):
    """A file of many dates, whose dates are not known before preprocess has cut it."""

    path: str
    bytes: int
    why: Annotated[str, Field(description="in words: not cut yet, or what changed since")]


class PlanDocument(TypedDict):
    """What preprocess would do, and why."""

    dataset: str
    generation: Annotated[int | None, Field(description="null before the first")]
    statistics: Annotated[str | None, Field(description="id of the frozen statistics")]
    dates: Annotated[list[PlannedRow], Field(description="every known date, asked for or not")]
    merge: Annotated[str | None, Field(description="why the global statistics are merged again; null: they stay")]
    split: Split
    in_no_split: Annotated[list[DateText], Field(description="known dates that lie in none of these ranges")]
    missing_days: Annotated[
        list[DateText], Field(description="between the first and the last date: no dump, no shard, not left out")
    ]
    cost: CostDocument
    warnings: Annotated[list[str], Field(description="what a person should know before it runs")]
    to_cut: Annotated[ToCutDocument | None, Field(description="what is cut first; null where there is no such file")]
    command: Annotated[str | None, Field(description="what carries it out; null where nothing is to be done")]


class StatusDocument(TypedDict):
    """The state of every date."""

    dataset: str
    generation: Annotated[int | None, Field(description="null before the first")]
    statistics: Annotated[str | None, Field(description="id of the frozen statistics")]
    provisional: Annotated[list[DateText], Field(description="training dates that the statistics lack")]
    counts: Annotated[dict[str, int], Field(description="dates by state")]
    dates: Annotated[list[DateRow], Field(description="those that were asked for")]
    in_no_split: Annotated[list[DateText], Field(description="known dates that no split names")]
    missing_days: Annotated[
        list[DateText], Field(description="between the first and the last date: no dump, no shard, not left out")
    ]
    warnings: Annotated[list[str], Field(description="what a person should know of the dataset")]
    notes: Annotated[list[str], Field(description="files of the store that had to be passed over")]
    to_cut: Annotated[ToCutDocument | None, Field(description="as in plan")]
    mend: Annotated[str | None, Field(description="the command that makes every date fresh; null if they are (exit 0)")]


class DuplicatesCount(TypedDict):
    """Rows of the same node and instant."""

    dropped: int
    conflicting: Annotated[int, Field(description="of those: with other values than the row that stays")]
    columns: Annotated[dict[str, int], Field(description="of those, by raw column: with another value there")]


class RowsCount(TypedDict):
    """What became of raw rows: read = accepted + all rejected."""

    read: int
    accepted: int
    rejected: Annotated[dict[str, int], Field(description="rows by reason")]
    changed: Annotated[dict[str, int], Field(description="values by reason, in rows that stay")]


class DateRows(RowsCount):
    """Rows of one date."""

    duplicates: NotRequired[DuplicatesCount | None]


class AllRows(RowsCount):
    """Rows of all dates that were measured."""

    cut: NotRequired[Annotated[RowsCount, Field(description="of one file of many dates, if it was cut")]]
    by_date: dict[DateText, DateRows]


class FailedDate(TypedDict):
    """Why a date failed."""

    message: str
    kind: Annotated[str, Field(description="as in an error: dump, damaged, ...")]


class UnknownNames(TypedDict):
    """Nodes of a date that neither the node table nor a training date has: their rows are left out."""

    count: Annotated[int, Field(description="at least, where it is 1000 or more and there is a node table")]
    first: Annotated[str | None, Field(description="of them, by name")]
    alike: Annotated[int, Field(description="of those: look like a known one, as 7.0, ' 7' or 007 like 7")]
    example: Annotated[list[str] | None, Field(description="one of them, and the known one")]


class PreprocessDocument(TypedDict):
    """What a preprocess did."""

    generation: int | None
    dates: Annotated[int, Field(description="in the generation")]
    measured: Annotated[int, Field(description="dates whose dump was read")]
    written: Annotated[int, Field(description="shards that differ from those before")]
    unchanged: Annotated[int, Field(description="shards made again, to the same bytes")]
    stored: Annotated[int, Field(description="shards that stay, written in other formats")]
    rows: AllRows
    in_no_split: Annotated[list[DateText], Field(description="known dates that no split names")]
    missing_days: Annotated[
        list[DateText], Field(description="between the first and the last date: no dump, no shard, not left out")
    ]
    unknown_nodes: Annotated[dict[DateText, UnknownNames], Field(description="by date")]
    failed: Annotated[dict[DateText, FailedDate], Field(description="by date (exit 3; 65 if nothing stands)")]
    dropped: Annotated[
        dict[DateText, str], Field(description="dates without rows that are left out, by empty_date: drop; and why")
    ]
    observed: Annotated[dict[str, float], Field(description="by split: share of its cells that a record fell into")]
    notes: Annotated[list[str], Field(description="what a person should know: of the split, of dates without a value")]
    cut_short: Annotated[bool, Field(description="it ended at the first failure, by --fail-fast")]
    seconds: Annotated[float, Field(description="of wall time")]
    peak_memory_bytes: Annotated[int, Field(description="private memory of all processes, seen twice a second")]


class NamedError(TypedDict):
    """One file or date that is not well."""

    name: str
    error: Annotated[str, Field(description="what, where, and the command that mends it")]


class VerifyDocument(TypedDict):
    """What was hashed, and what is damaged."""

    generation: int
    checked: Annotated[int, Field(description="dates and frozen files that were looked at")]
    damaged: list[NamedError]
    absent: Annotated[list[NamedError], Field(description="asked for, and not in this generation")]


class RemovedKind(TypedDict):
    """How many, how large."""

    count: int
    bytes: int


class DropDocument(TypedDict):
    """What was taken out, or would be."""

    dry_run: bool
    generation: Annotated[int, Field(description="the new one; the current one where nothing was written")]
    dropped: list[DateText]
    dates: Annotated[int, Field(description="that are left")]
    dumps: Annotated[dict[str, str], Field(description="{date: path} of dropped dates whose dump still exists")]
    in_statistics: Annotated[list[DateText], Field(description="dropped dates that the frozen statistics rest on")]


class AwayRun(TypedDict):
    """A run of which nobody can say whether it is over: its generation stays."""

    run: str
    generation: int
    runs: Annotated[str, Field(description="the runs folder that the run lay in")]
    why: Annotated[str, Field(description="what is there now: nothing, another folder, ...")]
    pin: Annotated[str, Field(description="the file to delete if the run is over")]


class CleanDocument(TypedDict):
    """What was removed, or would be."""

    dry_run: bool
    kept: Annotated[dict[str, list[str]], Field(description="generations that stay, with the runs that need them")]
    removed: Annotated[dict[str, RemovedKind], Field(description="by kind; `damaged` is moved to quarantine/")]
    pins: Annotated[list[str], Field(description="of runs that are gone, by the run's name")]
    away: list[AwayRun]
    notes: Annotated[list[str], Field(description="what could not be judged and is kept")]


class FileRow(TypedDict):
    """One exported date."""

    date: DateText
    file: str
    bytes: Annotated[int, Field(description="of the file")]
    steps: Annotated[int, Field(description="of the date; a table has steps x nodes rows")]
    missing: Annotated[int, Field(description="cells that were not observed: null, or NaN in npy")]


class ExportDocument(TypedDict):
    """Which files were written."""

    dataset: str
    generation: int
    format: Annotated[str, Field(pattern="^(parquet|csv|npy)$")]
    units: Annotated[str, Field(pattern="^(raw|scaled)$")]
    nodes: int
    features: list[str]
    files: list[FileRow]
