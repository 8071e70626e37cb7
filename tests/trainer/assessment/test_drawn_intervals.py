"""The intervals of the windows that a run's page draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dateshard.cli import run
from dateshard.judging.verdict import kept
from dateshard.reports.forecasts import DrawnWindow, forecast_chart
from dateshard.shardstore.identity import seal
from dateshard.trainer.assessment.period import TimeColumns, packed, unpacked
from dateshard.trainer.data.window_dates import NOWHEN
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import build_world

MINUTES = 60  # of a step
HOUR = 3600 * 10**9
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
        patch.setattr("dateshard.trainer.assessment.period.MOST_COLUMNS", 20)  # 3 of the 48 steps in each
        assert run(["train", "-c", str(world.config_file()), "--run", "q", "-q"]) == 0
        assert run(["evaluate", "q", "--baselines", "repeat", "--forecasts", "all.parquet", "--report"]) == 0
    return folder


def drawn(split: str) -> list[dict[str, Any]]:
    verdict = kept(TrainingRun(Path("data/runs/q")), split)
    assert verdict is not None
    return verdict.shown


def forecasts() -> pl.DataFrame:
    """All windows of the test dates, as `evaluate --forecasts` wrote them."""
    return pl.read_parquet("all.parquet").with_columns(ns=pl.col("time").dt.epoch("ns"))


def of_period() -> dict[str, Any]:
    verdict = kept(TrainingRun(Path("data/runs/q")), "test")
    assert verdict is not None
    assert verdict.period is not None
    return verdict.period


def test_the_whole_period_is_that_of_windows_a_horizon_apart(quantiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quantiles)
    period, rows = of_period(), forecasts()
    steps = rows["horizon"].max()
    assert (period["columns"], period["width_ns"]) == (16, 3 * MINUTES * 60 * 10**9)
    anchors = rows["anchor"].unique().sort()[::steps]
    taken = rows.filter(pl.col("anchor").is_in(anchors.to_list())).with_columns(
        column=(pl.col("ns") - period["first_ns"]) // period["width_ns"]
    )
    assert taken.group_by("node", "feature", "ns").len()["len"].max() == 1  # each step once
    kinds = ("truth", "forecast", "low", "high")
    means = taken.group_by("node", "feature", "column").agg(pl.col(kinds).mean())
    compared = 0
    for name, series in period["series"].items():
        for node, own in zip(period["nodes"], series, strict=True):
            values = unpacked(own, 16)
            near = (own["high"] - own["low"]) / 254 / 2 + 1e-4
            for row in means.filter(node=node, feature=name).iter_rows(named=True):
                wanted = [np.nan if row[kind] is None else row[kind] for kind in kinds]
                np.testing.assert_allclose(values[:, row["column"]], wanted, atol=near)
                compared += 1
    assert compared == 2 * 3 * 16


def test_residuals_are_those_of_all_windows(quantiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quantiles)
    period = of_period()
    rows = forecasts().drop_nulls("truth").with_columns(error=pl.col("forecast") - pl.col("truth"))
    for name, own in period["residuals"].items():
        column = (pl.col("ns") - period["first_ns"]) // (period["width_ns"] * own["columns"])
        of_target = rows.filter(feature=name)
        means = of_target.group_by(column=column).agg(mean=pl.col("error").mean(), std=pl.col("error").std(ddof=0))
        for key in ("mean", "std"):
            wanted = dict(means.select("column", key).iter_rows())
            assert own[key] == pytest.approx([wanted.get(k) for k in range(len(own[key]))], rel=2e-3, abs=1e-3)
        bars = period["histograms"][name]
        counts, _ = np.histogram(of_target["error"], bars["edges"])
        mine = next(iter(bars["shares"].values()))
        assert np.abs(np.cumsum(mine) - np.cumsum(counts) / len(of_target)).max() < 0.02  # a bin is 0.4 % wide
        assert np.abs(np.asarray(mine)[:30].sum() - (of_target["error"] < bars["edges"][30]).mean()) < 0.02
        assert bars["outside"] == pytest.approx(1 - counts.sum() / len(of_target), abs=0.01)


def test_a_series_without_a_number_is_kept_as_one() -> None:
    """Of a node that was not observed, by a model whose forecasts are not finite."""
    series = packed(np.full((4, 3), np.nan))
    assert seal(series)
    assert np.isnan(unpacked(series, 3)).all()


@pytest.mark.parametrize(
    ("steps", "step", "width", "count", "together"),
    [
        (1, HOUR, 1, 1, 1),
        (300, HOUR, 1, 300, 3),
        (301, HOUR, 2, 151, 2),
        (336, HOUR, 2, 168, 12),
        (10**9, 1, 3333334, 300, 3),
    ],
)
def test_time_is_cut_into_a_bounded_number_of_columns(
    steps: int, step: int, width: int, count: int, together: int
) -> None:
    columns = TimeColumns.between(5, 5 + (steps - 1) * step, step)
    assert columns == TimeColumns(5, width * step, count)
    assert columns.together() == together
    instants = np.asarray([5, 5 + (steps - 1) * step, NOWHEN, 4, 5 + (count + 1) * width * step])
    assert columns.of(instants).tolist() == [0, count - 1, count, count, count]


def test_a_drawn_interval_is_the_one_that_the_window_had_in_the_pass(
    quantiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(quantiles)
    rows = forecasts()
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
    windows = sum(len(window["targets"]) for window in drawn("test"))
    assert page.count('class="b band"') == windows + 4  # two of the whole period, two around residuals


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
