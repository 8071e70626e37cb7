"""runs, compare and tail: what is told of runs that ended, stopped, failed, were cut off or run now."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dateshard.bookkeeping.listing import describe, open_run
from dateshard.bookkeeping.runs_screen import sparkline
from dateshard.bookkeeping.tail import Follower, Rewound, follow
from dateshard.cli import run
from dateshard.judging import verdict
from dateshard.shardstore.errors import BusyError
from dateshard.trainer.runs import status
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.status import is_locked
from tests.conftest import World, build_world
from tests.kit.limits import PATIENCE_SECONDS

Run = Callable[..., Any]
RUNS = Path("data/runs")
SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}
TRAINING = {"epochs": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three runs: `one` ended after two epochs, `two` after three steps, `wide` with another model."""
    folder = tmp_path_factory.mktemp("runs")
    world = build_world(folder, 8, split=SPLIT, training=TRAINING, checkpoint={"save_freq": 2})
    world.config_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["preprocess", "-c", "config.yaml", "--workers", "1", "-q"]) == 0
        for name, words in {
            "one": [],
            "two": ["--max-steps", "3"],
            "wide": ["trainer.model.hidden_units=[16]"],
        }.items():
            assert run(["train", "-c", "config.yaml", "--run", name, "-q", *words]) == 0
    return world


@pytest.fixture
def here(prepared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(prepared.folder, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "words", [["runs"], ["compare", "one", "two"], ["tail", "one", "--no-follow"], ["checkpoints", "list", "one"]]
)
def test_what_is_written_is_listed_without_torch(here: Path, words: list[str]) -> None:
    """Which takes 1.5 s to import."""
    code = f"import sys; from dateshard.cli import run; code = run({words!r}); sys.exit(9 if 'torch' in sys.modules else code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "one" in done.stdout


@contextmanager
def held(name: str) -> Iterator[None]:
    """As a process that trains it holds it."""
    descriptor = TrainingRun(RUNS / name).lock()
    try:
        yield
    finally:
        os.close(descriptor)


def rows(ds: Run, *words: str) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in ds("runs", "--json", *words).document}


def test_runs_tell_how_each_ended_and_how_it_goes_on(here: Path, ds: Run) -> None:
    found = rows(ds)
    assert [row["run"] for row in ds("runs", "--json").document] == ["wide", "two", "one"]
    one = found["one"]
    assert (one["state"], one["why"], one["resume"], one["dataset"]) == ("ended", "epochs", None, "world")
    assert (one["epoch"], one["epochs"], one["batch"], one["batches"]) == (2, 2, 7, 7)
    assert one["steps"] == 14
    sizes = sum(path.stat().st_size for path in (RUNS / "one").rglob("*.safetensors"))
    assert one["bytes"] == sizes
    assert one["seconds"] > 0
    two = found["two"]
    assert (two["state"], two["why"], two["steps"]) == ("ended", "max steps", 3)
    assert two["resume"] == "dateshard train --resume two --max-steps null"
    assert ds(*two["resume"].split()[1:], "-q")
    assert (rows(ds)["two"]["why"], rows(ds)["two"]["best_val_loss"]) == ("epochs", one["best_val_loss"])


def test_a_run_is_running_while_it_is_locked_and_cut_off_when_its_process_is_gone(here: Path, ds: Run) -> None:
    path = RUNS / "two" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running", "why": ""}))
    with held("two"):
        assert rows(ds)["two"]["state"] == "running"
        assert rows(ds)["two"]["resume"] is None
        assert rows(ds, "--state", "running").keys() == {"two"}
    found = rows(ds)["two"]
    assert (found["state"], found["resume"]) == ("cut off", "dateshard train --resume two")
    assert "go on: dateshard train --resume two\n" in ds("runs").out


def test_a_run_of_which_no_state_is_written_or_a_damaged_one_is_judged_by_its_checkpoints(here: Path, ds: Run) -> None:
    (RUNS / "one" / "state.json").unlink()
    for text in ("", "{", "[]", '{"state": 7}', '{"state": "ended", "began": "never"}', "[" * 9000):
        (RUNS / "two" / "state.json").write_text(text)
        found = rows(ds)
        assert (found["one"]["state"], found["one"]["why"]) == ("ended", "epochs")
        assert (found["two"]["state"], found["two"]["seconds"]) == ("cut off", None)


def test_filters_and_counts(here: Path, ds: Run) -> None:
    assert rows(ds, "-n", "1").keys() == {"wide"}
    assert rows(ds, "--dataset", "world").keys() == {"one", "two", "wide"}
    assert rows(ds, "--dataset", "other") == {}
    assert "no run of that kind" in ds("runs", "--state", "failed").out
    assert ds("runs", "--state", "nonsense", code=2)


