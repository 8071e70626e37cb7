"""Both stages as functions: the same bytes and weights as the commands, with exceptions instead of exit codes."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import dateshard
from dateshard.shardstore.errors import DateshardError, FailedDatesError, NotThereError, UsageError
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.checkpoint_folder import read_files
from dateshard.trainer.loop import Stepped

DOCS = Path(__file__).parents[3] / "docs" / "notebooks.md"


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    return make_world(6, split={"train": "..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06.."})


def arrays_of(store: Path) -> dict[str, bytes]:
    """The files of all shards and of their statistics and nodes, by their place."""
    kept = ("shards", "statistics", "nodes")
    files = [path for name in kept for path in sorted((store / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def weights(run: dateshard.Run) -> dict[str, torch.Tensor]:
    """The tensors of a run's newest checkpoint."""
    saved, _ = checkpoint.find(run.folder / "checkpoints", "latest")
    return read_files(saved)["model"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_function_makes_the_shards_and_the_weights_of_the_commands(world: Any, ds: Any) -> None:
    config = str(world.config_file())
    ds("preprocess", "-c", config, "--workers", "1")
    ds("train", "-c", config, "--run", "by_command")
    by_command = arrays_of(world.store)
    assert len(by_command) > 12
    world.store.rename(world.folder / "other")
    opened = dateshard.preprocess(world.tree, workers=1)
    assert arrays_of(world.store) == by_command
    assert opened.dates == sorted(world.rows)
    run = dateshard.train(config, run="by_function")
    assert equal(weights(run), weights(dateshard.Run("by_command")))


def test_nothing_is_shown_without_progress_and_every_event_is_handed_on(world: Any, capfd: Any) -> None:
    names = list[str]()
    dateshard.preprocess(
        world.tree, workers=1, progress=False, on_event=lambda event: names.append(type(event).__name__)
    )
    dateshard.train(world.tree, progress=False, on_event=lambda event: names.append(type(event).__name__))
    assert capfd.readouterr() == ("", "")
    assert names.count("DateDone") == 12
    assert (names.count("Started"), names.count("EpochDone"), names[-1]) == (1, 2, "Ended")
    dateshard.train(world.tree, resume="none")
    assert "batches an epoch" in capfd.readouterr().out


def test_dates_that_fail_raise_with_the_reason_of_each_and_the_others_are_there(world: Any) -> None:
    bad = sorted(world.rows)[1]
    world.dump(bad).write_text("time,nothing\n1,2\n")
    with pytest.raises(FailedDatesError, match=r"1 date failed: 2024-03-02\. First: .*2024-03-02\.csv") as caught:
        dateshard.preprocess(world.tree, workers=1, progress=False)
    assert list(caught.value.failed) == [bad]
    assert isinstance(caught.value, dateshard.DateshardError)
    assert len(dateshard.open("world").dates) == 5
    world.write(bad)
    assert bad in dateshard.preprocess(world.tree, [bad], workers=1, progress=False).dates


def test_an_interrupt_saves_first_and_resume_ends_with_the_weights_of_an_undisturbed_run(world: Any) -> None:
    dateshard.preprocess(world.tree, workers=1, progress=False)
    whole = dateshard.train(world.tree, run="whole", progress=False)

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        dateshard.train(world.tree, run="cut", progress=False, on_event=interrupt)
    cut = dateshard.Run("cut")
    assert cut.state == "stopped"
    assert cut.checkpoints["step"].max() == 3
    assert not equal(weights(cut), weights(whole))
    assert equal(weights(dateshard.train(resume="cut", progress=False)), weights(whole))


def test_settings_come_as_files_trees_and_keywords_and_the_last_ones_win(world: Any, monkeypatch: Any) -> None:
    config = str(world.config_file())
    dateshard.preprocess(config, workers=1, progress=False)
    monkeypatch.setenv("DATESHARD__TRAINER__TRAINING__BATCH_SIZE", "8")
    over = {"trainer": {"training": {"epochs": 3, "batch_size": 4, "seed": 11}}}
    keywords: dict[str, Any] = {"epochs": 1, "trainer": {"model": {"name": "dlinear"}}, "trainer.training.max_steps": 2}
    run = dateshard.train([config, over], progress=False, **keywords)
    training = run.config["training"]
    assert (training["epochs"], training["batch_size"], training["seed"], training["max_steps"]) == (1, 8, 11, 2)
    assert (run.config["model"]["name"], run.config["window"]) == ("dlinear", {**run.config["window"], "history": 12})
    assert dateshard.train(resume=run.name, max_steps=3, progress=False).checkpoints["step"].max() == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dateshard.train({"dataset": "x"}, epoch=3), r"no setting 'epoch'\. Did you mean epochs=\?"),
        (lambda: dateshard.train(), r"no configuration is given\. Name a file, as in dateshard\.train"),
        (
            lambda: dateshard.train({"dataset": "x"}, epochs="many"),
            "argument: trainer.training.epochs: must be a valid int",
        ),
        (
            lambda: dateshard.train({"dataset": "x"}, **{"trainer.windw.history": 3}),
            "trainer.windw: .*did you mean 'window'",
        ),
        (lambda: dateshard.preprocess({"dataset": "x"}), "the configuration has no section `pipeline:`"),
        (lambda: dateshard.preprocess({"dataset": "x"}, memory_limit="4"), "memory_limit: 4 bytes hold no process"),
        (
            lambda: dateshard.train({"dataset": "x"}, resume="latest", run="new"),
            "run names a new run, resume continues one",
        ),
        (lambda: dateshard.Run("nobody"), "no run 'nobody'"),
    ],
)
def test_what_is_wrong_is_said_as_the_commands_say_it(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DateshardError, match=message) as caught:
        call()
    assert isinstance(caught.value, UsageError | NotThereError)


