"""Rivals that are no strawmen: what each baseline forecasts of hand-made data whose right value numpy tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.trainer.assessment import baselines
from dateshard.trainer.assessment.baselines import within_reach
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.assessment.evaluation import Evaluation
from dateshard.trainer.models.naive import newest

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-06", "validation": "2024-03-07", "test": "2024-03-08..2024-03-09"}
HOURS = 9 * 24
TEST = 7 * 24  # the first step of the test dates
HISTORY, HORIZON = 12, 4


def prepared(make_world: Make, values_TN: np.ndarray, seen_TN: np.ndarray | None = None, **feature: Any) -> Any:
    """A world of one feature: a record an hour and node where it is seen, nothing filled in."""
    world = make_world(9, split=SPLIT, window={"history": HISTORY, "horizon": HORIZON}, **feature.pop("trainer", {}))
    world.tree["pipeline"]["features"] = {"speed": {"fill": "none", **feature}}
    begin = min(row[0] for rows in world.rows.values() for row in rows)
    seen = np.ones(values_TN.shape, bool) if seen_TN is None else seen_TN
    for day, date in enumerate(world.rows):
        world.rows[date] = [
            (begin + step * 3600 * 10**9, f"n{node}", float(values_TN[step, node]) if seen[step, node] else None, 1.0)
            for step in range(24 * day, 24 * day + 24)
            for node in range(values_TN.shape[1])
        ]
        world.write(date)
    world.prepare()
    return world


def judged(world: Any, *names: str, model: Any = None) -> Evaluation:
    return evaluate(world.settings.trainer, world.open(), split="test", baselines=names, model=model)


def figures(result: Evaluation, name: str) -> dict[str, Any]:
    row = next(row for row in result.rows if row.name == name)
    return {"scaled": row.scaled, **row.raw["by_feature"]["speed"]}


def walk(seed: int, nodes: int = 3) -> np.ndarray:
    return 20 + np.cumsum(np.random.default_rng(seed).normal(size=(HOURS, nodes)), axis=0)


def errors_of(values: np.ndarray, seen: np.ndarray, forecast: Callable[[int, int, int], float]) -> np.ndarray:
    """Of every observed target of every test window: forecast(anchor, step, node) less what came."""
    return np.array(
        [
            forecast(anchor, anchor + step, node) - values[anchor + step, node]
            for anchor in range(TEST, HOURS - HORIZON + 1)
            for step in range(HORIZON)
            for node in range(values.shape[1])
            if seen[anchor + step, node]
        ]
    )


@pytest.mark.parametrize("feature", [{"scale_per": "node"}, {"scale_per": "feature"}, {"transform": "log1p"}])
def test_mean_is_the_nodes_own_training_mean_whatever_the_scale_is_of(
    make_world: Make, feature: dict[str, str]
) -> None:
    noise = np.random.default_rng(1).normal(size=(HOURS, 3))
    values, seen = 500 + noise + [0, 300, -200], np.ones((HOURS, 3), bool)
    result = judged(prepared(make_world, values, **feature), "mean")
    logs = feature.get("transform") == "log1p"
    level = np.expm1(np.log1p(values[: 6 * 24]).mean(0)) if logs else values[: 6 * 24].mean(0)
    error = errors_of(values, seen, lambda anchor, step, node: level[node])
    found = figures(result, "mean")
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    if feature.get("scale_per") == "node":  # 1 where the test dates are like the training dates
        spread = values[: 6 * 24].std(0)
        assert found["scaled"]["mse"] == pytest.approx((error.reshape(-1, 3) ** 2 / spread**2).mean(), rel=1e-4)
        assert found["scaled"]["r2"] == pytest.approx(0, abs=0.05)


def test_the_mean_of_a_node_that_training_never_saw_is_that_of_all_nodes(make_world: Make) -> None:
    """It has records in training, and no value in them."""
    values, seen = walk(2), np.ones((HOURS, 3), bool)
    seen[: 7 * 24, 2] = False
    level = [*values[: 6 * 24, :2].mean(0), values[: 6 * 24, :2].mean()]
    error = errors_of(values, seen, lambda anchor, step, node: level[node])
    for per in ("node", "feature"):
        found = figures(judged(prepared(make_world, values, seen, scale_per=per), "mean"), "mean")
        assert found["mae"] == pytest.approx(abs(error).mean(), rel=1e-4)


@pytest.fixture
def holed(make_world: Make) -> tuple[Any, np.ndarray, np.ndarray]:
    """A random walk of which 30 % of the hours are missing, as a world, values and mask."""
    values, seen = walk(3), np.random.default_rng(4).random((HOURS, 3)) > 0.3
    seen[TEST + 5 : TEST + 5 + HISTORY, 1] = False  # a window without any history
    return prepared(make_world, values, seen), values, seen


def last_seen(values: np.ndarray, seen: np.ndarray) -> Callable[[int, int, int], float]:
    means = [values[: 6 * 24, node][seen[: 6 * 24, node]].mean() for node in range(3)]

    def forecast(anchor: int, _: int, node: int) -> float:
        known = [step for step in range(anchor - HISTORY, anchor) if seen[step, node]]
        return float(values[known[-1], node]) if known else means[node]

    return forecast


def test_repeat_goes_on_from_the_newest_value_that_was_observed(
    holed: tuple[Any, np.ndarray, np.ndarray],
) -> None:
    world, values, seen = holed
    error = errors_of(values, seen, last_seen(values, seen))
    found = figures(judged(world, "repeat"), "repeat")
    assert found["count"] == len(error)
    assert found["mae"] == pytest.approx(abs(error).mean(), rel=1e-4)


def test_a_ridge_less_its_last_value_goes_on_from_the_newest_one_that_was_observed(
    holed: tuple[Any, np.ndarray, np.ndarray],
) -> None:
    """Where the last hour is missing it does not fall to the mean: on a walk nothing is better than to repeat."""
    world, values, seen = holed
    world.tree["trainer"]["model"] = {"name": "mlp", "normalisations": ["last"]}
    row = next(row for row in judged(world, "ridge").rows if row.name == "ridge")
    assert row.raw["mae"] < 1.05 * abs(errors_of(values, seen, last_seen(values, seen))).mean()


def test_a_trained_ridge_is_asked_with_what_was_observed(
    holed: tuple[Any, np.ndarray, np.ndarray], session_of: Make
) -> None:
    """In the validation of its training, in an evaluation, and beside its own twin."""
    from dateshard.trainer.loop import EpochDone, train

    world, _, _ = holed
    world.tree["trainer"]["model"] = {"name": "ridge", "normalisations": ["last"]}
    session = session_of(world)
    done = next(event for event in train(session, lambda: False) if isinstance(event, EpochDone))
    config, model = world.settings.trainer, ("model", session.model)
    held = evaluate(config, world.open(), split="validation", baselines=["ridge"], model=model)
    rows = {row.name: row for row in held.rows}
    for figure in ("mse", "mae", "bias"):
        assert rows["model"].scaled[figure] == pytest.approx(rows["ridge"].scaled[figure], rel=1e-6)
    assert done.val_loss == pytest.approx(rows["model"].scaled["mse"], rel=1e-6)


def test_seasonal_takes_the_newest_observed_value_of_the_phase_then_the_nearest() -> None:
    """Two nodes over six steps of two phases; 9 stands where nothing was observed."""
    nothing = float("nan")
    steps = [[1, nothing], [2, nothing], [3, nothing], [nothing, nothing], [5, nothing], [nothing, nothing]]
    given = torch.tensor(steps)[None, :, :, None]
    known = ~given.isnan()
    made = newest(given.nan_to_num(0.0), known, 2, 3, torch.tensor(9.0))
    assert made[0, :, 0, 0].tolist() == [5, 2, 5]
    assert made[0, :, 1, 0].tolist() == [9, 9, 9]
    assert newest(given, known, 1, 2, torch.tensor(9.0))[0, :, :, 0].tolist() == [[5, 9], [5, 9]]
    assert newest(given[:, 2:], known[:, 2:], 4, 2, torch.tensor(9.0))[0, :, 0, 0].tolist() == [
        3,
        3,
    ]  # of 3 and 5 the older
    assert newest(given[:, 3:], known[:, 3:], 2, 2, torch.tensor(9.0))[0, :, 0, 0].tolist() == [
        5,
        5,
    ]  # a season and a half
    assert newest(given, None, 2, 2, torch.tensor(9.0))[0, 0, 0, 0] == 5


@pytest.mark.parametrize(
    ("step", "history", "names"),
    [
        ("1h", 168, ["repeat", "seasonal:24", "seasonal:168", "mean", "ridge"]),
        ("5m", 12, ["repeat", "seasonal:288", "mean", "ridge"]),
        ("1d", 2, ["repeat", "mean", "ridge"]),
    ],
)
def test_baselines_that_nobody_names_look_a_day_and_a_week_back(
    make_world: Make, step: str, history: int, names: list[str]
) -> None:
    """As far as every window has them before it: a week is longer than what lies before the second date."""
    split = {"train": "2024-03-01", "validation": "2024-03-02", "test": "2024-03-03..2024-03-09"}
    world = make_world(9, split=split, window={"history": history, "horizon": 1})
    world.tree["pipeline"]["step"] = step
    world.tree["pipeline"]["features"] = {"speed": {"fill": "forward"}}
    world.prepare()
    assert world.settings.trainer.baselines is None
    kept, notes = within_reach(world.settings.trainer, world.open(), "test", None)
    assert kept == names
    left = {"1h": [], "5m": ["seasonal:2016"], "1d": ["seasonal:7"]}[step]
    assert [note.split(" left out: the first windows have ")[0] for note in notes] == left


def test_a_season_that_does_not_fit_into_memory_is_no_usual_baseline(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared(make_world, walk(5))
    monkeypatch.setattr(baselines, "BATCH_BYTES", 5 * 3 * 100)
    kept, notes = within_reach(world.settings.trainer, world.open(), "test", None)
    assert kept == ["repeat", "seasonal:24", "mean", "ridge"]
    assert notes == ["seasonal:168 left out: one window would take 0 MiB"]


def test_a_trained_ridge_is_not_judged_against_itself(make_world: Make, session_of: Make) -> None:
    """Its twin stands in the table, and no verdict counts it; another ridge, and any other model, is a rival."""
    from dateshard.trainer.loop import train

    world = prepared(make_world, walk(6), trainer={"model": {"name": "ridge", "histories": [3]}})
    session = session_of(world)
    list(train(session, lambda: False))
    result = judged(world, "ridge", "repeat", model=("ridge (model)", session.model))
    assert [row.name for row in result.rows] == ["ridge", "ridge:last", "repeat", "ridge (model)"]
    assert result.twins == ["ridge"]
    assert result.best_baseline in ("ridge:last", "repeat")
    alone = evaluate(
        world.settings.trainer, world.open(), split="test", baselines=["ridge:3"], model=("m", session.model)
    )
    assert alone.twins == ["ridge:3"]
    assert alone.beats_baselines is None
