"""Categorical and mixed targets, end to end: training, resuming with a sample, evaluating beside baselines, the table."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from dateshard.judging.tables import show
from dateshard.terminal.screen import Screen
from dateshard.trainer.assessment.category_baselines import guesses
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.loop import EpochDone, Stepped, train
from dateshard.trainer.runs.start import New, start

SPLIT = {"train": "2024-03-01..2024-03-06", "validation": "2024-03-07", "test": "2024-03-08..2024-03-09"}


@pytest.fixture
def world(make_world: Any) -> Any:
    """`kind` changes every few hours and is known from the hour; one record in twelve says otherwise."""
    made = make_world(9, split=SPLIT, missing=0.2)
    made.tree["pipeline"]["features"] = {
        "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 3},
        "kind": {"column": "vehicles", "categorical": True, "fill": "forward", "fill_limit": 2},
    }
    for date, rows in made.rows.items():
        generator = np.random.default_rng(date.toordinal())
        usual = [(i // 3_600_000_000_000 % 24 // 5 % 3) for i, *_ in rows]
        other = [int(k) if generator.random() > 1 / 12 else int(generator.integers(3)) for k in usual]
        made.rows[date] = [(i, n, s, float(k)) for (i, n, s, _), k in zip(rows, other, strict=True)]
        made.write(date)
    made.prepare()
    return made


def run(world: Any, tmp_path: Any, name: str, *, resume: str = "none", steps: int | None = None, **changes: Any) -> Any:
    """(session, events) of a leg of training."""
    config = world.settings.trainer.model_copy(update=changes)
    new = name if resume == "none" else None
    made, events = start(config, "world", world.store, tmp_path / "runs", resume=resume, new=New(new)), list[Any]()
    try:
        for event in train(
            made.session, lambda: steps is not None and sum(isinstance(e, Stepped) for e in events) >= steps
        ):
            events.append(event)
    finally:
        made.close()
    return made.session, events


def test_a_mixed_target_is_trained_resumed_and_evaluated(world: Any, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef score(targets, predictions, observed):\n"
        "    right = (targets == predictions)[..., 1][observed[..., 1]]\n"
        "    mae = np.abs(targets - predictions)[..., 0][observed[..., 0]].mean()\n"
        "    return {'accuracy': right.mean(), 'mae': mae, 'windows': len(targets)}\n"
    )
    world.tree["trainer"]["metrics"] = {"custom": "mine:score", "buffer": {"train": 3, "evaluation": 1000}}
    world.tree["trainer"]["training"]["accumulate"] = 2  # 8 batches an epoch, 4 steps
    whole, told = run(world, tmp_path, "whole")
    epochs = {e.epoch: (e.train, e.validation) for e in told if isinstance(e, EpochDone)}
    assert epochs[1][0]["sampled"]["windows"] == epochs[1][0]["sampled"]["metrics"]["windows"] == 3 * 16
    assert 0 < epochs[1][1]["accuracy"] <= 1

    legs = run(world, tmp_path, "cut", steps=3)[1] + run(world, tmp_path, "cut", resume="cut", steps=2)[1]
    resumed, last = run(world, tmp_path, "cut", resume="cut")
    again = {e.epoch: (e.train, e.validation) for e in legs + last if isinstance(e, EpochDone)}
    assert again == epochs  # the sampled figures too
    for name, tensor in whole.metrics.tensors().items():
        assert torch.equal(resumed.metrics.tensors()[name], tensor), name
    for name, tensor in whole.metrics.sample.tensors().items():
        assert torch.equal(resumed.metrics.sample.tensors()[name], tensor), name

    result = evaluate(
        whole.config,
        world.open(),
        split="validation",
        baselines=["repeat", "mean", "seasonal:12"],
        model=("m", whole.model),
    )
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["repeat", "mean", "majority", "seasonal:12", "m"]
    assert rows["m"].classes["kind"]["accuracy"] == pytest.approx(epochs[1][1]["accuracy"], abs=1e-15)
    assert rows["m"].loss == pytest.approx(epochs[1][1]["loss"], rel=1e-6)
    assert rows["m"].scaled["mse"] == pytest.approx(epochs[1][1]["mse"], rel=1e-9)
    assert rows["m"].sampled["windows"] == result.windows  # 1000 batches' worth: all of them, so it is exact
    assert rows["m"].sampled["metrics"]["mae"] == pytest.approx(rows["m"].raw["by_feature"]["speed"]["mae"], rel=1e-6)
    assert rows["repeat"].sampled["metrics"]["mae"] > 0
    assert rows["mean"].sampled is rows["majority"].sampled is None  # each leaves a target out
    assert rows["majority"].classes["kind"]["macro_avg"]["auroc"] == pytest.approx(0.5, abs=1e-12)
    assert not rows["majority"].scaled["count"]
    assert not rows["mean"].classes
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["categorical"] == ["kind"]


def test_categorical_baselines_are_what_plain_numpy_makes_of_the_shards(world: Any) -> None:
    world.tree["trainer"]["targets"] = ["kind"]
    dataset, config = world.open(), world.settings.trainer
    result = evaluate(config, dataset, split="test", baselines=["repeat", "mean", "seasonal:24", "ridge"], model=None)
    assert [row.name for row in result.rows] == ["repeat", "majority", "seasonal:24"]
    values = np.concatenate([np.asarray(dataset.map(day.date))[..., 1] for day in dataset.days]).astype(int)
    masks = [dataset.map(day.date, "observed") for day in dataset.days]
    seen = np.concatenate([np.ones((24, 3), bool) if m is None else np.asarray(m)[..., 1] for m in masks]).astype(bool)
    train = values[: 6 * 24][seen[: 6 * 24]]
    most = np.bincount(train[train > 0]).argmax()
    for row in result.rows:
        true, guess = [], []
        for anchor in range(7 * 24, 9 * 24 - 5):
            for step in range(anchor, anchor + 6):
                for node in range(3):
                    if values[step, node] == 0 or not seen[step, node]:
                        continue
                    back, wanted = {"repeat": (12, anchor - 1), "seasonal:24": (24, step - 24)}.get(row.name, (0, 0))
                    known = [at for at in range(anchor - back, anchor) if seen[at, node] and values[at, node]]
                    nearest = min(known, key=lambda at: (abs(at - wanted), at), default=None)
                    code = most if nearest is None else values[nearest, node]
                    true.append(values[step, node])
                    guess.append(code)
        told = row.classes["kind"]
        assert told["count"] == len(true)
        assert told["accuracy"] == pytest.approx(oracle.accuracy_score(true, guess), abs=1e-15), row.name
        f1 = oracle.f1_score(true, guess, average="macro", zero_division=0)
        assert told["macro_avg"]["f1"] == pytest.approx(f1, abs=1e-14)
    assert result.beats_baselines is None
    shares = np.bincount(train[train > 0]) / (train > 0).sum()
    majority = next(row for row in result.rows if row.name == "majority").classes["kind"]
    expected = -sum(told["support"] * np.log(shares[k]) for k, told in enumerate(majority["by_class"].values(), 1))
    assert majority["log_loss"] == pytest.approx(expected / majority["count"], rel=1e-6)


def test_repeat_takes_the_last_known_category() -> None:
    codes = torch.tensor([[2, 0, 0], [3, 1, 0], [0, 2, 0]]).float()[None, :, :, None]  # [1, H, N, 1]
    batch = Batch(history_BHNF=codes, target_BPNF=torch.zeros(1, 2, 3, 1), observed_BPNF=None, codes_BW=None)
    chosen = guesses("repeat", {"kind": (0, (0, 5, 9, 1))}, 2, 3)
    assert chosen is not None
    logits = chosen["kind"](batch)
    assert logits.argmax(-1)[0].tolist() == [[3, 2, 2], [3, 2, 2]]  # the third node's is never known: the majority
    short = guesses("repeat", {"kind": (0, (0, 5, 9, 1))}, 2, 1)
    assert short is not None
    assert short["kind"](batch).argmax(-1)[0, 0].tolist() == [2, 2, 2]  # one step back, only the second is known
    unseen = guesses("repeat", {"kind": (0, (9, 0, 3, 1))}, 2, 1)
    assert unseen is not None
    assert unseen["kind"](batch).argmax(-1)[0, 0].tolist() == [2, 2, 2]  # code 0, however frequent, is no guess


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(result: Any, *, terminal: bool) -> str:
    screen = Screen()
    screen.out, screen.terminal = (Terminal() if terminal else io.StringIO()), terminal
    show(screen, result)
    return screen.out.getvalue()


def test_the_table_of_mixed_targets_fits_a_terminal_and_tells_a_verdict_each(world: Any, session_of: Any) -> None:
    session = session_of(world)
    names = ["repeat", "mean"]
    result = evaluate(session.config, world.open(), split="test", baselines=names, model=("mlp", session.model))
    text = shown(result, terminal=True)
    assert max(map(len, text.splitlines())) <= 80, text
    assert "kind, mlp" in text
    assert "weighted avg" in text
    assert "kind: no clear winner can be told: the model has " in text.replace("\n", " ")
    assert "(2 dates: too few for an interval)" in text.replace("\n", " ")
    assert "is \\ forecast" in text
    piped = shown(result, terminal=False)
    assert "\tprecision\trecall\tF1\tAUROC\tAP\tsupport" in piped
    stars, in_a_pipe = ([line.count("*") for line in page.splitlines() if "*" in line] for page in (text, piped))
    assert in_a_pipe == stars
    assert result.beats_baselines is False
    lines = [line.split() for line in reversed(text.partition("kind ")[0].splitlines())]
    figures = {words[0]: words[1:3] for words in lines if words and words[0] in ("repeat", "mean", "mlp")}
    numbers = {name: [float(cell.rstrip("*")) for cell in cells] for name, cells in figures.items()}
    least, most = ({name for name, cells in figures.items() if cells[place].endswith("*")} for place in (0, 1))
    assert least == {min(numbers, key=lambda name: numbers[name][0])}  # MSE
    assert most == {max(numbers, key=lambda name: numbers[name][1])}  # R2


def test_an_error_of_a_custom_metric_is_told_and_ends_nothing(world: Any, tmp_path: Any) -> None:
    (tmp_path / "faulty.py").write_text("def score(targets, predictions):\n    return {'a': 1 / 0}\n")
    world.tree["trainer"]["metrics"] = {"custom": "faulty:score"}
    session, told = run(
        world, tmp_path, "faulty", training=world.settings.trainer.training.model_copy(update={"epochs": 1})
    )
    done = next(event for event in told if isinstance(event, EpochDone))
    assert done.train["sampled"]["error"] == "faulty:score: ZeroDivisionError: division by zero"
    result = evaluate(session.config, world.open(), split="test", baselines=["repeat"], model=None)
    assert any("division by zero" in note for note in result.notes)
