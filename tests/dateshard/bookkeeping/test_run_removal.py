"""`runs rm` removes what it was asked to remove and nothing else, and says what that frees."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from dateshard.cli import run
from dateshard.service.jobs.job_table import JobOrder, JobTable
from dateshard.shardstore.pinning.pins import forget_run, judge_pins, read_pins
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import World, build_world

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two runs, of which one has its checkpoints elsewhere."""
    folder = tmp_path_factory.mktemp("removal")
    world = build_world(folder, 4, split=SPLIT, training={"epochs": 1, "batch_size": 64})
    world.config_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["preprocess", "-c", "config.yaml", "--workers", "1", "-q"]) == 0
        assert run(["train", "-c", "config.yaml", "--run", "one", "-q"]) == 0
        assert run(["train", "-c", "config.yaml", "--run", "two", "-q", "--save-dir", "elsewhere"]) == 0
    return world


@pytest.fixture
def here(trained: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it all, of which something may be removed."""
    shutil.copytree(trained.folder, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy" / "data" / "runs"


def names(ds: Run) -> list[str]:
    return sorted(row["run"] for row in ds("runs", "--json").document)


def test_a_run_goes_with_all_that_is_in_it_and_the_others_stay(here: Path, ds: Run) -> None:
    held = sum(path.stat().st_size for path in (here / "one").rglob("*") if path.is_file())
    document = ds("runs", "rm", "one", "--yes", "--json").document
    assert (document["bytes"], document["dry_run"]) == (held, False)
    assert [(row["run"], row["checkpoints"], row["generation"]) for row in document["runs"]] == [("one", 1, 1)]
    assert names(ds) == ["two"]
    assert sorted(path.name for path in here.iterdir()) == ["ID", "two"]


def test_checkpoints_in_a_folder_of_the_users_own_stay_there_and_that_is_said(here: Path, ds: Run) -> None:
    said = ds("runs", "rm", "two", "--yes").out
    assert f"the checkpoints of two lie in {Path('elsewhere').resolve()}, and stay there" in said
    assert list(Path("elsewhere").glob("checkpoint_*"))
    assert names(ds) == ["one"]


def test_a_dry_run_and_a_no_remove_nothing(here: Path, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "would be freed" in ds("runs", "rm", "one", "--dry-run").out
    assert "There is no terminal to ask" in ds("runs", "rm", "one", code=2).err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    refused = ds("runs", "rm", "one", "two")
    assert "nothing was removed" in refused.out
    assert "one" in refused.err
    assert names(ds) == ["one", "two"]


def test_a_run_that_is_trained_now_stays_and_so_do_all_that_were_named_with_it(here: Path, ds: Run) -> None:
    lock = TrainingRun(here / "two").lock()
    try:
        assert "a process trains this run" in ds("runs", "rm", "one", "two", "--yes", code=75).err
    finally:
        os.close(lock)
    assert names(ds) == ["one", "two"]


def test_a_run_with_a_pinned_checkpoint_stays_until_it_is_unpinned(here: Path, ds: Run) -> None:
    (saved,) = (path.name for path in (here / "one" / "checkpoints").glob("checkpoint_*") if path.is_dir())
    ds("checkpoints", "pin", "one", saved)
    refused = ds("runs", "rm", "one", "--yes", code=2).err
    assert f"1 checkpoint of this run is pinned: {saved}" in refused
    assert f"checkpoints unpin one {saved}" in refused
    ds("checkpoints", "unpin", "one", saved)
    ds("runs", "rm", "one", "--yes")
    assert names(ds) == ["two"]


def test_a_run_of_a_job_that_may_go_on_stays(here: Path, ds: Run) -> None:
    table = JobTable.open(Path("data/service"))
    with table.database.writing():
        job = table.add("one", "n", JobOrder({}, {}, None), Path("nowhere"))
    assert job == "one"
    assert "a job of the service has this run, and is queued" in ds("runs", "rm", "one", "--yes", code=2).err
    assert names(ds) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "code", "words"), [("latest", 2, "may be another run"), ("none-such", 4, "none-such")]
)
def test_a_name_that_is_no_run_is_refused(here: Path, ds: Run, name: str, code: int, words: str) -> None:
    assert words in ds("runs", "rm", "one", name, "--yes", code=code).err
    assert names(ds) == ["one", "two"]


def test_what_a_killed_removal_left_is_no_run_and_goes_with_the_next(here: Path, ds: Run) -> None:
    shutil.copytree(here / "one", here / ".gone-1")
    assert names(ds) == ["one", "two"]
    ds("runs", "rm", "one", "--yes")
    assert sorted(path.name for path in here.iterdir()) == ["ID", "two"]


def test_a_generation_is_no_longer_pinned_once_its_run_is_removed(here: Path, ds: Run) -> None:
    (store,) = Path("data/shards").iterdir()
    ds("train", "-c", "config.yaml", "--run", "three", "-q")
    assert next(look.there for look in judge_pins(store, here) if look.pin.run == "three")
    ds("runs", "rm", "three", "--yes")
    assert sorted(pin.run for pin in read_pins(store)) == ["one", "two"]
    assert ds("clean", "-c", "config.yaml", "--json").document["pins"] == []  # it does not ask


def test_a_pin_whose_run_is_there_stays_whatever_is_forgotten(here: Path) -> None:
    (store,) = Path("data/shards").iterdir()
    held = [pin.run for pin in read_pins(store)]
    for name in ("one", "none-such"):
        forget_run(store, here / name)
    assert [pin.run for pin in read_pins(store)] == held


def test_the_command_that_cleans_names_the_configuration_of_the_dataset(here: Path, ds: Run) -> None:
    assert "go with: dateshard clean -c CONFIG\n" in ds("runs", "rm", "one", "--dry-run").out
    Path("configs").mkdir()
    Path("configs/other.yaml").write_text("dataset: another\n")
    Path("configs/my.yaml").write_text("dataset: 'world'  # ours\n")
    assert "go with: dateshard clean -c configs/my.yaml\n" in ds("runs", "rm", "one", "--dry-run").out
    Path("configs/second.yaml").write_text("dataset: world\n")
    assert "go with: dateshard clean -c CONFIG\n" in ds("runs", "rm", "one", "--dry-run").out
