"""The newest run is the one that was made last, wherever its files came from: every `latest` takes it."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.bookkeeping.checkpoint_chores import place_of
from dateshard.bookkeeping.listing import list_runs, open_run
from dateshard.judging.judge import newest_run
from dateshard.reports.show import run_to_show
from dateshard.shardstore.errors import NotThereError
from dateshard.shardstore.identity import seal_readable
from dateshard.trainer.runs.run_folder import TrainingRun, all_runs, newest

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}
RUNS = Path("data/runs")
MIDNIGHT = dt.datetime(2024, 10, 27, tzinfo=dt.UTC)  # Berlin's clocks go back at 01:00 UTC


def bare(name: str, created: str | None, dataset: str = "world", changed: float = 1.0) -> TrainingRun:
    """A run of which there is nothing but its run.json."""
    run = TrainingRun(RUNS / name)
    run.folder.mkdir(parents=True)
    data = {"name": dataset, "generation": 1}
    facts = {"settings": {}, "order": {}, "config": {}, "data": data}
    sealed = seal_readable(facts if created is None else {**facts, "created": created})
    (run.folder / "run.json").write_bytes(sealed)
    os.utime(run.folder / "run.json", (changed, changed))
    return run


def names() -> list[str]:
    return [run.name for run in all_runs(RUNS)]


def test_runs_are_ordered_by_the_instant_of_their_creation_then_by_name() -> None:
    bare("third", "2024-10-27T02:10:00+01:00", changed=1)  # 01:10 UTC, and the smaller text
    bare("second", "2024-10-27T02:40:00+02:00", changed=2)  # 00:40 UTC
    bare("first", "2024-10-26T23:59:59.999999+00:00", changed=9)
    bare("same_2", "2024-10-27T00:00:00+00:00", changed=5)
    bare("same", "2024-10-26T20:00:00-04:00", changed=6)
    assert names() == ["third", "second", "same_2", "same", "first"]
    shutil.copytree(RUNS / "first", RUNS / "copied")
    (RUNS / "first/run.json").touch()
    assert names() == ["third", "second", "same_2", "same", "first", "copied"]
    (RUNS / "notes").mkdir()
    (RUNS / "file").touch()
    assert [row["run"] for row in list_runs(None, None, 2)[0]] == ["third", "second"]


def test_a_run_whose_run_json_tells_no_instant_stands_where_its_oldest_file_does() -> None:
    first, last = MIDNIGHT.timestamp(), (MIDNIGHT + dt.timedelta(hours=2)).timestamp()
    bare("early", "2024-10-26T00:00:00+00:00")
    bare("late", "2024-10-27T01:00:00+00:00")
    damaged = bare("damaged", "2030-01-01T00:00:00+00:00", changed=first)
    path = damaged.folder / "run.json"
    path.write_bytes(path.read_bytes().replace(b"2030", b"1930"))
    os.utime(path, (first, first))
    assert names() == ["late", "damaged", "early"]
    os.utime(path, (last, last))
    os.utime(damaged.folder, (last, last))
    assert names() == ["damaged", "late", "early"]
    (damaged.folder / "run.lock").touch()
    os.utime(damaged.folder / "run.lock", (first, first))  # run.json was edited since
    assert names() == ["late", "damaged", "early"]
    for created in (None, "yesterday", 7, "0001-01-01T00:00:00+23:00", ""):
        shutil.rmtree(damaged.folder)
        bare("damaged", created, changed=first)  # type: ignore[arg-type]
        assert names() == ["late", "damaged", "early"]


def test_a_run_that_goes_while_runs_are_listed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bare("a", "2024-10-27T01:00:00+00:00")
    bare("b", None)
    honest = TrainingRun.created

    def meanwhile(run: TrainingRun, facts: Any) -> dt.datetime:
        shutil.rmtree(RUNS / "b", ignore_errors=True)
        return honest(run, facts)

    monkeypatch.setattr(TrainingRun, "created", meanwhile)
    assert names() == ["a"]


def test_every_latest_is_the_same_run_unless_a_dataset_or_a_checkpoint_is_wanted() -> None:
    with pytest.raises(NotThereError, match="no run yet"):
        newest(RUNS)
    bare("mine", "2024-10-27T01:00:00+00:00", changed=1)
    bare("older", "2024-10-27T00:00:00+00:00", changed=3)
    bare("other", "2024-10-26T00:00:00+00:00", dataset="other", changed=9)
    assert (
        newest(RUNS) == open_run("latest") == run_to_show(None) == run_to_show("latest") == TrainingRun(RUNS / "mine")
    )
    with pytest.raises(NotThereError, match="run mine has no checkpoints"):
        place_of(None, None)
    assert newest(RUNS, "other").name == "other"
    with pytest.raises(NotThereError, match="no run of dataset 'third' yet"):
        newest(RUNS, "third")
    for look in (lambda: newest(RUNS, with_checkpoint=True), lambda: newest_run(None)):
        with pytest.raises(NotThereError, match="no run yet"):
            look()
    (RUNS / "older/checkpoints").symlink_to("../../../disk")  # which is not mounted: no older run is taken for it
    assert newest(RUNS, with_checkpoint=True).name == newest_run(None).name == "older"


def test_the_newest_run_of_all_goes_on_with_its_own_settings(
    make_world: Callable[..., Any], ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(4, split=SPLIT, training={"epochs": 1, "batch_size": 16, "learning_rate": 0.002})
    monkeypatch.chdir(world.folder)
    world.config_file()
    assert "no run yet" in ds("train", "--resume", "latest", code=4).err
    assert "no configuration" in ds("train", "--resume", "auto", code=2).err
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    ds("train", "-c", "config.yaml", "--run", "old", "-q")
    ds("train", "-c", "config.yaml", "--run", "new", "--learning-rate", "0.003", "-q")
    shutil.move("data/runs/old", "away")
    shutil.copytree(
        "away", "data/runs/old", copy_function=shutil.copyfile
    )  # as cp -r does: its files are the newest now
    for which, epochs in (("latest", 2), ("best", 3)):
        done = ds("train", "--resume", which, "--epochs", str(epochs), "--json").document
        assert (done["run"], done["epoch"], done["state"]) == ("new", epochs, "epochs")
    assert (
        "learning_rate: checkpoint 0.003, now 0.004"
        in ds("train", "--resume", "latest", "--learning-rate", "0.004", code=2).err
    )
    assert len(list(Path("data/runs").glob("*/run.json"))) == 2

    (RUNS / "new/run.json").write_bytes(b"{}")  # its instant is told by the lock, which is not written again
    ds("train", "--resume", "old", "--epochs", "2", "-q")
    created = TrainingRun(RUNS / "new").created(None)
    assert ds("train", "--resume", "latest", "--epochs", "4", "--json").document["run"] == "new"
    facts = TrainingRun(RUNS / "new").facts().to_json()
    assert dt.datetime.fromisoformat(facts["created"]) == created
    assert "made_again_from" in facts
    del facts["created"]  # as it was made again before
    (RUNS / "new/run.json").write_bytes(seal_readable(facts))
    ds("train", "--resume", "new", "--epochs", "5", "-q")
    assert dt.datetime.fromisoformat(TrainingRun(RUNS / "new").facts().created) == created
