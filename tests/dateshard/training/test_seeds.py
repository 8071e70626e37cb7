"""Several seeds in one command, and several runs in one table: each run by its name, mean and spread of all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.training.seeds import name_of
from tests.conftest import World, build_world

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06.."}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two seeds of one configuration."""
    folder = tmp_path_factory.mktemp("seeds")
    world = build_world(folder, 7, split=SPLIT, training={"epochs": 1, "batch_size": 32, "seed": 3}, baselines=["mean"])
    world.config_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["preprocess", "-c", "config.yaml", "--workers", "1", "-q"]) == 0
        assert run(["train", "-c", "config.yaml", "--seeds", "2", "--run", "x", "-q"]) == 0
    return world


@pytest.fixture
def here(trained: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(trained.folder)
    return trained


def test_each_seed_has_a_run_of_its_name_and_the_table_their_mean_and_spread(here: World, ds: Run) -> None:
    together = ds("evaluate", "x-seed3", "x-seed4", "--json").document
    alone = [ds("evaluate", name, "--json").document for name in ("x-seed3", "x-seed4")]
    errors = [next(row for row in each["rows"] if row["kind"] == "model")["scaled"]["mse"] for each in alone]
    assert errors[0] != errors[1]
    assert [(row["run"], row["seed"], row["figures"]["scaled mse"]) for row in together["runs"]] == [
        ("x-seed3", 3, errors[0]),
        ("x-seed4", 4, errors[1]),
    ]
    mse = next(row for row in together["summary"] if row["figure"] == "scaled mse")
    assert mse["model"] == {
        "mean": fmean(errors),
        "deviation": stdev(errors),
        "lowest": min(errors),
        "highest": max(errors),
    }
    assert mse["baseline"] == "mean"
    assert together["beats"] + together["loses"] + together["unclear"] == 2


def test_a_terminal_shows_as_many_figures_as_stand_side_by_side(here: World, ds: Run, terminal: Any) -> None:
    names = [row["figure"] for row in ds("evaluate", "x-seed3", "x-seed4", "--json").document["summary"]]
    terminal.of(50)
    narrow = ds("evaluate", "x-seed3", "x-seed4").out.splitlines()
    table = narrow[1 : next(place for place, line in enumerate(narrow) if "more figure" in line)]
    assert max(map(len, table)) <= 50
    above, below = table[0].split(), table[1].split()[2:]
    assert [" ".join(both) for both in zip(above, below, strict=True)] == names[: len(below)]
    assert len(table[2].split()) == 2 + len(below) + 1
    terminal.of(300)
    assert "more figure" not in ds("evaluate", "x-seed3", "x-seed4").out


def test_without_a_name_seeds_do_not_go_on_with_runs_of_the_same_minute(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    began = dt.datetime.now()
    minutes = [began + dt.timedelta(minutes=later) for later in range(3)]
    for minute in minutes:
        Path(f"data/runs/{here.settings.dataset}-{minute:%Y%m%d-%H%M}-seed3").mkdir(parents=True)
    assert name_of(None, here.settings).endswith("_2")


def test_the_command_again_goes_on_with_the_seeds_that_are_missing(here: World, ds: Run) -> None:
    before = Path("data/runs/x-seed3/metrics.jsonl").read_bytes()
    document = ds("train", "-c", "config.yaml", "--seeds", "3", "--run", "x", "--json").document
    assert Path("data/runs/x-seed3/metrics.jsonl").read_bytes() == before
    assert [training["run"] for training in document["trainings"]] == ["x-seed3", "x-seed4", "x-seed5"]
    assert [training["state"] for training in document["trainings"]] == ["complete", "complete", "epochs"]
    assert len(document["judged"]["runs"]) == 3


def test_other_settings_of_the_same_name_are_refused(here: World, ds: Run) -> None:
    refused = ds("train", "-c", "config.yaml", "--seeds", "1", "--run", "x", "--batch-size", "16", code=2).err
    assert "trainer.training.batch_size: checkpoint 32, now 16" in refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "-c", "config.yaml", "--seeds", "2", "--resume", "auto"), "leave --resume out"),
        (("train", "-c", "config.yaml", "--seeds", "2", "--dry-run"), "leave --dry-run and --overfit out"),
        (
            ("train", "-c", "config.yaml", "--seeds", "2", "--devices", "2", "--json"),
            "leave --json (with --devices) out",
        ),
        (("evaluate", "x-seed3", "x-seed4", "--report"), "--report is of one run"),
        (("evaluate", "x-seed3", "x-seed3"), "'x-seed3' is named twice"),
    ],
)
def test_what_is_of_one_run_is_refused_of_several(here: World, ds: Run, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in ds(*words, code=2).err
