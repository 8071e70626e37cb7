"""Checkpoints written while training goes on: what reaches the disk, what is told of it, and what goes wrong there."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load as parse

from dateshard.shardstore.errors import DiskFullError
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import CheckpointWriter, Saved, saving, writer
from dateshard.trainer.checkpoint.checkpoint_state import CheckpointState
from dateshard.trainer.checkpoint.snapshot import form_of
from dateshard.trainer.loop import Ended, Event, Stepped, train
from dateshard.trainer.optimization.schedule import LossHistory
from dateshard.trainer.session import Session
from tests.kit.limits import PATIENCE_SECONDS

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
BATCHES = 5  # an epoch


def never() -> bool:
    return False


@pytest.fixture
def session(make_world: Make, session_of: Make) -> Session:
    """Two epochs of five batches, a save every two."""
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": 2})
    world.prepare()
    made: Session = session_of(world)
    return made


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dateshard-save")]


class Disk:
    """A disk on which a write begins when it is allowed to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.busy = threading.Event(), threading.Event()
        self.threads: list[str] = []
        monkeypatch.setattr(writer, "write", self._write)

    def _write(self, parent: Path, state: CheckpointState, data: Mapping[str, memoryview]) -> Path:
        self.threads.append(threading.current_thread().name)
        self.busy.set()
        assert self.free.wait(PATIENCE_SECONDS)
        return saving.write(parent, state, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.free.set()


def until(events: Iterator[Event], batch: int) -> list[Event]:
    """Events up to the step of that batch."""
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, Stepped) and event.batch == batch:
            return seen
    raise AssertionError(seen)


def names(session: Session) -> set[str]:
    return {path.name for path in session.checkpoints.iterdir()} if session.checkpoints.exists() else set()


def listed(session: Session) -> set[str]:
    found, passed = checkpoint.scan(session.checkpoints)
    assert passed == []
    return {one.name for one in found}


def tensors_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoint.read_files(checkpoint.inspect(folder))


BOUND = checkpoint.Bound({}, checkpoint.DataIdentity("world", 1), {})


def state_of(batch: int) -> CheckpointState:
    return CheckpointState(
        epoch=0,
        batch=batch,
        step=1,
        num_batches=9,
        bound=BOUND,
        config={},
        environment={},
        progress=LossHistory(),
        losses={},
    )


def saves(*numbers: int) -> Iterator[tuple[CheckpointState, dict[str, dict[str, torch.Tensor]]]]:
    for number in numbers:
        yield state_of(number), {"model": {"w": torch.full((3,), float(number))}}


def test_training_goes_on_while_a_checkpoint_is_written_and_tells_it_when_it_is_on_disk(
    session: Session, disk: Disk
) -> None:
    events = train(session, never)
    seen = until(events, 3)  # the save of batch 2 has been handed over
    assert disk.busy.wait(PATIENCE_SECONDS)
    assert [type(event) for event in seen] == [Stepped] * 3
    assert names(session) == set()
    disk.free.set()
    rest = list(events)
    saved = [event for event in rest if isinstance(event, Saved)]
    assert [(one.epoch, one.batch) for one in saved] == [(0, 2), (0, 4), (0, 5), (1, 2), (1, 4), (1, 5)]
    assert {one.folder.name for one in saved} == listed(session)
    assert isinstance(rest[-1], Ended)
    assert isinstance(rest[-2], Saved)
    assert all(name.startswith("dateshard-save") for name in disk.threads)


