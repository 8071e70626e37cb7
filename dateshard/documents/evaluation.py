"""What `evaluate --json` prints; every figure is explained in docs/metrics.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


class Errors(TypedDict):
    """Errors of all target cells that were observed; null where there are none."""

    count: Annotated[int | None, Field(description="observed target cells")]
    mse: float | None
    rmse: float | None
    mae: float | None
    bias: float | None
    r2: float | None


class RawErrors(Errors):
    """Errors in the units of the data."""

    wape: Annotated[float | None, Field(description="a share: 0.05 is 5 %")]
    mape: Annotated[float | None, Field(description="a share, of the targets that are not near 0")]
    mape_left_out: Annotated[
        int | None,
        Field(
            description="targets nearer to 0 than trainer.metrics.mape_floor; all, where training values have both signs"
        ),
    ]
    error_quantiles: NotRequired[Annotated[dict[str, float | None], Field(description="p50, p90, p99 of |error|")]]


class ErrorsByFeature(Errors):
    """Errors over all targets, and of each by itself."""

    by_feature: dict[str, Errors]


class RawErrorsByFeature(RawErrors):
    """Errors in the units of the data over all targets, and of each by itself, with error_quantiles."""

    by_feature: dict[str, RawErrors]


class StepErrors(TypedDict):
    """Errors of one target step."""

    scaled: Errors
    raw: Annotated[RawErrors | None, Field(description="null where targets differ in unit")]


class Sampled(TypedDict):
    """What trainer.metrics.custom says of the sampled windows."""

    windows: Annotated[int, Field(description="in the sample")]
    of: Annotated[int, Field(description="windows of the split")]
    whole: Annotated[bool, Field(description="drawn from all of them")]
    metrics: dict[str, float | None]
    error: Annotated[str | None, Field(description="what the function raised")]


class IntervalMeans(TypedDict):
    """Means over the observed targets that have an interval."""

    count: int | None
    coverage: Annotated[float | None, Field(description="share of the targets inside")]
    width: float | None
    winkler: Annotated[float | None, Field(description="width, and 2 / (1 - level) x how far a target lies outside")]
    pinball: Annotated[float | None, Field(description="mean over both ends and the median")]


class IntervalMeansByFeature(IntervalMeans):
    """Means over all targets, and of each by itself."""

    by_feature: dict[str, IntervalMeans]


class QuantileScores(TypedDict):
    """How good the intervals of a model or baseline are."""

    level: float
    crossed: Annotated[int, Field(description="answers of a baseline whose quantiles did not rise and were sorted")]
    of: Annotated[int, Field(description="answers of a baseline")]
    scaled: IntervalMeansByFeature
    raw: Annotated[IntervalMeansByFeature, Field(description="overall figures are null where targets differ in unit")]
    by_horizon: Annotated[list[IntervalMeans], Field(description="scaled, one a target step")]
    by_node: Annotated[dict[str, Any] | None, Field(description="`nodes`, and by target lists of figures, raw")]
    by_hour: Annotated[dict[str, Any] | None, Field(description="`hours` of the local day, and by target, raw")]


class IntervalScoresDocument(QuantileScores):
    """The intervals that are judged, beside the quantiles that a model gives of itself."""

    own: Annotated[
        QuantileScores | None, Field(description="outer quantiles of the model as they are; null where it gives none")
    ]


class EvaluateRow(TypedDict):
    """One model or baseline."""

    name: str
    kind: Literal["baseline", "model"]
    loss: Annotated[float | None, Field(description="what training minimises; null for a baseline")]
    scaled: ErrorsByFeature
    raw: Annotated[RawErrorsByFeature, Field(description="overall figures are null where targets differ in unit")]
    by_horizon: Annotated[list[StepErrors], Field(description="one a target step")]
    by_step: Annotated[dict[str, Any] | None, Field(description="by target lists of figures, one a target step, raw")]
    by_node: Annotated[dict[str, Any] | None, Field(description="`nodes`, and by target lists of figures, raw")]
    by_hour: Annotated[dict[str, Any] | None, Field(description="`hours` of the local day, and by target, raw")]
    classes: Annotated[dict[str, dict[str, Any]], Field(description="by categorical target: a classification report")]
    sampled: Sampled | None
    interval: Annotated[
        IntervalScoresDocument | None, Field(description="null without intervals, and on training and validation dates")
    ]


class ComparisonDocument(TypedDict):
    """The model beside one baseline: a paired bootstrap over the dates of the split, or over its cuts."""

    baseline: str
    target: Annotated[str | None, Field(description="a categorical target; null: the numbers together")]
    gain: Annotated[
        float | None,
        Field(description="share of squared error less, or of targets more right; null: no error to compare with"),
    ]
    low: Annotated[float | None, Field(description="of its 95 % interval; null with too few dates or cuts")]
    high: float | None
    dates: Annotated[int | None, Field(description="with observed targets; null where cuts are divided")]
    cuts: Annotated[int | None, Field(description="the same of cuts; null where dates are divided")]
    agrees: Annotated[bool, Field(description="mean absolute error, or log loss, says the same")]
    outcome: Literal["better", "worse", "unclear"]


class EvaluateSample(TypedDict):
    """The table of a sample of the windows: that of functions of your own (baseline_windows)."""

    windows: Annotated[
        int, Field(description="in the sample; every row of it is judged on all of these, and no others")
    ]
    rows: list[EvaluateRow]
    outcome: Annotated[Literal["beats", "loses", "unclear"] | None, Field(description="on these windows")]
    best_baseline: str | None
    comparisons: list[ComparisonDocument]


class EvaluateUnseen(TypedDict):
    """The table of the nodes that training never saw (pipeline.nodes.unknown: keep)."""

    nodes: Annotated[int, Field(description="how many there are")]
    windows: int
    rows: list[EvaluateRow]
    best_baseline: str | None
    comparisons: list[ComparisonDocument]


class EvaluateForecasts(TypedDict):
    """The file that --forecasts wrote."""

    file: str
    windows: int
    rows: Annotated[int, Field(description="windows x target steps x nodes x targets")]
    bytes: int
    level: Annotated[float | None, Field(description="of low and high; null: the run has no intervals, both are null")]
    notes: Annotated[list[str], Field(description="what it does not hold, and why")]


class EvaluateDocument(TypedDict):
    """A model beside its baselines, on the same windows."""

    split: str
    split_by: Annotated[
        str | None, Field(description="column whose values are divided (row: buckets of rows); null: dates are")
    ]
    by_row: Annotated[
        bool, Field(description="what is divided are buckets of rows, and not a column that is named row")
    ]
    windows: Annotated[int, Field(description="of the split; every row is judged on all of them")]
    measure: Annotated[Literal["mse", "mae"], Field(description="the error of numbers that decided")]
    history: Annotated[int, Field(description="steps that the model looks back")]
    observed: Annotated[
        dict[str, float],
        Field(description="by split: share of its target cells that was observed, of dates with a shard"),
    ]
    features: Annotated[list[str], Field(description="the numeric targets")]
    categorical: Annotated[list[str], Field(description="the categorical targets")]
    rows: list[EvaluateRow]
    outcome: Annotated[
        Literal["beats", "loses", "unclear"] | None,
        Field(
            description="beats: better than every rival in all targets; loses: worse than the best; null: no rival; "
            "with a sample it beats in both tables, or loses in one"
        ),
    ]
    beats_baselines: Annotated[bool | None, Field(description="whether outcome is beats; null without a rival")]
    best_baseline: Annotated[str | None, Field(description="by scaled MSE, without numbers by accuracy")]
    comparisons: Annotated[list[ComparisonDocument], Field(description="a twin of a trained ridge is none")]
    sample: Annotated[
        EvaluateSample | None, Field(description="the table of slow baselines, where they are judged on a sample")
    ]
    unseen: Annotated[
        EvaluateUnseen | None,
        Field(
            description="of nodes that training never saw, which no other table counts; null: nothing of any was observed"
        ),
    ]
    difficulty: Annotated[dict[str, float], Field(description="scaled MSE of ridge on train, validation, this split")]
    notes: list[str]
    forecasts: EvaluateForecasts | None
