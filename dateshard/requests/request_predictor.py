"""RequestPredictor: the newest models of requests, loaded once, asked for the next request or for an interval ahead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dateshard.places import data_folder
from dateshard.requests.accuracy.response_given_input import ResponseModel
from dateshard.requests.interval_facts import LEAD, LENGTH, LEVELS
from dateshard.requests.next_interval import IntervalForecast, IntervalModel, last_values, refuse_interval
from dateshard.requests.next_request import predict_next
from dateshard.requests.packed_model import FILE, PackedModel, unpack
from dateshard.requests.request_history import HistoryReader, Instant, RequestHistory
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import DateshardError, NotThereError, UsageError, Where

NAME = re.compile(r"(?P<preset>[a-z]+)_(?P<model>[a-z]+)_(?P<stamp>\d{8}_\d{6})(?:_(?P<number>\d+))?")
INTERVALS = "minutes"
RECENT = (
    2000  # rows that are looked at beside a model's history: what came lately before it, and rows that cannot be used
)


class RequestPredictor:
    """The newest complete models of a folder: `dateshard.RequestPredictor()`.

    Attributes:
        models: {name: model of the next request}. failed: {name: why it cannot be used}.
        intervals: the model of intervals; None where there is none, and `no_intervals` says why.
    """

    def __init__(self, model_dir: str | Path | None = None, models: Sequence[str] | None = None) -> None:
        """Loads the newest model of each name.

        Args:
            model_dir: None: `data/models`. models: only these; None: all that are there.

        Raises:
            NotThereError: there is none; says how to train one.
        """
        folder = Path(model_dir) if model_dir is not None else data_folder() / "models"
        newest = newest_models(folder)
        todo = f"Train some: {command('requests', 'train', '--data-path', 'FILE', '--model-dir', folder)}"
        if not newest:
            raise NotThereError("no complete model of requests", where=Where(file=str(folder)), todo=todo)
        wanted = [name for name in newest if name != INTERVALS] if models is None else [*models]
        self.models: dict[str, PackedModel] = {}
        self.failed = {name: f"there is no model '{name}' in {folder}. {todo}" for name in wanted if name not in newest}
        for name in (name for name in wanted if name in newest):
            self._load(name, newest[name])
        self.intervals, self.no_intervals = _intervals(folder, newest.get(INTERVALS))
        traces = [model.facts["trace"] for model in self.models.values()]
        if self.intervals is not None:
            traces.append(self.intervals.model.facts["trace"])
        if not traces:
            raise NotThereError(next(iter(self.failed.values()), self.no_intervals), where=Where(file=str(folder)))
        self._reader = HistoryReader(traces[0])

    def _load(self, name: str, folder: Path) -> None:
        try:
            self.models[name] = unpack(folder)
        except DateshardError as error:
            self.failed[name] = str(error)

    def read(self, path: str | Path, num_rows: int | None = None) -> pl.DataFrame:
        """The last records of a trace's file, as a history: two thousand of them, and two hours at least.

        Args:
            num_rows: only the first so many rows of the file.
        """
        return self._reader.file(Path(path), num_rows)

    def predict_next_request(self, history: Any, request_tokens: int | None = None) -> dict[str, Any]:
        """Forecasts the request after a history, by each model.

        Args:
            history: a frame of pandas or polars with the columns Timestamp, Request tokens and Response tokens, or those of
                the trace; rows in any order.
            request_tokens: input tokens of the next request, where they are known already: then `response_given_input`
                has its response tokens too.

        Returns:
            `predictions`: {model: timestamp on the trace's own scale, request_tokens, response_tokens, confidence (the
            measured share of held-out values inside their intervals), interval, coverage, median_absolute_error,
            calibration (how many held-out requests), or error}; and `response_given_input` with its verdict.

        Raises:
            UsageError: what was given is no history of requests.
        """
        longest = max((model.window.history for model in self.models.values()), default=0)
        records = self._reader.read(history, newest=longest + RECENT)
        predictions: dict[str, dict[str, Any]] = {}
        for name in sorted([*self.models, *self.failed]):
            try:
                predictions[name] = self._next(name, records)
            except DateshardError as error:
                predictions[name] = {"error": str(error)}
        answer: dict[str, Any] = {"predictions": predictions}
        if self.models:
            answer["response_given_input"] = self._response(records, request_tokens)
        return answer

    def _next(self, name: str, records: RequestHistory) -> dict[str, Any]:
        if name in self.failed:
            return {"error": self.failed[name]}
        return predict_next(self.models[name], records, self._reader.scale)

    def _response(self, records: RequestHistory, request_tokens: int | None) -> dict[str, Any]:
        """The response tokens of a request whose input is known, and whether that input tells anything."""
        model = ResponseModel.from_json(next(iter(self.models.values())).facts["response_given_input"])
        verdict = {"verdict": model.verdict, "tells": model.tells, "r2": model.with_r2, "r2_without": model.before_r2}
        if request_tokens is None:
            return verdict
        if request_tokens < 1:
            raise UsageError(f"a request of {request_tokens} tokens is none", todo="Give request_tokens of 1 or more")
        value, low, high = model.predict(float(request_tokens), records.output_R.astype(np.float64))
        interval = {"level": model.level, "low": round(low), "high": round(high), "coverage": model.coverage}
        return {
            "request_tokens": request_tokens,
            "response_tokens": max(1, round(value)),
            "interval": interval,
            **verdict,
        }

    def predict_interval(
        self,
        history: Any,
        length: float = LENGTH,
        lead: float = LEAD,
        levels: Sequence[float] = LEVELS,
        now: Instant | None = None,
    ) -> IntervalForecast:
        """Forecasts what comes in an interval: requests, and their tokens in and out, as quantiles.

        Args:
            history: a frame as `predict_next_request` takes it, of at least an hour; else the last values are the answer.
            length, lead: seconds of the interval, and from now until it begins.
            levels: of the quantiles.
            now: the instant up to which the history is complete, as the trace writes it; None: that of its last record.

        Raises:
            UsageError: an interval that is empty or out of reach, or a history without a usable record.
        """
        reach = None if self.intervals is None else self.intervals.reach_seconds
        refuse_interval(length, lead, levels, reach)
        needed = 3600.0 if self.intervals is None else self.intervals.history_seconds
        records = self._reader.read(history, seconds=None if now is not None else max(needed, length) + 120)
        if not len(records):
            return last_values(records, 0, length, levels, "")
        until = int(records.time_R[-1]) if now is None else self._reader.instant(now)
        if self.intervals is None:
            return last_values(records, until, length, levels, self.no_intervals)
        span = (until - int(records.time_R[0])) / 1e9
        if span < needed - 60:
            why = (
                f"the history spans {span:,.0f} s, and the model looks back {needed:,.0f} s: these are the last values"
            )
            return last_values(records, until, length, levels, why)
        return self.intervals.forecast(records, until, length, lead, levels)


def _intervals(parent: Path, folder: Path | None) -> tuple[IntervalModel | None, str]:
    """Returns (the model of intervals, why there is none)."""
    if folder is None:
        return None, f"there is no model of intervals in {parent}"
    try:
        return IntervalModel(model=unpack(folder)), ""
    except DateshardError as error:
        return None, str(error)


def newest_models(folder: Path) -> dict[str, Path]:
    """The newest complete folder of each model: {name: folder}, in order of name."""
    newest: dict[str, tuple[tuple[str, int], Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = NAME.fullmatch(path.name)
        if not match or not (path / FILE).is_file():
            continue
        age = (match["stamp"], int(match["number"] or 1))
        if match["model"] not in newest or newest[match["model"]][0] < age:
            newest[match["model"]] = (age, path)
    return {name: newest[name][1] for name in sorted(newest)}
