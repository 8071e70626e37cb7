"""What `--json` prints, one type a command. mypy holds the builders to these types, a test holds real output to the
JSON Schemas made of them (`dateshard schema COMMAND`), and docs/json.md lists every key.

Figures that do not exist are null: a document never holds NaN or infinity. Dates are `2013-03-05`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from dateshard.documents_of_evaluations import EvaluateDocument

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
    """One date."""

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
    at_most: Annotated[bool | None, Field(description="so little work was never timed: it may take less")]
    paced_by: Annotated[int | None, Field(description="dates of the remembered run that `seconds` was taken from")]


class PlanDocument(TypedDict):
    """What preprocess would do, and why."""

    dataset: str
    generation: Annotated[int | None, Field(description="null before the first")]
    statistics: Annotated[str | None, Field(description="id of the frozen statistics")]
    dates: Annotated[list[PlannedRow], Field(description="every known date, asked for or not")]
    merge: Annotated[str | None, Field(description="why the global statistics are merged again; null: they stay")]
    split: Split
    cost: CostDocument
    warnings: Annotated[list[str], Field(description="what a person should know before it runs")]
    command: Annotated[str | None, Field(description="what carries it out; null where nothing is to be done")]


class StatusDocument(TypedDict):
    """The state of every date."""

    dataset: str
    generation: Annotated[int | None, Field(description="null before the first")]
    statistics: Annotated[str | None, Field(description="id of the frozen statistics")]
    provisional: Annotated[list[DateText], Field(description="training dates that the statistics lack")]
    counts: Annotated[dict[str, int], Field(description="dates by state")]
    dates: Annotated[list[DateRow], Field(description="those that were asked for")]
    notes: Annotated[list[str], Field(description="files of the store that had to be passed over")]
    mend: Annotated[str | None, Field(description="the command that makes every date fresh; null if they are (exit 0)")]


class DuplicatesCount(TypedDict):
    """Rows of the same node and instant."""

    dropped: int
    conflicting: Annotated[int, Field(description="of those: with other values than the row that stays")]


class RowsCount(TypedDict):
    """What became of raw rows: read = accepted + all rejected."""

    read: int
    accepted: int
    rejected: Annotated[dict[str, int], Field(description="rows by reason")]
    changed: Annotated[dict[str, int], Field(description="values by reason, in rows that stay")]


class DateRows(RowsCount):
    """Of one date."""

    duplicates: NotRequired[DuplicatesCount | None]


class AllRows(RowsCount):
    """Of all dates that were measured."""

    cut: NotRequired[Annotated[RowsCount, Field(description="of one file of many dates, if it was cut")]]
    by_date: dict[DateText, DateRows]


class FailedDate(TypedDict):
    """Why a date failed."""

    message: str
    kind: Annotated[str, Field(description="as in an error: dump, damaged, ...")]


class PreprocessDocument(TypedDict):
    """What a preprocess did."""

    generation: int | None
    dates: Annotated[int, Field(description="in the generation")]
    measured: Annotated[int, Field(description="dates whose dump was read")]
    written: Annotated[int, Field(description="shards that differ from those before")]
    unchanged: Annotated[int, Field(description="shards made again, to the same bytes")]
    stored: Annotated[int, Field(description="shards that stay, written in other formats")]
    rows: AllRows
    failed: Annotated[dict[DateText, FailedDate], Field(description="by date (exit 3; 65 if nothing stands)")]
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


class CleanDocument(TypedDict):
    """What was removed, or would be."""

    dry_run: bool
    kept: Annotated[dict[str, list[str]], Field(description="generations that stay, with the runs that pin them")]
    removed: Annotated[dict[str, RemovedKind], Field(description="by kind; `damaged` is moved to quarantine/")]
    pins: Annotated[list[str], Field(description="of runs that are gone")]
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


class TrainDocument(TypedDict):
    """How a training ended."""

    run: str
    state: Annotated[
        str, Field(description="epochs, early stopping, stopped (resumable), complete (nothing was left to do)")
    ]
    epoch: NotRequired[Annotated[int, Field(description="from 1")]]
    batch: NotRequired[Annotated[int, Field(description="batches done of that epoch")]]
    best_val_loss: Annotated[float | None, Field(description="null before the first validation")]
    best_epoch: NotRequired[Annotated[int, Field(description="from 1; 0: none yet")]]


class Blocking(TypedDict):
    """Blocks of so many days."""

    days: int
    blocks: Annotated[int, Field(description="of an epoch")]
    shuffle: Annotated[str, Field(description="the order that days_per_batch: days stands for")]
    resident_bytes: Annotated[int, Field(description="of block buffers, two where the next is filled meanwhile")]
    reading: Annotated[float, Field(description="rows read in an epoch for each row of the training dates")]
    fits_budget: Annotated[bool, Field(description="trainer.loading.memory_budget holds them")]


class CheckpointParts(TypedDict):
    """Checkpoints on disk."""

    an_epoch: int
    bytes_each: int
    bytes_all: Annotated[int, Field(description="if every epoch runs and all are kept")]
    free: Annotated[int, Field(description="bytes on that disk")]


class EstimateDocument(TypedDict):
    """Windows, batches, memory and disk of a training, before it begins."""

    generation: int
    windows: Annotated[dict[str, int], Field(description="train, validation")]
    batches: Annotated[int, Field(description="of an epoch")]
    steps_an_epoch: Annotated[int, Field(description="optimizer steps: batches / training.accumulate")]
    policy: Annotated[str, Field(description="how the order is served: blocks or mapped")]
    shuffle: Annotated[str, Field(description="the order of these settings")]
    table: Annotated[list[Blocking], Field(description="by days a block; the last holds all training dates")]
    memory: Annotated[
        dict[str, int],
        Field(
            description="bytes: packages (resident now), blocks (buffers of both readers), batches (two of each), "
            "model (weights, gradients, two moments)"
        ),
    ]
    all_windows_in_memory: Annotated[int, Field(description="bytes, if every window were written out")]
    available: Annotated[int, Field(description="bytes of memory that are free now")]
    parameters: Annotated[int, Field(description="trained numbers of the model")]
    checkpoints: CheckpointParts


class RunRow(TypedDict):
    """One training run; they come newest first."""

    run: str
    model: Annotated[str, Field(description="? where run.json is damaged")]
    epoch: int
    batch: int
    checkpoints: int
    best_val_loss: float | None


class ConfigDocument(TypedDict):
    """What a configuration resolves to."""

    settings: Annotated[dict[str, Any], Field(description="as `dateshard schema` says")]
    origins: Annotated[
        dict[str, str], Field(description="of each dotted key: default, file:line:column, environment NAME, override")
    ]


class ConfigFault(TypedDict):
    """One fault."""

    place: Annotated[str, Field(description="file:line:column, environment NAME or override; may be empty")]
    key: Annotated[str, Field(description="dotted; empty where the file cannot be read")]
    message: str


class ConfigCheckDocument(TypedDict):
    """All that is wrong with a configuration."""

    ok: bool
    faults: list[ConfigFault]


class DoctorRow(TypedDict):
    """One thing that was looked at."""

    name: str
    level: Literal["ok", "warn", "fail"]
    value: Annotated[str, Field(description="what was found")]
    todo: Annotated[str, Field(description="what to do about it; empty where all is well")]


class DoctorDocument(TypedDict):
    """Whether this installation and this machine do."""

    ok: Annotated[bool, Field(description="nothing fails (exit 0)")]
    checks: list[DoctorRow]


class ErrorFacts(TypedDict):
    """What went wrong."""

    kind: Annotated[
        str, Field(description="usage, store, damaged, not there, disk full, dump, busy, interrupted, error")
    ]
    message: Annotated[str, Field(description="what, where, what to do next")]
    exit_code: int


class ErrorDocument(TypedDict):
    """What stands on stdout where a command with --json fails before it has anything to print."""

    error: ErrorFacts


DOCUMENTS: dict[str, Any] = {
    "plan": PlanDocument,
    "preprocess": PreprocessDocument,
    "status": StatusDocument,
    "verify": VerifyDocument,
    "drop": DropDocument,
    "clean": CleanDocument,
    "export": ExportDocument,
    "train": TrainDocument,
    "estimate": EstimateDocument,
    "evaluate": EvaluateDocument,
    "runs": list[RunRow],
    "config show": ConfigDocument,
    "config check": ConfigCheckDocument,
    "doctor": DoctorDocument,
    "error": ErrorDocument,
}


WRITTEN_OUT = ("inspect", "statistics", "diff")  # schemas that stand as files in dateshard/schemas


def document_schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of one command's document; keys that it does not name are refused.

    Raises:
        KeyError: no command of that name prints JSON.
    """
    if name in WRITTEN_OUT:
        found: dict[str, Any] = json.loads(files("dateshard.schemas").joinpath(f"{name}.json").read_text())
        return {"$schema": GenerateJsonSchema.schema_dialect, **found}
    schema = TypeAdapter(DOCUMENTS[name]).json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        if "properties" in part:
            part["additionalProperties"] = False
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": f"dateshard {name} --json"}
