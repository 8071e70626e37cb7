"""The service end to end: a real server process, real jobs, one client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.checkpoint_folder import read_files
from tests.kit.serving import Server, service_world


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        service_world(folder)
        server = Server(folder, "--max-jobs", "2", "--output-root", "/models=models")
        yield server
        server.close()


def weights(server: Server, task: str) -> dict[str, torch.Tensor]:
    saved, _ = checkpoint.find(server.data / "runs" / task / "checkpoints", "latest")
    return read_files(saved)["model"]


def same_weights(server: Server, one: str, other: str) -> bool:
    first, second = weights(server, one), weights(server, other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


LONG = {"epochs": 150, "early_stopping_patience": 150}


def test_a_job_that_is_paused_and_resumed_tells_each_epoch_once_and_ends_with_the_weights_of_one_that_was_not(
    server: Server,
) -> None:
    undisturbed, task = server.start(**LONG), server.start(**LONG)
    server.reach(task, 3)
    assert server.call("POST", f"/pause/{task}")["training_state"] == "pausing"
    server.wait(task, "paused")
    before = server.events(task)
    assert before[-1]["type"] == "paused"
    assert server.call("POST", f"/resume/{task}")["training_state"] == "queued"
    after = server.events(task, before[-1]["id"])
    assert after[-1]["type"] == "complete"
    epochs = [event["progress"]["current_epoch"] for event in [*before, *after] if event["type"] == "progress"]
    assert epochs == list(range(1, 151))
    assert [row["epoch"] for row in server.call("GET", f"/history/{task}")["history"]] == epochs
    server.wait(undisturbed, "completed")
    assert same_weights(server, task, undisturbed)
