"""A training needs no screen: whoever calls it watches its events, and may stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dateshard.settings import load_settings
from dateshard.terminal.screen import Screen
from dateshard.trainer import loop
from dateshard.trainer.checkpoint import Saved
from dateshard.trainer.runs import status
from dateshard.trainer.runs.start import Started
from dateshard.training.train import TrainingEvent, TrainRequest, run_training

SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06"}


@pytest.fixture
def settings(make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    world = make_world(6, split=SPLIT, training={"epochs": 1, "batch_size": 16}, checkpoint={"save_freq": 3})
    world.prepare()
    world.config_file()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a screen was made")

    monkeypatch.setattr(Screen, "__init__", refused)
    return load_settings(("config.yaml",), ())


def never() -> bool:
    return False


def test_a_training_runs_without_a_screen_and_prints_nothing(settings: Any, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[TrainingEvent] = []
    ended = run_training(settings, TrainRequest(name="alone"), watch=events.append, should_stop=never)
    assert isinstance(started := events[0], Started)
    assert started.run.name == "alone"
    assert ended.why == "epochs"
    assert events[-1] is ended
    assert {type(event) for event in events[1:-1]} == {loop.Stepped, Saved, loop.EpochDone}
    assert (started.run.folder / "metrics.jsonl").read_text().count("\n") > 1
    assert capfd.readouterr() == ("", "")

    again: list[TrainingEvent] = []
    ended = run_training(settings, TrainRequest(resume="alone"), watch=again.append, should_stop=never)
    assert [type(event) for event in again] == [Started, loop.Ended]
    assert ended.why == "epochs"


def test_a_caller_stops_a_training_and_goes_on_with_it(settings: Any) -> None:
    events: list[TrainingEvent] = []
    ended = run_training(settings, TrainRequest(name="alone"), watch=events.append, should_stop=lambda: True)
    assert ended.why == "stopped"
    assert ended.state.batch == 1
    more: list[TrainingEvent] = []
    ended = run_training(settings, TrainRequest(resume="alone"), watch=more.append, should_stop=never)
    first = next(event for event in more if isinstance(event, loop.Stepped))
    assert ended.why == "epochs"
    assert first.batch == 2


def test_what_a_watcher_raises_ends_the_training_as_failed(settings: Any) -> None:
    runs: list[Started] = []

    def watch(event: TrainingEvent) -> None:
        if runs:
            raise RuntimeError("enough")
        assert isinstance(event, Started)
        runs.append(event)

    with pytest.raises(RuntimeError, match="enough"):
        run_training(settings, TrainRequest(name="alone"), watch=watch, should_stop=never)
    last = status.noted(runs[0].run)
    assert last is not None
    assert (last.state, last.why) == ("failed", "enough")
    assert "enough" in (runs[0].run.folder / "run.log").read_text()
