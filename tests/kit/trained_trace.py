"""Models of a small trace, trained once (the fixture `trained`) for all tests that only ask them."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dateshard.cli import run
from dateshard.places import data_in
from dateshard.requests.request_predictor import RequestPredictor
from tests.kit.traces import small_trace

SAMPLED = 1100
QUICK = ("trainer.window.history=10", "trainer.training.epochs=2", "trainer.training.batch_size=64")


@dataclass(frozen=True, slots=True)
class TrainedTrace:
    """A trace, the folder of data that its models lie in, and what `requests train` printed."""

    path: Path
    data: Path
    said: str

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def frame(self) -> pl.DataFrame:
        """The records that the models were trained on."""
        return pl.read_csv(self.path).tail(SAMPLED)

    def predictor(self) -> RequestPredictor:
        return RequestPredictor(self.models)


def trained_in(folder: Path) -> TrainedTrace:
    """Trains them by the command itself."""
    path, data, said = small_trace(folder / "trace.csv"), folder / "data", io.StringIO()
    options = ("--data-path", str(path), "--sample-size", str(SAMPLED), "--models", "lstm", "dlinear")
    with data_in(data), redirect_stdout(said):
        code = run(["requests", "train", *options, *QUICK])
    assert code == 0, said.getvalue()
    return TrainedTrace(path, data, said.getvalue())
