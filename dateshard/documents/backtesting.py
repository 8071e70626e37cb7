"""What `backtest --json` prints, and what a backtest keeps in its file backtest.json."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict


class OriginRow(TypedDict):
    """One origin; all figures are null until it is judged."""

    origin: Annotated[int, Field(description="from 1, the oldest; the last is the configured split")]
    run: Annotated[str, Field(description="below data/backtests/NAME/runs")]
    split: Annotated[dict[str, list[list[str]]], Field(description="by split: first and last date of each range")]
    dates: Annotated[dict[str, int], Field(description="by split: how many dates")]
    generation: Annotated[int | None, Field(description="of the backtest's own store")]
    windows: Annotated[int | None, Field(description="of the test dates; every score is of all of them")]
    score: Annotated[float | None, Field(description="of the model; `measure` says what it is")]
    best_baseline: str | None
    baseline_score: float | None
    gain: Annotated[
        float | None, Field(description="over the best baseline: share of squared error less, or of targets more right")
    ]
    low: Annotated[float | None, Field(description="of its 95 % interval; null with too few dates")]
    high: float | None
    outcome: Annotated[
        Literal["beats", "loses", "unclear"] | None, Field(description="as in evaluate; null: no rival, or not judged")
    ]


class Spread(TypedDict):
    """One figure over the origins that are judged."""

    mean: float | None
    deviation: Annotated[float | None, Field(description="standard deviation, of n - 1; null of a single origin")]
    lowest: float | None
    highest: float | None


class BacktestSummary(TypedDict):
    """All judged origins together."""

    judged: int
    score: Spread
    baseline_score: Annotated[Spread, Field(description="of the best baseline of each origin")]
    gain: Spread
    beats: Annotated[int, Field(description="origins at which the model is surely better than every baseline")]
    loses: int
    unclear: int


class BacktestCost(TypedDict):
    """What a backtest would still do, of --dry-run."""

    generations: Annotated[int, Field(description="to be made in the backtest's own store")]
    dates: Annotated[int, Field(description="to be scaled, over all those generations")]
    measure: Annotated[
        int, Field(description="dates whose dumps must be read; of the others partial statistics are there")
    ]
    read_bytes: Annotated[int, Field(description="of those dumps")]
    written_bytes: Annotated[int | None, Field(description="at most, of shards; null before the nodes are known")]
    free_bytes: int
    seconds: Annotated[
        float | None, Field(description="of preparing, by earlier runs of preprocess; null: none was timed")
    ]


class BacktestDocument(TypedDict):
    """A model beside its baselines at several origins."""

    dataset: str
    name: str
    folder: Annotated[
        str, Field(description="a data folder of its own: DATESHARD_DATA=FOLDER lets other commands see it")
    ]
    model: str
    every: Annotated[int, Field(description="dates between two origins")]
    measure: Annotated[str, Field(description="mse (scaled; lower is better), or the accuracy of a category")]
    origins: Annotated[list[OriginRow], Field(description="the oldest first")]
    summary: Annotated[BacktestSummary | None, Field(description="null: none is judged yet")]
    cost: Annotated[BacktestCost | None, Field(description="null but of --dry-run")]
    page: Annotated[str | None, Field(description="the HTML page; null of --dry-run")]
