"""The socket of a live load: requests are posted, an autoscaler reads one number, Prometheus reads gauges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from dateshard.requests.trace import MOST_TOKENS
from dateshard.service.fleet.live_load import LEVELS, LiveLoad, Told

MOST_POSTED = 10_000  # requests at a time
TEXT = "text/plain; version=0.0.4; charset=utf-8"
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class PostedRequest(BaseModel):
    """A request that was served: seconds since 1970 (left out: now), tokens in and out."""

    model_config = ConfigDict(extra="forbid")
    timestamp: Annotated[float, Field(ge=0, le=1e11)] | None = None
    input_tokens: Tokens
    output_tokens: Tokens


def app_of(load: LiveLoad, level: float) -> FastAPI:
    """Makes the application that takes requests and answers with the load ahead.

    Args:
        level: of the quantile that /load answers with.
    """
    app = FastAPI(title="dateshard load forecast", docs_url=None, redoc_url=None)

    @app.post("/requests", status_code=202)
    def post(came: Annotated[list[PostedRequest], Field(max_length=MOST_POSTED)]) -> dict[str, int]:
        load.tell(
            [
                Told(
                    time=None if each.timestamp is None else round(each.timestamp * 1e9),
                    input_tokens=each.input_tokens,
                    output_tokens=each.output_tokens,
                )
                for each in came
            ]
        )
        return {"accepted": len(came)}

    @app.get("/load")
    def value() -> dict[str, float | str | None]:
        forecast = load.forecast((level,))
        return {"value": load.work(forecast, level), "level": level, "fallback": forecast.fallback}

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse("".join(f"{line}\n" for line in exposition(load, level)), media_type=TEXT)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def exposition(load: LiveLoad, level: float) -> Iterator[str]:
    """Yields the lines that Prometheus reads."""
    levels = sorted({*LEVELS, level})
    forecast = load.forecast(levels)
    gauges = {
        "requests": ("Requests in the interval ahead.", forecast.count),
        "input_tokens": ("Input tokens in the interval ahead.", forecast.input_tokens),
        "output_tokens": ("Output tokens in the interval ahead.", forecast.output_tokens),
        "mean_input_tokens": ("Mean input tokens of a request in the interval ahead.", forecast.mean_input),
        "mean_output_tokens": ("Mean output tokens of a request in the interval ahead.", forecast.mean_output),
        "work_per_second": ("Weighed tokens a second.", {each: load.work(forecast, each) for each in levels}),
    }
    for name, (words, quantiles) in gauges.items():
        yield f"# HELP dateshard_forecast_{name} {words}"
        yield f"# TYPE dateshard_forecast_{name} gauge"
        for each, value in quantiles.items():
            yield f'dateshard_forecast_{name}{{quantile="{each:g}"}} {value!r}'
    yield "# HELP dateshard_forecast_fallback 1 if the last values are told instead of a forecast."
    yield "# TYPE dateshard_forecast_fallback gauge"
    yield f"dateshard_forecast_fallback {int(forecast.fallback is not None)}"
    yield "# HELP dateshard_requests_received_total Requests that were posted."
    yield "# TYPE dateshard_requests_received_total counter"
    yield f"dateshard_requests_received_total {load.received}"
