"""Models of a small trace, trained once for all tests that only ask them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from dateshard.places import data_in
from dateshard.requests.request_predictor import RequestPredictor
from dateshard.requests.request_training import RequestOutcome, RequestTraining, train_requests
from tests.kit.traces import small_trace

QUICK = ("trainer.window.history=10", "trainer.training.epochs=2", "trainer.training.batch_size=64")


@dataclass(frozen=True, slots=True)
class TrainedTrace:
    """A trace, the folder of data that its models lie in, and what the training came to."""

    path: Path
    data: Path
    outcome: RequestOutcome

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def frame(self) -> pl.DataFrame:
        return pl.read_csv(self.path)

    def predictor(self) -> RequestPredictor:
        return RequestPredictor(self.models)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedTrace:
    folder = tmp_path_factory.mktemp("trace")
    path, data = small_trace(folder / "trace.csv"), folder / "data"
    with data_in(data):
        outcome = train_requests(RequestTraining(data_path=str(path), overrides=QUICK), lambda *_: None)
    assert [model.error for model in outcome.models] == ["", ""]
    assert outcome.intervals is not None, outcome.no_intervals
    return TrainedTrace(path, data, outcome)
