"""What `predict --json` prints."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dateshard.documents.preparing import AllRows


class HistoryDocument(TypedDict):
    """The steps or records that the forecast was made from."""

    source: Annotated[str, Field(description="dumps, shards, or shards and dumps")]
    begin: Annotated[str | None, Field(description="its first instant, in the dataset's zone; null without times")]
    end: Annotated[str | None, Field(description="the first instant after it; of records that of the last one")]
    steps: Annotated[int, Field(description="steps or records")]
    dates: Annotated[list[str], Field(description="that it was read from")]
    last_record: Annotated[str | None, Field(description="the newest record of its last date; null from shards")]
    observed: Annotated[float, Field(description="share of its cells into which a record fell; others were filled")]
    rows: Annotated[AllRows | None, Field(description="of its dumps, as in preprocess; null from shards")]
    silent_nodes: Annotated[
        dict[str, list[str]], Field(description="by target: nodes of which it holds no value; low and high are null")
    ]
    unknown_nodes: Annotated[list[str], Field(description="nodes that training never saw, left out")]
    unknown_categories: Annotated[dict[str, int], Field(description="by feature: at most so many on a date, code 0")]


class GroupDocument(TypedDict):
    """The node, hour of day or month of a target that is covered worst."""

    kind: Annotated[str, Field(description="node, hour or month")]
    target: str
    name: str
    share: float
    targets: int


class CoverageDocument(TypedDict):
    """How many observed targets of a split lie inside the intervals."""

    split: str
    windows: Annotated[int, Field(description="that were looked at, evenly spaced")]
    of: Annotated[int, Field(description="windows of the split")]
    targets: Annotated[int, Field(description="observed targets of those windows")]
    inside: int
    share: float | None
    by_feature: dict[str, float | None]
    by_node: Annotated[
        dict[str, Any] | None, Field(description="`nodes`, and by target `targets` and `inside`, a number a node")
    ]
    by_hour: Annotated[dict[str, Any] | None, Field(description="`hours` of the local day, and by target likewise")]
    by_month: Annotated[
        dict[str, Any] | None, Field(description="`months` of the target steps, and by target likewise")
    ]
    worst: Annotated[
        list[GroupDocument], Field(description="of each kind the one furthest from the level, if 5 % or more away")
    ]


class IntervalDocument(TypedDict):
    """How the intervals were made, and how they do on the test windows."""

    level: float
    windows: Annotated[int, Field(description="validation windows that they were made from, evenly spaced")]
    of: Annotated[int, Field(description="validation windows there are")]
    own_nodes: Annotated[int, Field(description="nodes x features with errors enough of their own; others share")]
    adapts: Annotated[
        bool, Field(description="they followed the errors of the validation and test windows as these became known")
    ]
    coverage: Annotated[CoverageDocument | None, Field(description="measured on the test split; null without one")]


class VerdictDocument(TypedDict):
    """What the last evaluation of these weights found, as it is kept beside the run."""

    split: str
    best_baseline: str | None
    outcome: Annotated[str | None, Field(description="beats, loses or unclear; null without a rival")]
    beats_baselines: bool | None


class ForecastRow(TypedDict):
    """One target of one node at one step, or of one record, in raw units."""

    date: NotRequired[Annotated[str, Field(description="not of rows without a time")]]
    step: NotRequired[Annotated[int, Field(description="of a grid: of that date, from 0")]]
    node: NotRequired[Annotated[str, Field(description="of a grid")]]
    file: NotRequired[Annotated[str | None, Field(description="of records: the dump; null from shards")]]
    row: NotRequired[Annotated[int | None, Field(description="of records: its row there, as messages count them")]]
    cut: NotRequired[Annotated[str, Field(description="of records: their session or subject, where there are such")]]
    feature: str
    horizon: Annotated[int, Field(description="steps or records after the last one of the history; 0 is that one")]
    value: Annotated[float | None, Field(description="null for a categorical target")]
    low: float | None
    high: float | None
    quantiles: NotRequired[
        Annotated[dict[str, float | None], Field(description="by level as q10, where the run's loss knows quantiles")]
    ]
    category: NotRequired[Annotated[str | None, Field(description="the likeliest one, where a target is categorical")]]
    probability: NotRequired[float | None]
    time: NotRequired[
        Annotated[
            str,
            Field(
                description="at which the step begins, in the dataset's zone; a record's instant, and with a horizon "
                "that of the last one before"
            ),
        ]
    ]


class PredictDocument(TypedDict):
    """A forecast, by which weights, and from which history."""

    run: str
    model: str
    checkpoint: Annotated[str, Field(description="its name")]
    epoch: int
    batch: int
    dataset: str
    generation: Annotated[int, Field(description="that the run was trained on")]
    timezone: str
    step_seconds: Annotated[float | None, Field(description="null of records")]
    first_forecast: Annotated[str | None, Field(description="the first instant that is forecast; null without times")]
    history: HistoryDocument
    interval: Annotated[IntervalDocument | None, Field(description="null where none was asked for or can be made")]
    errors: Annotated[
        dict[str, float], Field(description="scaled MSE on those validation windows: model, mean, repeat")
    ]
    verdict: Annotated[VerdictDocument | None, Field(description="null where nothing is kept of these weights")]
    notes: list[str]
    seconds: Annotated[dict[str, float], Field(description="history, intervals, all")]
    forecasts: list[ForecastRow]


class TensorDocument(TypedDict):
    """An input or an output of an ONNX graph."""

    name: str
    type: Annotated[str, Field(description="double, bool or int32")]
    shape: Annotated[list[str | int], Field(description="`batch` is any number of windows")]
    what: str
    last_axis: NotRequired[Annotated[list[str], Field(description="of an output: the targets, or the categories")]]


class InputFeatureDocument(TypedDict):
    """One place of the last axis of `history`."""

    name: str
    aggregate: Annotated[str, Field(description="how the records of a step and node become its value")]
    unit: Annotated[str, Field(description="as in the dumps, records or code")]
    categories: Annotated[
        list[str] | None, Field(description="the n-th of them has the code n, counted from 1; any other is 0")
    ]


class ExportModelDocument(TypedDict):
    """A model as an ONNX file; the file's name with `.json` at its end holds the same."""

    file: Annotated[str, Field(description="its name")]
    bytes: int
    sha256: str
    run: str
    model: str
    checkpoint: Annotated[str, Field(description="its name")]
    checkpoint_files: Annotated[dict[str, str], Field(description="hash of each of its files")]
    dataset: str
    generation: Annotated[int, Field(description="that the run was trained on")]
    timezone: Annotated[str, Field(description="of the local day in time codes")]
    step_seconds: float
    history: Annotated[int, Field(description="steps that go in")]
    horizon: Annotated[int, Field(description="steps that come out; 0: those of the history")]
    time_code: Annotated[str, Field(description="how time codes are made")]
    inputs: list[TensorDocument]
    features: Annotated[list[InputFeatureDocument], Field(description="of the last axis of `history`, in its order")]
    outputs: list[TensorDocument]
    bounds: Annotated[
        dict[str, list[float | None]], Field(description="by target: least and largest value; null: none")
    ]
    nodes: Annotated[list[str], Field(description="of the axis of nodes, in its order")]
    difference: Annotated[
        float, Field(description="largest one of onnxruntime from torch, of a forecast or its feature's spread")
    ]
    notes: list[str]
