"""TensorBoard: what is in its event files, read back; a continued run doubles no point; without the package a sentence."""

from __future__ import annotations

import json
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dateshard.training.board import scalars

Run = Callable[..., Any]
ON = "trainer.logging.tensorboard=true"
SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06"}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    losses = {name: {"loss": "huber", "targets": [name]} for name in ("speed", "volume")}
    training = {"epochs": 2, "batch_size": 16, "losses": losses}
    made = make_world(6, split=SPLIT, training=training, checkpoint={"save_freq": 3})
    made.prepare()
    made.config_file()
    return made


def events(run: str) -> Iterator[Any]:
    """Records of all event files, oldest first: length, its checksum, the message, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(Path("data/runs", run, "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def points(run: str) -> list[tuple[str, int, float]]:
    """(tag, step, value) as TensorBoard shows them: the start of a session takes back all from its step on."""
    found: list[tuple[str, int, float]] = []
    for event in events(run):
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            found = [point for point in found if point[1] < event.step]
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_every_figure_of_the_metrics_stands_there(world: Any, ds: Run) -> None:
    ds("train", "-c", "config.yaml", "--run", "one", "-q", ON)
    found = points("one")
    tags = {tag for tag, *_ in found}
    assert tags >= {
        "train/loss", "train/loss/speed", "train/loss/volume", "train/learning_rate", "train/windows_per_second",
        "train/data_wait", "train/memory_bytes", "epoch/train_loss", "epoch/val_loss", "validation/rmse",
        "validation/losses/speed", "epoch/time_per_epoch",
    }  # fmt: skip
    rows = [json.loads(line) for line in Path("data/runs/one/metrics.jsonl").read_text().splitlines()]
    losses = {(step): value for tag, step, value in found if tag == "train/loss"}
    assert losses == {row["step"]: pytest.approx(row["loss"]) for row in rows if "loss" in row}
    held = {step: value for tag, step, value in found if tag == "epoch/val_loss"}
    assert held == {row["step"]: pytest.approx(row["val_loss"]) for row in rows if "val_loss" in row}


def test_a_run_that_was_killed_and_continued_has_each_point_once(
    world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dateshard.training import metric_rows as training_rows

    class Killed(BaseException):
        pass

    def add(rows: Any, event: Any) -> None:
        told(rows, event)
        if getattr(event, "step", 0) == 5:
            rows.close()  # as far as a kill lets it come: all is on the disk
            raise Killed

    told = training_rows.MetricRows.add
    with monkeypatch.context() as patch:
        patch.setattr(training_rows.MetricRows, "add", add)
        with pytest.raises(Killed):
            ds("train", "-c", "config.yaml", "--run", "cut", "-q", ON)
    assert max(step for _, step, _ in points("cut")) == 5
    ds("train", "--resume", "cut", "-q")
    ds("train", "-c", "config.yaml", "--run", "whole", "-q", ON)
    counted = Counter((tag, step) for tag, step, _ in points("cut"))
    assert set(counted.values()) == {1}
    timed = ("seconds", "second", "wait", "bytes", "time_per_epoch")
    plain = [{p for p in points(name) if not p[0].endswith(timed)} for name in ("cut", "whole")]
    assert plain[0] == plain[1]


def test_a_full_disk_ends_the_training_in_one_sentence_and_no_thread_goes_on(
    world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda _: open("/dev/full", "wb"))  # noqa: SIM115
    before = set(threading.enumerate())
    said = ds("train", "-c", "config.yaml", "--run", "one", "-q", ON, code=28).err
    assert said.startswith("Error: data/runs/one/tensorboard: no space left on the disk.")
    assert said.count("\n") == 1
    assert set(threading.enumerate()) == before


def test_without_the_package_one_sentence_says_what_to_install(
    world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    done = ds("train", "-c", "config.yaml", ON, code=2)
    assert "pip install 'dateshard[tensorboard]'" in done.err
    assert not Path("data/runs").exists()
    assert ds("train", "-c", "config.yaml", "--dry-run", ON, code=2)
    ds("train", "-c", "config.yaml", "--run", "plain", "-q")
    assert not Path("data/runs/plain/tensorboard").exists()


def test_scalars_of_a_row_are_its_figures_and_nothing_else() -> None:
    row = {"step": 3, "epoch": 1, "batch": 3, "resumed_at": 2, "loss": None, "losses": {"a": 0.5}, "skipped": 1}
    assert dict(scalars(row)) == {"train/loss/a": 0.5, "train/skipped": 1.0}
    whole = {"step": 9, "epoch": 1, "val_loss": 0.25, "train": {"mse": 1.0, "sampled": None}, "validation": {"r2": 0.5}}
    assert dict(scalars(whole)) == {"epoch/val_loss": 0.25, "epoch/train/mse": 1.0, "validation/r2": 0.5}
