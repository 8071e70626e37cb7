"""Forecasts over the service: the bits of `dateshard.Predictor`, in a process of its own that may die and comes again."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import dateshard
from dateshard.documents.serving import PredictAnswer
from dateshard.service.forecasts import forecast_process
from dateshard.service.forecasts.forecast_process import Models, answer_all
from dateshard.service.forecasts.frames import receive_pair, send_pair
from dateshard.service.forecasts.warm_forecasts import WarmForecasts
from dateshard.service.jobs.job_table import JobOrder
from dateshard.settings import load_settings
from dateshard.shardstore.errors import ResourceError
from tests.conftest import World, build_world
from tests.kit.page_client import PageClient, page_client
from tests.kit.serving import API, Server
from tests.kit.untrained import untrained

SPLIT = {"train": "..2024-03-03", "validation": "2024-03-04", "test": "2024-03-05"}
UNTIL = "2024-03-06T00:00"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = build_world(tmp_path_factory.mktemp("forecasts"), 5, split=SPLIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.folder)
        world.prepare()
        world.config_file()
        for number in range(3):
            untrained(load_settings([str(world.folder / "config.yaml")]).trainer, world, f"run{number}")
    return world


@pytest.fixture(scope="module")
def client(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageClient]:
    """A client of jobs that are complete; the process that forecasts is a thread here."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=answer_all, args=(world.folder / "data", theirs))
    thread.start()
    folder = tmp_path_factory.mktemp("client")
    client = page_client(folder)
    client.desk.forecasts._line = ours
    with client.desk.table.database.writing():
        for run in ("run0", "nowhere"):
            client.desk.table.add(run, "n", JobOrder({}, {}, None), folder)
        client.desk.table.database.changed("UPDATE jobs SET state = 'completed'")
    yield client
    client.desk.forecasts.close()
    client.close()
    thread.join()
    theirs.close()


def body(**more: Any) -> dict[str, Any]:
    history = [[[50.0 + step + node, float(node)] for node in range(3)] for step in range(14)]
    history[3][1][0] = None
    return {"interval": 0.9, "history": history, "until": UNTIL, **more}


def ask(client: PageClient, asked: Any, run: str = "run0") -> httpx.Response:
    data = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    headers = client.bearer("read") | {"content-type": "application/json"}
    return client.ask("POST", f"{API}/predict/{run}", content=data, headers=headers)


def test_a_forecast_is_that_of_the_predictor_to_the_bit(
    world: World, client: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    answer = ask(client, body()).json()
    made = dateshard.Predictor("run0").forecast(np.array(body()["history"], dtype=np.float64), UNTIL)
    PredictAnswer.model_validate(answer, strict=True, extra="forbid")
    assert (answer["success"], answer["task_id"]) == (True, "run0")
    assert (answer["nodes"], answer["targets"]) == (["n0", "n1", "n2"], ["speed", "volume"])
    assert answer["time"][0] == "2024-03-06T00:00:00Z"
    for name in ("value", "low", "high"):
        np.testing.assert_array_equal(np.array(answer[name], dtype=np.float64), getattr(made, name))
    assert ask(client, body(interval=None)).json()["low"] is None


@pytest.mark.parametrize(
    ("asked", "status", "field", "what"),
    [
        (body(history=[[1.0]]), 422, "history[0][0]", "must be a valid array"),
        (body(history=[[]]), 422, None, r"history is [steps][nodes][inputs]"),
        (body(history=[[[1.0]], [[1.0, 2.0]]]), 422, None, "each of at least 12 steps has 3 lists of 2 numbers"),
        (body(history=[[[1.0, "many"]]]), 422, "history[0][0][1]", "must be a valid number"),
        (body(interval=1), 422, "interval", "must be less than 1"),
        (body(checkpoint="../x"), 422, "checkpoint", "must match pattern"),
        (body(until="soon"), 422, None, "'soon' is not an instant"),
        ({"until": UNTIL}, 422, "history", "is missing"),
        ([], 422, "body", "must be an object"),
        (b"", 422, "body", "Invalid JSON"),
        (b"{", 422, "body", "Invalid JSON"),
        (b'{"until": "\xff"}', 422, "body", "Invalid JSON"),
        (b"[" * 100_000, 422, "body", "Invalid JSON: recursion limit exceeded"),
    ],
)
def test_what_cannot_be_forecast_is_a_problem_that_names_its_field_and_the_process_goes_on(
    client: PageClient, asked: Any, status: int, field: str | None, what: str
) -> None:
    answer = ask(client, asked)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), problem
    assert what in problem["detail"]
    assert [fault["field"] for fault in problem.get("errors", [])][:1] == ([] if field is None else [field])
    assert ask(client, body()).status_code == 200


@pytest.mark.parametrize(
    "history", [[[["a", "b"]]], [[["a"], ["b"]]], [[["a"]], [["b"]]]], ids=["values", "nodes", "steps"]
)
def test_of_many_values_that_are_no_numbers_the_first_is_named(client: PageClient, history: Any) -> None:
    assert [fault["field"] for fault in ask(client, body(history=history)).json()["errors"]] == ["history[0][0][0]"]


def test_a_job_whose_run_is_gone_has_no_forecast(client: PageClient) -> None:
    problem = ask(client, body(), "nowhere").json()
    assert (problem["status"], "no run 'nowhere'" in problem["detail"]) == (404, True)


def test_the_models_that_were_used_last_stay_loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr(forecast_process, "MOST_MODELS", 2)
    models = Models()
    first = models.get("run0", "best", None)
    models.get("run1", "best", None)
    assert models.get("run0", "best", None) is first
    models.get("run2", "best", None)
    assert models.get("run0", "best", None) is first
    assert {run for run, _, _ in models.loaded} == {"run0", "run2"}


def test_a_process_that_dies_is_started_once_more_and_then_given_up(tmp_path: Path) -> None:
    forecasts = WarmForecasts(tmp_path, tmp_path / "log")
    lines = list[socket.socket]()

    def begin() -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        lines.append(ours)
        forecasts._line = ours
        return ours

    forecasts._begin = begin  # type: ignore[method-assign]
    with pytest.raises(ResourceError, match="ended in the middle"):
        forecasts.ask("run0", b"{}")
    assert len(lines) == 2
    assert [line.fileno() for line in lines] == [-1, -1]


def test_a_pair_is_whole_or_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_pair(ours, ("深".encode(), b"1" * 10_000))
        assert receive_pair(theirs) == ("深".encode(), b"1" * 10_000)
        ours.sendall((3).to_bytes(4, "big") + b"one" + (10).to_bytes(4, "big") + b"half")
        ours.close()
        assert receive_pair(theirs) is None


@pytest.mark.slow
def test_a_finished_job_forecasts_over_http_also_after_its_process_was_killed(tmp_path: Path) -> None:
    world = build_world(tmp_path, 5, split=SPLIT)
    world.prepare()
    world.config_file()
    server = Server(tmp_path, "-c", "config.yaml")
    task = server.call("POST", "/start", json={"name": "x", "epochs": 1})["task_id"]
    server.wait(task, "completed")
    first = server.call("POST", f"/predict/{task}", json=body())
    assert len(first["value"]) == 6
    (process,) = [
        child for child in psutil.Process(server.process.pid).children() if "forecast_process" in str(child.cmdline())
    ]
    process.kill()
    assert server.call("POST", f"/predict/{task}", json=body()) == first
    server.close()
