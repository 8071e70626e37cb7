"""show: curves in the terminal, a table in a pipe; and the figures that are kept beside a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dateshard.judging.verdict import kept, path_of
from dateshard.shardstore.identity import seal
from dateshard.trainer import checkpoint
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import build_world

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07..2024-03-08"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three epochs that was evaluated."""
    from dateshard.cli import run

    folder = tmp_path_factory.mktemp("trained")
    world = build_world(folder, 8, split=SPLIT, nodes=["北京", "n1", "n2"], training={"epochs": 3, "batch_size": 8})
    world.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "-c", str(world.config_file()), "--run", "one", "-q"]) == 0
        assert run(["evaluate", "one"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRun:
    monkeypatch.chdir(trained)
    return TrainingRun(Path("data/runs/one"))


def test_in_a_pipe_it_is_a_line_an_epoch_and_nothing_else(here: TrainingRun, ds: Run) -> None:
    lines = [line.split("\t") for line in ds("show").out.splitlines()]
    assert lines[0] == ["epoch", "step", "train_loss", "val_loss", "learning_rate", "windows_per_second"]
    rows = [row for row in here.metrics() if "val_loss" in row]
    for line, row in zip(lines[1:], rows, strict=True):
        assert [float(cell) for cell in line] == pytest.approx([row[key] for key in lines[0]], rel=1e-5)


@pytest.mark.parametrize("width", [80, 120, 40])
def test_on_a_terminal_it_fits_and_marks_every_validation(
    here: TrainingRun, ds: Run, terminal: Any, width: int
) -> None:
    from rich.cells import cell_len

    terminal.of(width)
    lines = re.sub(r"\x1b\[[\d;]*m", "", ds("show", "one").out).splitlines()
    chart = lines[2 : 2 + 12]
    assert all(cell_len(line) <= width for line in (lines[2:-1] if width > 40 else lines[2:16]))
    marks = "".join(chart)
    assert (marks.count("o"), marks.count("*")) == (2, 1)
    losses = [row["val_loss"] for row in here.metrics() if "val_loss" in row]
    heights = sorted((k, line.index(mark)) for k, line in enumerate(chart) for mark in "o*" if mark in line)
    assert len(losses) == 3
    assert heights  # a lower loss stands lower
    best = next(k for k, line in enumerate(chart) if "*" in line)
    assert best == max(k for k, _ in heights)
    assert any(0x2800 < ord(letter) < 0x2900 for letter in marks)
    assert any(re.match(r"test: MSE 0?\.?\d", line) for line in lines)
    assert sum(line.strip().startswith(("worst", "median", "best  ")) for line in lines) == 6


def test_without_braille_or_without_rows_it_still_says_what_there_is(
    here: TrainingRun, ds: Run, terminal: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dateshard.reports import show as showing

    terminal.of(80)
    monkeypatch.setattr(showing, "_letters", lambda screen: False)
    assert not re.search(r"[\u2800-\u28ff]", ds("show", "one").out)
    empty = TrainingRun(tmp_path / "data" / "runs" / "empty")
    empty.folder.mkdir(parents=True)
    empty.write_facts(replace(here.facts(), name="empty"))
    monkeypatch.chdir(tmp_path)
    told = ds("show").out
    assert "cut off before its first checkpoint" in told
    assert "no loss is a number yet" in told
    assert "not evaluated yet. Run: dateshard evaluate empty" in told
    assert "no page yet. Run: dateshard report empty" in told


def test_open_makes_the_page_where_it_is_missing_or_old(
    here: TrainingRun, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    import click

    opened = list[str]()
    monkeypatch.setattr(click, "launch", opened.append)
    ds("show", "one", "--open")
    page = here.folder / "report.html"
    written = page.stat().st_mtime_ns
    ds("show", "one", "--open")
    assert page.stat().st_mtime_ns == written
    after = page.stat().st_mtime + 5
    os.utime(here.folder / "metrics.jsonl", (after, after))
    ds("show", "one", "--open")
    assert page.stat().st_mtime_ns != written
    assert opened == ["data/runs/one/report.html"] * 3


def test_what_is_kept_is_bound_to_the_checkpoint_and_refuses_any_other(here: TrainingRun, ds: Run) -> None:
    best, _ = checkpoint.best(here.checkpoints)
    latest, _ = checkpoint.newest(here.checkpoints)
    assert best is not None
    assert latest is not None
    verdict = kept(here, "test", best)
    assert verdict is not None
    told = ds("evaluate", "one", "--json").document
    model = next(row for row in told["rows"] if row["kind"] == "model")
    assert verdict.headline() == {
        "split": "test",
        "checkpoint": best.name,
        "windows": told["windows"],
        "mse": model["scaled"]["mse"],
        "mae": model["scaled"]["mae"],
        "accuracy": {},
        "best_baseline": min((r for r in told["rows"] if r["kind"] == "baseline"), key=lambda r: r["scaled"]["mse"])[
            "name"
        ],
        "best_baseline_mse": min(row["scaled"]["mse"] for row in told["rows"] if row["kind"] == "baseline"),
        "outcome": told["outcome"],
        "beats_baselines": told["beats_baselines"],
    }
    other = checkpoint.Checkpoint(best.folder, best.state, {"model.safetensors": (1, "0")})
    assert kept(here, "test", other) is None
    assert kept(here, "validation") is None
    path = path_of(here, "test")
    before = path.read_bytes()
    ds("evaluate", "one", "--baselines", "repeat")  # kept like any other
    beside = kept(here, "test", best)
    assert beside is not None
    assert [row["name"] for row in beside.document["rows"]] == ["repeat", "mlp"]
    ds("evaluate", "one")
    assert [row["name"] for row in kept(here, "test", best).document["rows"]] == [row["name"] for row in told["rows"]]  # type: ignore[union-attr]
    before = path.read_bytes()
    ds("evaluate", "one", "--checkpoint", "latest")
    assert path.read_bytes() == before
    content = json.loads(before)["content"]
    assert content["bound"]["generation"] == 1
    path.write_bytes(before.replace(b'"windows"', b'"wimdows"', 1))
    assert kept(here, "test") is None
    path.write_bytes(seal({**content, "version": 1}))  # judged before there were intervals: figures without a verdict
    assert kept(here, "test", best) is None
    older = kept(here, "test", best, older=True)
    assert older is not None
    assert older.headline()["mse"] == verdict.headline()["mse"]
    path.write_bytes(before)


def test_the_rows_of_the_metrics_tell_speed_waiting_and_memory(here: TrainingRun) -> None:
    rows = list(here.metrics())
    for row in rows:
        assert row["windows_per_second"] > 0
        assert 0 <= row["data_wait"] <= 1
        assert row["memory_bytes"] > 1e6
        assert "resumed_at" not in row
    assert all(row["peak_memory_bytes"] >= row["memory_bytes"] for row in rows if "val_loss" in row)


def test_a_run_that_goes_on_tells_from_where(make_world: Callable[..., Any], ds: Run) -> None:
    import shutil

    world = make_world(8, split=SPLIT, checkpoint={"save_freq": 2})
    world.prepare()
    ds("train", "-c", str(world.config_file()), "--run", "again", "-q")
    run = TrainingRun(Path("data/runs/again"))
    for folder in sorted(run.checkpoints.glob("checkpoint_*")):
        if folder.name != "checkpoint_epoch_1_batch_4":
            shutil.rmtree(folder)
    ds("train", "--resume", "again", "-q")
    told = [row["resumed_at"] for row in run.metrics() if "resumed_at" in row]
    assert told == [4]
    assert next(row["step"] for row in run.metrics() if "resumed_at" in row) == 5