def test_a_run_tells_its_history_its_checkpoints_and_what_it_is_worth(world: Any, ds: Any) -> None:
    dateshard.preprocess(world.tree, workers=1, progress=False)
    run = dateshard.train(world.tree, run="one", progress=False)
    assert repr(run).startswith("run one: mlp on world, ended (epochs), epoch 2 of 2, best validation loss ")
    assert run.history["epoch"].to_list() == [1, 2]
    assert run.history["val_loss"].null_count() == 0
    assert run.steps["step"].to_list() == list(range(1, run.history["step"][-1] + 1))
    listed = ds("checkpoints", "list", "one", "--json").document["checkpoints"]
    assert run.checkpoints.to_dicts() == listed
    scores = run.evaluate(baselines=["repeat", "mean"])
    document = ds("evaluate", "one", "--baselines", "repeat,mean", "--json").document
    assert {**scores.document, "forecasts": None} == document
    assert repr(scores) == ds("evaluate", "one", "--baselines", "repeat,mean").out.rstrip()
    assert scores.outcome == document["outcome"]
    volume = scores.table.filter((pl.col("name") == "mlp") & (pl.col("target") == "volume"))
    assert volume["mae"].item() == document["rows"][-1]["raw"]["by_feature"]["volume"]["mae"]
    assert run.predict(interval=None).equals(dateshard.predict("one", interval=None))
    assert run.predictor(interval=None).run == "one"
    assert run.report().read_text().startswith("<!")


def test_runs_are_listed_newest_first(world: Any) -> None:
    dateshard.preprocess(world.tree, workers=1, progress=False)
    for name in ("b", "a"):
        dateshard.train(world.tree, run=name, epochs=1, progress=False)
    assert [run.name for run in dateshard.runs()] == ["a", "b"]
    assert dateshard.Run().name == "a"
    assert dateshard.runs(state="failed") == dateshard.runs(dataset="other") == []


def test_the_page_on_notebooks_runs_as_it_stands(world: Any) -> None:
    stages = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(stages.replace("configs/flights.yaml", str(world.config_file())), names)
    assert names["flights"].dates == sorted(world.rows)
    assert (names["run"].state, names["run"].config["model"]["name"]) == ("ended", "dlinear")
