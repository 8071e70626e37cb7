"""What `requests predict --json` prints."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Written = float | str  # a time as the trace writes it: a number, or an instant


class Ends(TypedDict):
    """The interval of one value."""

    level: Annotated[float, Field(description="the share of values that shall lie inside")]
    low: Written
    high: Written


class NextRequest(TypedDict):
    """The next request by one model."""

    timestamp: Annotated[Written, Field(description="on the trace's own scale")]
    request_tokens: int
    response_tokens: int
    confidence: Annotated[
        float, Field(description="measured: the share of held-out values that lay inside their intervals")
    ]
    interval: Annotated[dict[str, Ends], Field(description="of timestamp, request_tokens and response_tokens")]
    coverage: Annotated[dict[str, float | None], Field(description="of each value, on held-out requests")]
    median_absolute_error: Annotated[dict[str, float | None], Field(description="of timestamp in seconds")]
    calibration: Annotated[int, Field(description="held-out requests that the intervals were made of")]


class FailedPrediction(TypedDict):
    """A model that gives no prediction."""

    error: Annotated[str, Field(description="why, and what to do next")]


class ResponseEnds(TypedDict):
    """The interval of the response tokens of a request whose input is known."""

    level: float
    low: int
    high: int
    coverage: Annotated[float, Field(description="on held-out requests")]


class ResponseGivenInput(TypedDict):
    """Whether a request's input tokens tell anything of its response tokens."""

    verdict: str
    tells: bool
    r2: Annotated[float, Field(description="on held-out requests, with the input tokens")]
    r2_without: float
    request_tokens: Annotated[NotRequired[int], Field(description="only with --request-tokens")]
    response_tokens: Annotated[NotRequired[int], Field(description="only with --request-tokens")]
    interval: Annotated[NotRequired[ResponseEnds], Field(description="only with --request-tokens")]


class IntervalAhead(TypedDict):
    """What comes in an interval ahead: quantiles by their level."""

    length: Annotated[float, Field(description="seconds")]
    lead: Annotated[float, Field(description="seconds from the last request to the begin of the interval")]
    count: Annotated[dict[str, float], Field(description="requests")]
    mean_input: Annotated[dict[str, float], Field(description="input tokens of a request")]
    mean_output: dict[str, float]
    input_tokens: Annotated[dict[str, float], Field(description="of all requests together")]
    output_tokens: dict[str, float]
    fallback: Annotated[str | None, Field(description="why these are the last values; null: they are a forecast")]


class RequestsPredictDocument(TypedDict):
    """The next request and the load of an interval ahead."""

    predictions: Annotated[dict[str, NextRequest | FailedPrediction], Field(description="by model")]
    response_given_input: NotRequired[ResponseGivenInput]
    interval: IntervalAhead