def test_a_failure_and_a_stop_are_told_and_a_run_that_trains_again_is_neither(
    here: Path, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dateshard.training import view as training_screen

    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error", "data/runs/x")

    with monkeypatch.context() as patch:
        patch.setattr(training_screen.View, "show", fails)
        assert ds("train", "-c", "config.yaml", "--run", "bad", code=1)
    found = rows(ds)["bad"]
    assert found["state"] == "failed"
    assert "Input/output error" in found["why"]
    assert found["resume"] == "dateshard train --resume bad"
    assert "bad failed: " in ds("runs").out
    assert "failed: " in (RUNS / "bad" / "run.log").read_text()
    ds("train", "--resume", "bad", "-q")
    assert rows(ds)["bad"]["state"] == "ended"
    with monkeypatch.context() as patch:
        patch.setattr("dateshard.terminal.signals.StopSignal.asked", lambda _: True)
        assert ds("train", "-c", "config.yaml", "--run", "gone", code=130)
    assert rows(ds)["gone"]["state"] == "stopped"


def test_looking_at_a_lock_never_keeps_a_training_from_beginning(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks holds it, shared, for an instant: a training that begins then tries again."""
    looking = os.open(RUNS / "one" / "run.lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    with monkeypatch.context() as patch:
        patch.setattr("dateshard.trainer.runs.run_folder.time.sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with held("one"):
            pass
    os.close(looking)
    with held("one"), pytest.raises(BusyError), held("one"):
        pass


def test_more_epochs_of_a_continued_run_are_kept_for_the_next_time(here: Path, ds: Run) -> None:
    """Cut off after it was continued with more epochs, the plain command must not take it for complete."""
    made = TrainingRun(RUNS / "one").facts().created
    ds("train", "--resume", "one", "--epochs", "4", "--max-steps", "20", "-q")
    ds("train", "--resume", "one", "--max-steps", "null", "-q")
    assert (rows(ds)["one"]["epoch"], rows(ds)["one"]["epochs"]) == (4, 4)
    assert TrainingRun(RUNS / "one").facts().created == made


def test_compare_shows_settings_that_differ_and_outcomes(here: Path, ds: Run) -> None:
    document = ds("compare", "one", "wide", "--json").document
    assert document["settings"] == [{"key": "trainer.model.hidden_units", "values": [[8], [16]]}]
    assert document["notes"] == []
    one, wide = document["runs"]
    assert (one["parameters"], one["windows"], one["generation"]) == (one["parameters"], 103, 1)
    assert wide["parameters"] > one["parameters"]
    assert one["val_loss"][one["best_epoch"] - 1] == one["best_val_loss"]
    assert len(one["train_loss"]) == 2
    assert one["test"] is None
    table = {line.split("\t")[0]: line.split("\t")[1:] for line in ds("compare", "one", "wide").out.splitlines()}
    assert table["trainer.model.hidden_units"] == ["[8]", "[16]"]
    assert table["best val loss"] == [f"{run['best_val_loss']:.4f}" for run in (one, wide)]
    assert table["epoch"] == ["2", "2"]
    assert "Test figures come from: dateshard evaluate one" in table
    assert ds("compare", "one", code=2)


def test_of_three_runs_every_setting_in_which_any_differs_is_shown(here: Path, ds: Run) -> None:
    settings = ds("compare", "one", "two", "wide", "--json").document["settings"]
    assert {row["key"]: row["values"] for row in settings} == {
        "trainer.model.hidden_units": [[8], [8], [16]],
        "trainer.training.max_steps": [None, 3, None],
    }


def test_compare_tells_the_test_figures_that_an_evaluation_left(here: Path, ds: Run) -> None:
    rows_ = ds("evaluate", "one", "--json").document["rows"]
    (model,) = [row["scaled"] for row in rows_ if row["kind"] == "model"]
    (RUNS / "two" / "evaluation-test.json").write_bytes(b"{}")
    document = ds("compare", "one", "two", "--json").document
    assert [told["test"] for told in document["runs"]] == [
        {name: model[name] for name in ("mse", "rmse", "mae", "r2")},
        None,
    ]
    assert f"test mse (scaled)\t{model['mse']:.4f}\t-\n" in ds("compare", "one", "two").out
    shutil.rmtree(RUNS / "one" / "checkpoints" / verdict.kept(open_run("one"), "test").checkpoint)
    assert (
        ds("compare", "one", "two", "--json").document["runs"][0]["test"] is None
    )  # of weights that are not the best now


def test_compare_says_when_data_splits_and_objectives_differ(here: Path, ds: Run) -> None:
    split = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06", "test": "2024-03-07.."}
    overrides = [f"pipeline.split.{name}={dates}" for name, dates in split.items()]
    ds("preprocess", "-c", "config.yaml", *overrides, "--refit-statistics", "--workers", "1", "-q")
    ds("train", "-c", "config.yaml", "--run", "later", "-q", "--max-steps", "1", "trainer.training.loss=mae")
    notes = " ".join(ds("compare", "one", "later", "--json").document["notes"])
    assert "not the same data (generations: one 1, later 2)" in notes
    assert "their splits differ" in notes
    assert "their losses differ" in notes


def test_many_runs_stand_below_each_other_where_a_terminal_is_too_narrow_for_their_names(
    here: Path, ds: Run, terminal: Any
) -> None:
    names = ["one", "two", "wide", "a-run-of-which-the-name-is-as-long-as-people-make-them"]
    shutil.copytree(RUNS / "wide", RUNS / names[-1])
    terminal.of(80)
    out = ds("compare", *names, *names).out
    table, _, _ = out.partition("val loss by epoch")
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "  (4)  a-run-of-which-the-name-is-as-long-as-people-make-them\n" in table
    values = [line.split()[3:] for line in table.splitlines() if line.startswith("  best val loss")]
    whole = {line.split("\t")[0]: line.split("\t")[1:] for line in ds_piped(ds, terminal, names).splitlines()}
    assert len(values) > 1
    assert [value for row in values for value in row] == whole["best val loss"] * 2
    assert "  model.hidden_units " in table


def ds_piped(ds: Run, terminal: Any, names: list[str]) -> str:
    terminal.monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    return str(ds("compare", *names).out)


def test_tables_in_a_pipe_are_rounded_and_keep_the_marks_of_the_best(here: Path, ds: Run) -> None:
    table = [line.split("\t") for line in ds("evaluate", "one").out.splitlines() if line.count("\t") > 2]
    figures = [row[1].rstrip("*") for row in table[1:4]]
    assert sum(row[1].endswith("*") for row in table if row[0] in ("repeat", "mean", "ridge", "mlp")) >= 1
    assert all(float(figure) >= 0 for figure in figures)
    listed = ds("checkpoints", "list", "one").out
    (best,) = [line for line in listed.splitlines() if line.split("\t")[-1].startswith("best")]
    assert best.startswith(str(ds("checkpoints", "list", "one", "--json").document["best"]))
    for words in (
        ["show", "one"],
        ["compare", "one", "wide"],
        ["checkpoints", "info"],
        ["runs"],
        ["estimate", "-c", "config.yaml"],
    ):
        assert not re.search(r"\d\.\d{7,}", ds(*words).out), words


def test_a_terminal_gets_curves_on_one_scale_and_a_table_that_fits(here: Path, ds: Run, terminal: Any) -> None:
    terminal.of(80)
    out = ds("compare", "one", "wide").out
    assert "val loss by epoch" in out
    assert len([line for line in out.splitlines() if set("▁▂▃▄▅▆▇█") & set(line)]) == 2
    listed = ds("runs").out
    assert max(len(line) for line in listed.splitlines()) <= 80
    assert "best val loss" in listed
    terminal.of(140)
    assert "checkpoints" in ds("runs").out


def test_a_sparkline_falls_with_the_loss_and_leaves_gaps() -> None:
    assert sparkline([1.0, 0.5, None, 0.0], 0.0, 1.0) == "█▅ ▁"
    assert sparkline([], 0.0, 1.0) == ""
    assert sparkline([2.0, 2.0], 2.0, 2.0) == "▁▁"
    assert len(sparkline([float(n) for n in range(1000)], 0.0, 999.0)) <= 40


def test_tail_prints_the_last_lines_as_the_notes_write_them_and_how_the_run_ended(here: Path, ds: Run) -> None:
    lines = ds("tail", "one", "-n", "2").out.splitlines()
    assert lines[0].startswith("Epoch: 1, Batch: 6/7, Loss: 0.") or lines[0].startswith(
        "Epoch: 1, Batch: 6/7, Loss: 1."
    )
    assert lines[1].startswith("Epoch 1/2 - Time: ")
    assert " - Train Loss: " in lines[1]
    assert lines[2] == "one: ended: epochs"
    assert ds("tail", "latest", "-n", "0").out == "wide: ended: epochs\n"
    assert len(ds("tail", "one", "-n", "3", "--json").document["rows"]) == 3
    assert "no run 'none'" in ds("tail", "none", code=4).err


def test_tail_follows_a_run_over_a_rewind_until_it_ends(here: Path) -> None:
    """The rows that a continued run writes anew are told again; nothing else is, and nothing is lost."""
    run_, told = open_run("one"), list[Any]()
    path = run_.folder / "metrics.jsonl"
    follower = Follower(path=path)
    before = [row for row in follower.rows() if not isinstance(row, Rewound)]
    assert [row["step"] for row in before][-1] == 14
    whole = path.read_text().splitlines(keepends=True)
    with held("one"):
        thread = threading.Thread(target=lambda: told.extend(follow(run_, follower)))
        thread.start()
        run_.rewind_metrics(9)
        until(lambda: len(told) >= 1)
        with open(path, "a") as file:
            for line in whole[10:]:
                file.write(line[:20])
                file.flush()
                file.write(line[20:])
                file.flush()
        until(lambda: len(told) >= 1 + len(whole[10:]))
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()
    assert told[0] == Rewound(9)
    assert [json.dumps(row) + "\n" for row in told[1:]] == whole[10:]


def test_tail_notices_a_rewind_that_has_grown_again_before_it_looked(here: Path) -> None:
    run_ = open_run("one")
    follower = Follower(path=run_.folder / "metrics.jsonl")
    list(follower.rows())
    run_.rewind_metrics(9)
    with open(follower.path, "a") as file:
        file.write('{"step": 10, "epoch": 2, "batch": 3}\n{"step": 15, "epoch": 3, "batch": 1}\n')
        file.write(" " * 10_000 + "\n")  # as long as the old one: its size tells nothing
    rewound, *new = list(follower.rows())
    assert rewound == Rewound(10)
    assert [row["step"] for row in new] == [15]


def test_tail_notices_a_file_that_got_shorter_in_its_place(here: Path) -> None:
    """A new file may be given the number of the one that it replaced."""
    follower = Follower(path=open_run("one").folder / "metrics.jsonl")
    list(follower.rows())
    with open(follower.path, "r+") as file:
        file.truncate(0)
        file.write('{"step": 2, "epoch": 1}\n{"step": 15, "epoch": 3}\n')
    assert list(follower.rows()) == [Rewound(2), {"step": 15, "epoch": 3}]


def test_the_time_of_a_run_counts_what_a_killed_process_trained_and_nothing_that_it_stood_still(here: Path) -> None:
    run_, began = open_run("one"), dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    os.utime(run_.folder / "metrics.jsonl", (began.timestamp() + 7,) * 2)
    for state, seconds in {"stopped": 10.0, "ended": 10.0, "running": 17.0}.items():
        told = {"state": state, "why": "", "began": began.isoformat(), "seconds": 10.0, "from_step": 0}
        (run_.folder / "state.json").write_text(json.dumps(told))
        assert status.begin(run_, 3).seconds == seconds, state


def test_ctrl_c_ends_tail_quietly(here: Path, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dateshard.bookkeeping.tail.time.sleep", interrupted)
    with held("one"):
        done = ds("tail", "one", "-n", "1", code=130)
    assert done.err == ""
    assert done.out.count("\n") == 1


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_run_log_holds_what_the_terminal_said_with_times(here: Path, ds: Run) -> None:
    text = (RUNS / "one" / "run.log").read_text()
    assert "Epoch 1/2 - Time: " in text
    assert "one ended (epochs)" in text
    for line in text.splitlines():
        time.strptime(line[:19], "%Y-%m-%d %H:%M:%S")
    said = ds("train", "-c", "config.yaml", "--run", "loud").out
    logged = [line[21:] for line in (RUNS / "loud" / "run.log").read_text().splitlines()]
    assert logged == said.splitlines()


def test_run_log_is_bounded_and_nothing_fails_for_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.training import run_log

    monkeypatch.setattr(run_log, "MOST_BYTES", 1000)
    log = run_log.RunLog(RUNS / "one")
    for number in range(200):
        log.write(f"line {number}")
    files = sorted((RUNS / "one").glob("run.log*"))
    assert [path.name for path in files] == ["run.log", "run.log.1"]
    assert all(path.stat().st_size < 1100 for path in files)
    assert files[0].read_text().endswith("line 199\n")
    run_log.RunLog(RUNS / "nowhere").write("lost")


def test_a_lock_is_seen_without_being_taken(here: Path) -> None:
    descriptor = os.open(RUNS / "one" / "run.lock", os.O_RDWR)
    assert not is_locked(open_run("one"))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert is_locked(open_run("one"))
    assert describe(open_run("one"))[0]["state"] == "running"
    os.close(descriptor)
    assert not is_locked(TrainingRun(RUNS / "nothing"))
