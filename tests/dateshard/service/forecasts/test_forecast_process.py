"""Forecasts over the service: the bits of `dateshard.Predictor`, in a process of its own that may die and comes again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import dateshard
from dateshard.service.forecasts.forecast_process import MOST_MODELS, Models, answer_all
from dateshard.service.forecasts.frames import receive_frame, send_frame
from dateshard.service.forecasts.warm_forecasts import WarmForecasts
from dateshard.settings import load_settings
from dateshard.shardstore.errors import ResourceError
from tests.conftest import World, build_world
from tests.kit.serving import Server
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
        for number in range(MOST_MODELS + 1):
            untrained(load_settings([str(world.folder / "config.yaml")]).trainer, world, f"run{number}")
    return world


@pytest.fixture
def forecasts(world: World) -> Iterator[WarmForecasts]:
    """A line to the process, which is a thread here."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=answer_all, args=(world.folder / "data", theirs))
    thread.start()
    forecasts = WarmForecasts(world.folder / "data", world.folder / "log")
    forecasts._line = ours
    yield forecasts
    forecasts.close()
    thread.join()
    theirs.close()


def asked(**more: Any) -> dict[str, Any]:
    history = [[[50.0 + step + node, float(node)] for node in range(3)] for step in range(14)]
    history[3][1][0] = None
    return {"run": "run0", "checkpoint": "best", "interval": 0.9, "history": history, "until": UNTIL, **more}


def test_a_forecast_is_that_of_the_predictor_to_the_bit(
    world: World, forecasts: WarmForecasts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    answer = forecasts.ask(asked())["forecast"]
    made = dateshard.Predictor("run0").forecast(np.array(asked()["history"], dtype=np.float64), UNTIL)
    assert (answer["nodes"], answer["targets"]) == (["n0", "n1", "n2"], ["speed", "volume"])
    assert answer["time"][0] == "2024-03-06T00:00:00Z"
    for name in ("value", "low", "high"):
        np.testing.assert_array_equal(np.array(answer[name], dtype=np.float64), getattr(made, name))
    assert forecasts.ask(asked(interval=None))["forecast"]["low"] is None


@pytest.mark.parametrize(
    ("more", "kind", "what"),
    [
        ({"history": [[1.0]]}, "usage", r"history is [steps][nodes][inputs]"),
        ({"history": [[[1.0]], [[1.0, 2.0]]]}, "usage", "each of at least 12 steps has 3 lists of 2 numbers"),
        ({"until": "soon"}, "usage", "'soon' is not an instant"),
        ({"run": "nowhere"}, "not there", "no run 'nowhere'"),
        ({"run": "../run0"}, "not there", "neither a run nor a checkpoint"),
    ],
)
def test_what_cannot_be_forecast_is_told_and_the_process_goes_on(
    forecasts: WarmForecasts, more: dict[str, Any], kind: str, what: str
) -> None:
    answer = forecasts.ask(asked(**more))
    assert answer["kind"] == kind
    assert what in answer["error"]
    assert "forecast" in forecasts.ask(asked())


def test_the_models_that_were_used_last_stay_loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    models = Models()
    first = models.get("run0", "best", None)
    for number in range(1, MOST_MODELS):
        models.get(f"run{number}", "best", None)
    assert models.get("run0", "best", None) is first
    models.get(f"run{MOST_MODELS}", "best", None)
    assert models.get("run0", "best", None) is first
    assert len(models.loaded) == MOST_MODELS
    assert ("run1", "best", None) not in models.loaded


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
        forecasts.ask({})
    assert len(lines) == 2
    assert [line.fileno() for line in lines] == [-1, -1]


def test_a_frame_is_whole_or_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, {"深": [1.5] * 1000})
        assert receive_frame(theirs) == {"深": [1.5] * 1000}
        ours.sendall((10).to_bytes(4, "big") + b"half")
        ours.close()
        assert receive_frame(theirs) is None


@pytest.mark.slow
def test_a_finished_job_forecasts_over_http_also_after_its_process_was_killed(tmp_path: Path) -> None:
    world = build_world(tmp_path, 5, split=SPLIT)
    world.prepare()
    world.config_file()
    server = Server(tmp_path, "-c", "config.yaml")
    body = {"history": asked()["history"], "until": UNTIL}
    task = server.call("POST", "/start", json={"name": "x", "epochs": 1})["task_id"]
    server.wait(task, "completed")
    first = server.call("POST", f"/predict/{task}", json=body)
    assert len(first["value"]) == 6
    (process,) = [
        child for child in psutil.Process(server.process.pid).children() if "forecast_process" in str(child.cmdline())
    ]
    process.kill()
    assert server.call("POST", f"/predict/{task}", json=body) == first
    assert "soon" in server.call("POST", f"/predict/{task}", 422, json={**body, "until": "soon"})["detail"]
    server.close()
