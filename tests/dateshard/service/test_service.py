"""The service end to end: a real server process, real jobs, one client, and signals that nobody can catch."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dateshard.service.jobs.process_identity import identity_of
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.checkpoint_folder import read_files
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.serving import Server, serving

LONG = {"epochs": 40, "early_stopping_patience": 40}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--max-jobs", "2", "--output-root", "/models=models")
    with serving(tmp_path_factory.mktemp("service"), *options) as server:
        yield server


def weights(server: Server, task: str) -> dict[str, torch.Tensor]:
    saved, _ = checkpoint.find(server.data / "runs" / task / "checkpoints", "latest")
    return read_files(saved)["model"]


def epoch_of(server: Server, task: str) -> int:
    return int(server.call("GET", f"/progress/{task}")["progress"]["current_epoch"])


def followed(server: Server, task: str, draw: random.Random, most: int) -> tuple[list[int], int]:
    """The ids that a client gets which leaves after at most `most` events, again and again, and how often it came."""
    ids, came = [0], 0
    while True:
        came += 1
        with server.following(task, ids[-1] or None) as events:
            for event, _ in zip(events, range(draw.randint(1, most)), strict=False):
                ids.append(event["id"])
                if event["type"] == "complete":
                    return ids[1:], came


def test_a_job_survives_pause_and_kills_of_itself_and_of_the_server_and_ends_with_the_weights_of_one_left_alone(
    server: Server,
) -> None:
    alone, task = server.start(**LONG), server.start(**LONG)
    server.hold(task, 2)
    assert server.call("POST", f"/pause/{task}")["training_state"] == "pausing"
    server.release(task)
    server.wait(task, "paused")
    log = server.events(task)
    assert log[-1]["type"] == "paused"
    assert server.call("GET", f"/jobs/{task}")["job"]["pid"] is None
    assert server.call("POST", f"/resume/{task}")["training_state"] == "queued"
    server.hold(task, epoch_of(server, task) + 1)
    os.kill(server.call("GET", f"/jobs/{task}")["job"]["pid"], signal.SIGKILL)
    server.release(task)
    log += server.events(task, log[-1]["id"])
    assert log[-1]["type"] == "interrupted"
    job = server.call("GET", f"/jobs/{task}")["job"]
    assert "goes on from its last checkpoint" in job["reason"]
    assert "resume" in job["moves"]
    server.call("POST", f"/resume/{task}")
    server.hold(task, epoch_of(server, task) + 1)
    pid = server.call("GET", f"/jobs/{task}")["job"]["pid"]
    server.kill()
    server.begin()
    assert server.call("GET", f"/jobs/{task}")["job"]["pid"] == pid, "it goes on in its process"
    server.release(task)
    log += server.events(task, log[-1]["id"])
    assert log[-1]["type"] == "complete"
    assert server.events(task) == log, "what came in pieces is the whole log"
    assert (
        server.answer(
            "GET", f"/api/v1/epoch-training/stream-progress/{task}", headers={"Last-Event-ID": str(log[-1]["id"])}
        ).status_code
        == 204
    )
    epochs = [event["progress"]["current_epoch"] for event in log if event["type"] == "progress"]
    assert epochs == list(range(1, 41))
    assert [row["epoch"] for row in server.call("GET", f"/history/{task}")["history"]] == epochs
    server.wait(alone, "completed")
    first, second = weights(server, task), weights(server, alone)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def family(pid: int) -> list[int]:
    """A job's process, what started it, and all others that it started."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def test_a_job_in_two_processes_is_paused_killed_and_resumed_as_a_whole_to_the_bits_of_one_left_alone(
    server: Server,
) -> None:
    body = {**LONG, "devices": 2, "epochs": 20}  # more than are waited for, as a job runs on while it is looked at
    alone, task = server.start(**body), server.start(**body)
    server.hold(task, 2)
    processes = family(server.call("GET", f"/jobs/{task}")["job"]["pid"])
    assert len(processes) == 3
    server.call("POST", f"/pause/{task}")
    server.release(task)
    server.wait(task, "paused")
    gone(processes)
    gone_on = "was killed by SIGKILL; it goes on from its last checkpoint"
    for victim, told in (
        (0, "a signal ended its process, which saved first"),  # who started them: the system ends them then
        (1, f"process 0 of 2 {gone_on}"),
        (2, f"process 1 of 2 {gone_on}"),
    ):
        server.call("POST", f"/resume/{task}")
        server.hold(task, epoch_of(server, task) + 1)
        processes = family(server.call("GET", f"/jobs/{task}")["job"]["pid"])
        os.kill(processes[victim], signal.SIGKILL)
        server.release(task)
        assert server.events(task)[-1]["type"] == "interrupted"
        assert server.call("GET", f"/jobs/{task}")["job"]["reason"] == told
        gone(processes)
    server.call("POST", f"/resume/{task}")
    assert server.events(task)[-1]["type"] == "complete"
    server.wait(alone, "completed")
    first, second = weights(server, task), weights(server, alone)
    assert all(torch.equal(first[name], second[name]) for name in second)
    log = server.call("GET", f"/logs/{alone}")["text"]
    assert "2 processes" in log


def gone(processes: list[int]) -> None:
    """Waits until none of these processes is there."""
    end = time.monotonic() + PATIENCE_SECONDS
    while any(identity_of(pid) for pid in processes):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("epochs", "most"), [(30, 12), pytest.param(520, 1, marks=pytest.mark.slow)])
def test_a_client_that_leaves_and_comes_back_misses_and_repeats_no_event(
    server: Server, epochs: int, most: int
) -> None:
    task = server.start(epochs=epochs, early_stopping_patience=epochs)
    ids, came = followed(server, task, random.Random(epochs), most)
    assert ids == [event["id"] for event in server.events(task)]
    assert ids == sorted(set(ids))
    assert came > (1000 if most == 1 else 5)


def test_a_checkpoint_lies_below_the_output_root_and_a_second_job_of_the_same_path_beside_it(server: Server) -> None:
    one = server.start(epochs=1, output_path="/models/模型")
    two = server.start(epochs=1, output_path="/models/模型")
    for task in (one, two):
        server.wait(task, "completed")
        assert (server.folder / "models" / "模型" / task / "best_model.pth").exists()
        (row,) = server.call("GET", f"/checkpoints/{task}")["checkpoints"]
        assert (row["epoch"], row["best"]) == (1, True)


def test_a_training_that_fails_says_why_and_can_be_resumed(server: Server) -> None:
    task = server.start(epochs=1)
    server.wait(task, "completed")
    again = server.start(epochs=50, batch_size=1)
    server.reach(again, 1)
    (server.data / "shards" / "rows" / "shards").rename(server.data / "away")
    try:
        server.call("POST", f"/pause/{again}")
        server.wait(again, "paused")
        server.call("POST", f"/resume/{again}")
        events = server.events(again)
        assert events[-1]["type"] == "failed"
        assert "complete" not in {event["type"] for event in events}
        assert events[-1]["reason"] == server.call("GET", f"/jobs/{again}")["job"]["reason"]
        assert "shards" in events[-1]["reason"]
        assert events[-1]["reason"] in server.call("GET", f"/logs/{again}")["text"]
    finally:
        (server.data / "away").rename(server.data / "shards" / "rows" / "shards")
    server.call("POST", f"/resume/{again}")
    server.reach(again, 2)
    server.call("POST", f"/stop/{again}")
    server.wait(again, "stopped")
    assert server.events(again)[-1]["type"] == "stopped"
