"""The intervals of the windows that a run's page draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dateshard.cli import run
from dateshard.judging.verdict import kept
from dateshard.reports.forecasts import DrawnWindow, forecast_chart
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import build_world

MINUTES = 60  # of a step
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04", "test": "2024-03-05.."}


@pytest.fixture(scope="module")
def quantiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose model forecasts quantiles."""
    folder = tmp_path_factory.mktemp("quantiles")
    world = build_world(folder, 6, split=SPLIT, missing=0.2)
    world.tree["trainer"]["training"] = {
        "epochs": 1,
        "batch_size": 16,
        "loss": "quantile",
        "quantiles": [0.1, 0.5, 0.9],
    }
    world.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "-c", str(world.config_file()), "--run", "q", "-q"]) == 0
    return folder


def drawn(split: str) -> list[dict[str, Any]]:
    verdict = kept(TrainingRun(Path("data/runs/q")), split)
    assert verdict is not None
    return verdict.shown


def test_a_drawn_interval_is_the_one_that_the_window_had_in_the_pass(
    quantiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(quantiles)
    assert run(["evaluate", "q", "--baselines", "repeat", "--forecasts", "all.parquet", "--report"]) == 0
    rows = pl.read_parquet("all.parquet").with_columns(ns=pl.col("time").dt.epoch("ns"))
    for window in drawn("test"):
        first = window["first_ns"] + window["horizon_from"] * 60 * 10**9 * MINUTES
        begun = rows.filter((pl.col("horizon") == 1) & (pl.col("ns") == first))["anchor"][0]
        for target in window["targets"]:
            of_window = rows.filter(anchor=begun, node=window["node"], feature=target["name"]).sort("horizon")
            assert target["interval"]["quantiles"] is None
            for end in ("low", "high"):
                assert target["interval"][end] == pytest.approx(of_window[end].to_list(), rel=1e-5, abs=1e-5)
    page = Path("data/runs/q/report.html").read_text()
    assert "The band is the 90 % interval around the model's forecast" in page
    assert page.count('class="b band"') == sum(len(window["targets"]) for window in drawn("test"))


def test_where_intervals_were_made_the_models_own_quantiles_are_drawn(
    quantiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(quantiles)
    assert run(["evaluate", "q", "--baselines", "repeat", "--split", "validation", "--report", "v.html"]) == 0
    for target in (target for window in drawn("validation") for target in window["targets"]):
        assert target["interval"]["quantiles"] == [0.1, 0.9]
        [forecast] = (values for name, values in target["forecasts"].items() if name != "repeat")
        ends = zip(target["interval"]["low"], forecast, target["interval"]["high"], strict=True)
        assert all(low <= middle <= high for low, middle, high in ends)
    assert "The band reaches from the model's quantile 0.1 to 0.9." in Path("v.html").read_text()


def test_an_interval_is_a_band_of_several_steps_a_bar_of_one_and_nothing_where_it_has_no_ends() -> None:
    def chart(low: list[float | None], high: list[float | None]) -> str:
        lines = [("model", "b", [1.0] * len(low))]
        window = DrawnWindow(
            first=0.0,
            step=60.0,
            zone="UTC",
            horizon_from=1,
            truth=[0.0, *[1.0] * len(low)],
            lines=lines,
            interval=(low, high),
        )
        return forecast_chart(window, "title")

    assert 'class="b band"' in (two := chart([0.0, None], [2.0, 2.0]))
    assert "interval 0 to 2" in two
    assert "no interval" in two
    assert 'class="b bar"' in chart([-5.0], [5.0])
    assert ">-5<" in chart([-5.0], [5.0])  # the axis reaches to the ends
    assert 'class="b bar"' not in chart([None], [5.0])
