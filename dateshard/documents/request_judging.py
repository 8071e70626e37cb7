"""What `requests judge --json` prints."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict


class DialRow(TypedDict):
    """One setting of a predictor's dial, replayed."""

    dial: Annotated[str, Field(description="a factor, a level of quantiles, or a number of replicas")]
    replica_hours: float
    missed: Annotated[float, Field(description="share of requests that waited longer than the objective")]


class Saving(TypedDict):
    """What a predictor saves at matched misses, as a share of a constant fleet's replica-hours."""

    share: float
    low: Annotated[float | None, Field(description="of the 95 % interval; null: less than a day was replayed")]
    high: float | None


class JudgedPredictor(TypedDict):
    """A way to scale the fleet."""

    name: str
    chosen: Annotated[
        DialRow | None,
        Field(description="the setting that was chosen before; null: none missed few enough there"),
    ]
    kept: Annotated[bool, Field(description="whether that setting missed few enough in the replay too")]
    matched: Annotated[
        DialRow | None, Field(description="the cheapest setting that misses few enough, with hindsight; null: none")
    ]
    saved: Annotated[Saving | None, Field(description="null where one of the two has no matched setting")]
    curve: Annotated[list[tuple[float, float]], Field(description="(replica-hours, share of misses) of each setting")]


class JudgedService(TypedDict):
    """How the fleet serves."""

    capacity: Annotated[float, Field(description="work that a replica does in a second")]
    capacity_given: bool
    input_weight: float
    output_weight: float
    cold_start: Annotated[float, Field(description="seconds")]
    objective: Annotated[float, Field(description="seconds that a request may wait")]
    length: Annotated[int, Field(description="seconds between decisions")]
    fewest: Annotated[int, Field(description="replicas that always run")]


class RequestsJudgeDocument(TypedDict):
    """A trace's held-out part, replayed by each predictor; docs/requests.md defines the terms."""

    file: str
    dials_chosen_from: Annotated[str, Field(description="an instant; of traces that count from 0: after 2001-01-01")]
    replayed_from: str
    replayed_until: str
    intervals: Annotated[int, Field(description="that were replayed")]
    left_out: Annotated[int, Field(description="intervals that touch a hole of the trace")]
    requests: int
    mean_work: Annotated[float, Field(description="a second")]
    service: JudgedService
    most_missed: Annotated[float, Field(description="share of requests that may miss")]
    minimum: Annotated[DialRow, Field(description="the zero-lag minimum")]
    predictors: list[JudgedPredictor]
    skipped: Annotated[dict[str, str], Field(description="{predictor: why it is not judged}")]
    cheapest: Annotated[str | None, Field(description="of those that kept the misses; null: none did")]
    verdict: str
    page: Annotated[str | None, Field(description="the file of --plot")]