@pytest.mark.parametrize(
    "training",
    [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.9}],
    ids=["adam", "sgd", "momentum"],
)
def test_the_room_made_before_the_first_step_is_all_that_the_checkpoints_need(
    make_world: Make, session_of: Make, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    made, taken = [], []
    prepare, save = CheckpointWriter.prepare, CheckpointWriter.save

    def prepared(self: CheckpointWriter, tensors: Any) -> None:
        prepare(self, tensors)
        made.append({stem: form_of(group) for stem, group in tensors.items()})

    def saved(self: CheckpointWriter, state: Any, tensors: Any, **more: Any) -> None:
        taken.append({stem: form_of(tensors[stem]) for stem in ("model", "optimizer")})
        save(self, state, tensors, **more)

    monkeypatch.setattr(CheckpointWriter, "prepare", prepared)
    monkeypatch.setattr(CheckpointWriter, "save", saved)
    world = make_world(
        5, split=SPLIT, checkpoint={"save_freq": 2}, training={"epochs": 1, "batch_size": 16, **training}
    )
    world.prepare()
    list(train(session_of(world), never))
    assert len(made) == 1
    assert taken == made * 3


def test_a_checkpoint_is_never_told_before_it_can_be_read(session: Session) -> None:
    for event in train(session, never):
        if isinstance(event, Saved):
            tensors_of(event.folder)
            note = json.loads((session.checkpoints / "latest.json").read_text())
            assert (session.checkpoints / note["checkpoint"] / "manifest.json").exists()
            assert event.seconds >= event.stall_seconds >= event.waited_seconds >= 0.0


@pytest.mark.parametrize("slow", [True, False], ids=["slow disk", "this disk"])
def test_what_training_changes_after_a_save_was_taken_does_not_reach_it(
    make_world: Make, session_of: Make, disk: Disk, slow: bool
) -> None:
    """Weights and moments of every step are noted as they are, and compared with what was written a step later."""
    model = {"name": "mlp", "hidden_units": [256, 256], "dropout_rate": 0.0}
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": 1}, model=model)
    world.prepare()
    session = session_of(world)
    if not slow:
        disk.free.set()
    noted = {}
    for event in train(session, never):
        if isinstance(event, Stepped):
            weights = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
            held = session.optimizer.state_dict()["state"]
            noted[event.epoch, event.batch] = weights, [part.clone() for one in held.values() for part in one.values()]
            if event.batch > 1:
                disk.free.set()
    assert len(noted) == 2 * BATCHES
    for (epoch, batch), (weights, moments) in noted.items():
        found = tensors_of(session.checkpoints / f"checkpoint_epoch_{epoch + 1}_batch_{batch}")
        assert found["model"].keys() == weights.keys()
        assert all(torch.equal(found["model"][name], tensor) for name, tensor in weights.items())
        written = list(found["optimizer"].values())
        assert len(written) == len(moments)
        assert all(any(torch.equal(one, other) for other in written) for one in moments)


def test_a_save_that_comes_while_another_is_written_waits_for_it(tmp_path: Path, disk: Disk) -> None:
    with CheckpointWriter(tmp_path) as made:
        first, second = saves(1, 2)
        made.save(*first)
        assert disk.busy.wait(PATIENCE_SECONDS)
        entered = threading.Event()
        releaser = threading.Thread(target=lambda: (entered.wait(PATIENCE_SECONDS), disk.free.set()))
        releaser.start()
        assert made.drain_saved() == []
        entered.set()
        made.save(*second)  # returns only because the disk was freed
        assert {path.name for path in tmp_path.iterdir()} >= {"checkpoint_epoch_1_batch_1"}
        told = made.finish()
        releaser.join()
    assert [one.batch for one in told] == [1, 2]
    assert told[1].waited_seconds > 0.0
    assert told[0].waited_seconds < told[0].seconds
    for number, one in enumerate(told, start=1):
        assert parse((one.folder / "model.safetensors").read_bytes())["w"].tolist() == [float(number)] * 3


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the second file of a checkpoint finds no room: half of it is written."""
    honest = saving.write_file

    def write_file(path: Path, data: bytes | memoryview) -> None:
        if path.name == "optimizer.safetensors":
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(path, data)

    monkeypatch.setattr(saving, "write_file", write_file)


def test_an_error_of_the_writer_is_raised_at_the_next_step_and_leaves_nothing_half(
    session: Session, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    disk.free.set()
    seen: list[Event] = []
    with pytest.raises(DiskFullError, match=r"checkpoint_epoch_1_batch_2: no space left on the disk") as caught:
        seen += train(session, never)
    assert caught.value.exit_code == 28
    assert [event.batch for event in seen if isinstance(event, Stepped)] in ([1, 2, 3], [1, 2, 3, 4])
    assert not [event for event in seen if isinstance(event, Saved)]
    assert names(session) == set()


def test_the_error_of_the_last_save_is_raised_before_the_end_is_told(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = train(session, never)
    until(events, 5)
    until(events, 5)
    while "checkpoint_epoch_2_batch_4" not in names(session):  # it is still in flight on a busy machine
        time.sleep(0.001)
    full(monkeypatch)
    seen: list[Event] = []
    with pytest.raises(DiskFullError, match="checkpoint_epoch_2_batch_5"):
        seen.extend(events)
    assert not [event for event in seen if isinstance(event, Ended)]
    assert listed(session) == {f"checkpoint_epoch_{e}_batch_{b}" for e in (1, 2) for b in (2, 4, 5)} - {
        "checkpoint_epoch_2_batch_5"
    }
    assert json.loads((session.checkpoints / "latest.json").read_text())["batch"] == 4


def test_a_stop_waits_until_its_checkpoint_is_on_disk(session: Session, disk: Disk) -> None:
    stop = threading.Event()
    events = train(session, stop.is_set)
    until(events, 3)
    stop.set()
    threading.Thread(target=lambda: (disk.busy.wait(PATIENCE_SECONDS), disk.free.set())).start()
    rest = list(events)
    assert [type(event) for event in rest] == [Saved, Saved, Ended]
    assert listed(session) == {"checkpoint_epoch_1_batch_2", "checkpoint_epoch_1_batch_3"}


def test_a_closed_training_waits_for_the_save_in_flight(session: Session, disk: Disk) -> None:
    events = train(session, never)
    until(events, 3)
    assert disk.busy.wait(PATIENCE_SECONDS)
    threading.Timer(0.01, disk.free.set).start()
    events.close()  # type: ignore[attr-defined]
    assert listed(session) == {"checkpoint_epoch_1_batch_2"}


def test_a_training_that_fails_does_not_lose_the_save_in_flight(session: Session, disk: Disk) -> None:
    asked = iter([False] * 2)

    def should_stop() -> bool:
        try:
            return next(asked)
        except StopIteration:
            threading.Timer(0.01, disk.free.set).start()
            raise FloatingPointError("broken") from None

    with pytest.raises(FloatingPointError, match="broken"):
        list(train(session, should_stop))
    assert listed(session) == {"checkpoint_epoch_1_batch_2"}


def test_where_both_fail_the_error_of_the_training_goes_up_with_a_word_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "fsync_path", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "torn", path)))

    def fails() -> None:
        with CheckpointWriter(tmp_path) as made:
            made.save(*next(saves(1)))
            raise FloatingPointError("broken")

    with pytest.raises(FloatingPointError, match="broken") as caught:
        fails()
    assert "torn" in str(caught.value.__notes__)
    assert list(tmp_path.iterdir()) == []


def test_after_a_save_that_failed_the_next_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointWriter(tmp_path) as made:
        with monkeypatch.context() as broken:
            broken.setattr(saving, "fsync_path", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "torn", path)))
            made.save(*next(saves(1)))
            with pytest.raises(OSError, match="torn"):
                made.finish()
        made.save(*next(saves(2)))
        assert [one.batch for one in made.finish()] == [2]


def test_what_follows_a_checkpoint_runs_in_the_writing_thread_once_it_is_there(tmp_path: Path) -> None:
    seen: list[Any] = []

    def after(folder: Path) -> None:
        seen.append((folder.name, (folder / "manifest.json").exists(), threading.current_thread().name))
        if folder.name.endswith("2"):
            raise OSError(errno.EIO, "afterwards")

    with CheckpointWriter(tmp_path, after) as made:
        one, two = saves(1, 2)
        made.save(*one)
        made.finish()
        made.save(*two)
        with pytest.raises(OSError, match="afterwards"):
            made.finish()
    assert [row[:2] for row in seen] == [("checkpoint_epoch_1_batch_1", True), ("checkpoint_epoch_1_batch_2", True)]
    assert all(row[2].startswith("dateshard-save") for row in seen)


def test_two_trainings_in_one_process_write_each_their_own(make_world: Make, session_of: Make) -> None:
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": 1})
    world.prepare()
    sessions = [session_of(world) for _ in range(2)]
    for number, session in enumerate(sessions):
        session.checkpoints = session.checkpoints.with_name(f"run{number}")
    for _ in zip(*(train(session, never) for session in sessions), strict=True):
        pass
    left, right = ({p.name: p.read_bytes() for p in s.checkpoints.glob("*/*")} for s in sessions)
    assert listed(sessions[0]) == listed(sessions[1])
    assert len(listed(sessions[0])) == 2 * BATCHES
    assert left == right


def test_a_training_that_is_closed_tells_that_its_save_in_flight_failed(
    session: Session, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    events = train(session, never)
    until(events, 3)
    disk.free.set()
    with pytest.raises(DiskFullError, match="checkpoint_epoch_1_batch_2"):
        events.close()


def test_a_signal_that_breaks_into_a_wait_leaves_the_save_to_be_waited_for(tmp_path: Path, disk: Disk) -> None:
    class Asked(Exception):  # noqa: N818 - as Ctrl-C
        pass

    def asked(*_: Any) -> None:
        raise Asked

    (first,) = saves(1)
    before = signal.signal(signal.SIGUSR1, asked)
    soon = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        with CheckpointWriter(tmp_path) as made:
            made.save(*first)
            assert disk.busy.wait(PATIENCE_SECONDS)
            with pytest.raises(Asked):  # noqa: PT012 - on a busy machine it may come at once
                soon.start()
                made.finish()
            disk.free.set()
            assert [one.batch for one in made.finish()] == [1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_forked_child_neither_waits_for_its_parents_save_nor_disturbs_it(tmp_path: Path, disk: Disk) -> None:
    with CheckpointWriter(tmp_path) as made:
        first, second = saves(1, 2)
        made.save(*first)
        assert disk.busy.wait(PATIENCE_SECONDS)
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.alarm(int(PATIENCE_SECONDS))  # it may not hang
                disk.free = threading.Event()  # the other one may be locked by a thread that this child has not
                disk.free.set()
                assert made.drain_saved() == []
                made.save(*second)
                code = [one.batch for one in made.finish()] != [2]
                made.__exit__(None, None, None)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        disk.free.set()
        assert [one.batch for one in made.finish()] == [1]
    assert {path.name for path in tmp_path.glob("checkpoint_*")} == {f"checkpoint_epoch_1_batch_{n}" for n in (1, 2)}


class Clock(SimpleNamespace):
    """A clock that is set."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now * 2


def test_a_save_fits_once_its_cost_is_the_share_of_the_time_since_the_last(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(writer, "time", clock)
    with CheckpointWriter(tmp_path) as made:
        first, second = saves(1, 2)
        assert made.fits(0.1)  # nothing is known yet
        made.save(*first)
        assert disk.busy.wait(PATIENCE_SECONDS)
        clock.now = 103.0  # the writer computes 6 s meanwhile, training stood still for nothing
        assert not made.fits(1.0)  # in flight
        assert made.fits(None)
        disk.free.set()
        [saved] = made.finish()
        assert (saved.seconds, saved.stall_seconds, saved.cpu_seconds) == (3.0, 0.0, 6.0)
        clock.now = 159.0
        assert not made.fits(0.1)
        assert made.fits(0.11)
        clock.now = 160.0
        assert made.fits(0.1)
        made.save(*second)
        assert not made.fits(0.1)


def test_with_a_share_that_nothing_fits_only_what_must_be_saved_is_saved(make_world: Make, session_of: Make) -> None:
    """The first one, whose cost is not known yet, and those after validation."""
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": 1, "max_overhead": 1e-9})
    world.prepare()
    events = list(train(session_of(world), never))
    saved = [(one.epoch, one.batch) for one in events if isinstance(one, Saved)]
    assert saved == [(0, 1), (0, BATCHES), (1, BATCHES)]


def test_a_save_that_was_put_off_is_taken_at_the_first_step_that_it_fits(
    make_world: Make, session_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": 2, "max_overhead": 0.5})
    world.prepare()
    answers = iter([False, True, True, False])  # asked at 2 and 3; at 4; in the next epoch at 2 and so on
    monkeypatch.setattr(CheckpointWriter, "fits", lambda self, share: next(answers, False))
    events = list(train(session_of(world), never))
    saved = [(one.epoch, one.batch) for one in events if isinstance(one, Saved)]
    assert saved == [(0, 3), (0, 4), (0, BATCHES), (1, BATCHES)]
