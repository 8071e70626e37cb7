"""Intervals that follow drift, held against a plain recount of what was known when each window was forecast."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.trainer import checkpoint
from dateshard.trainer.assessment import adaptation, intervals
from dateshard.trainer.assessment.adaptation import HALF_LIFE_DAYS, RATE, LocalError, Reach, Walk
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.assessment.forecaster import load_forecaster
from dateshard.trainer.assessment.intervals import calibrate
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.kit.untrained import untrained

STEPS, NODES, FEATURES, HOUR = 4, 3, 2, 3_600_000_000_000


def a_reach() -> Reach:
    generator = np.random.default_rng(3)
    ends = generator.uniform(0.5, 2, (2, STEPS, NODES, FEATURES)) * np.array([-1, 1])[:, None, None, None]
    weights = generator.uniform(1, 5, (24, NODES, FEATURES))
    hours = np.stack([weights * generator.uniform(0.5, 2, weights.shape), weights])
    return Reach(ends_2PNF=ends, local=LocalError(hours_2GNF=hours, recent_2F=np.array([[3.0, 2.0], [2.0, 2.5]])))


def some_windows(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(anchors with a gap, hours of their steps, what they missed with cells that were not observed)."""
    generator = np.random.default_rng(4)
    anchors = np.arange(count) + np.where(np.arange(count) > count // 2, 9, 0)
    missed = generator.standard_normal((count, STEPS, NODES, FEATURES)).astype(np.float32)
    missed[generator.random(missed.shape) < 0.2] = np.nan
    return anchors, (anchors[:, None] + np.arange(STEPS)) % 24, missed


def plain_error(total: np.ndarray, weight: np.ndarray, hour: int, node: int, feature: int) -> float:
    whole = total[..., feature].sum() / weight[..., feature].sum()
    own = (total[:, node, feature].sum() + 2 * whole) / (weight[:, node, feature].sum() + 2)
    here = (total[hour, node, feature] + 2 * own) / (weight[hour, node, feature] + 2)
    return float(max(here, 0.1 * whole))


def plain_ends(reach: Reach, anchors: np.ndarray, missed: np.ndarray, upto: int, level: float) -> np.ndarray:
    """[2, P, N, F] ends for a window at step `upto`, from the errors at steps before it alone, one after the other."""
    assert reach.local is not None
    ends, (total, weight) = reach.ends_2PNF.copy(), reach.local.hours_2GNF.copy()
    ratio, ratios = reach.local.recent_2F[0].copy(), reach.local.recent_2F[1].copy()
    tail, kept, lately = (1 - level) / 2, 0.5 ** (1 / HALF_LIFE_DAYS), 0.5 ** (1 / 24)
    for step in range(upto):
        usual = np.array([[plain_error(total, weight, step % 24, n, f) for f in range(FEATURES)] for n in range(NODES)])
        factor, shares = ratio / ratios, [list[float](), list[float]()]
        for node, feature in np.ndindex(NODES, FEATURES):
            unit, sizes = usual[node, feature] * factor[feature], list[float]()
            for number in range(len(anchors)):
                ahead = step - anchors[number]
                if 0 <= ahead < STEPS and not np.isnan(missed[number, ahead, node, feature]):
                    score, cell = missed[number, ahead, node, feature] / unit, (ahead, node, feature)
                    ends[(0, *cell)] = min(ends[(0, *cell)] + RATE * (tail - (score < ends[(0, *cell)])), 0)
                    ends[(1, *cell)] = max(ends[(1, *cell)] + RATE * ((score > ends[(1, *cell)]) - tail), 0)
                    sizes.append(abs(missed[number, ahead, node, feature]))
            if sizes:
                place = (step % 24, node, feature)
                total[place], weight[place] = kept * total[place] + np.mean(sizes), kept * weight[place] + 1
                shares[feature].append(float(np.mean(sizes)) / usual[node, feature])
        for feature in range(FEATURES):
            if shares[feature]:
                ratio[feature] = lately * ratio[feature] + sum(shares[feature])
                ratios[feature] = lately * ratios[feature] + len(shares[feature])
    error = [
        [[plain_error(total, weight, (upto + step) % 24, n, f) for f in range(FEATURES)] for n in range(NODES)]
        for step in range(STEPS)
    ]
    return ends * np.array(error) * (ratio / ratios)


def walked(windows: tuple[np.ndarray, np.ndarray, np.ndarray], level: float = 0.8) -> np.ndarray:
    anchors, hours, missed = windows
    walk = Walk(reach=a_reach(), level=level, step=HOUR)
    parts = [slice(0, 7), slice(7, None)]  # in two batches
    return np.concatenate([walk.of_batch(anchors[k], hours[k], missed[None, k]) for k in parts], axis=1)


def test_the_ends_of_a_window_are_those_of_a_plain_recount_of_the_errors_before_it() -> None:
    anchors, hours, missed = some_windows(40)
    found, before = walked((anchors, hours, missed)), a_reach()
    for number in (0, 1, 5, 20, 21, 39):
        expected = plain_ends(before, anchors, missed, int(anchors[number]), 0.8)
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-5, err_msg=str(number))


@pytest.mark.parametrize("now", [10, 30])
def test_no_end_knows_a_target_that_had_not_come(now: int) -> None:
    """A target at step h of a window is known h steps later: all that comes from `now` on may be anything."""
    anchors, hours, missed = some_windows(40)
    changed = missed.copy()
    later = (anchors[:, None] + np.arange(STEPS)) >= anchors[now]
    changed[later] = 1e3
    first, second = walked((anchors, hours, missed)), walked((anchors, hours, changed))
    assert (first[:, : now + 1] == second[:, : now + 1]).all()
    assert (first[:, now + 1] != second[:, now + 1]).any()  # and what came a step later is used at once


def test_a_walk_leaves_what_it_began_with_as_it_was_and_finish_learns_the_rest() -> None:
    anchors, hours, missed = some_windows(12)
    began = a_reach()
    walk = Walk(reach=began, level=0.8, step=HOUR)
    walk.of_batch(anchors, hours, missed[None])
    assert (began.ends_2PNF == a_reach().ends_2PNF).all()
    left = walk.finish()
    last = int(anchors[-1]) + STEPS
    expected = plain_ends(began, anchors, missed, last, 0.8)
    np.testing.assert_allclose(left.at((last + np.arange(STEPS)) % 24), expected, rtol=1e-5)


def test_with_little_memory_every_kth_window_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, hours, missed = some_windows(20)
    monkeypatch.setattr(adaptation, "AWAITED_BYTES", 2 * 4 * STEPS * NODES * FEATURES)
    few = walked((anchors, hours, missed))
    asked = np.zeros(len(anchors), dtype=bool)
    last = -9
    for number, anchor in enumerate(anchors):
        if anchor - last >= 2:
            asked[number], last = True, int(anchor)
    expected = plain_ends(a_reach(), anchors[asked], missed[asked], int(anchors[15]), 0.8)
    np.testing.assert_allclose(few[:, 15], expected, rtol=1e-5)


SPLIT = {"train": "2024-03-01..2024-03-08", "validation": "2024-03-09..2024-03-28", "test": "2024-03-29..2024-04-27"}


def drifting(make_world: Callable[..., Any]) -> Any:
    """Hourly values whose noise is larger by day, and over the test dates grows to three times what it was."""
    world = make_world(
        58, first="2024-03-01", zone="UTC", split=SPLIT, window={"history": 6, "horizon": 3}, targets=["speed"]
    )
    generator = np.random.default_rng(8)
    for place, date in enumerate(sorted(world.rows)):
        grown = 1 + 2 * max(0, place - 28) / 30
        begin = int(dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC).timestamp()) * 10**9
        world.rows[date] = [
            (begin + hour * HOUR, node, float(50 + size * grown * generator.standard_normal()), 5.0)
            for hour, size in enumerate([1.0] * 8 + [4.0] * 12 + [1.0] * 4)
            for node in ("n0", "n1", "n2")
        ]
        world.write(date)
    return world


def test_where_the_data_drift_intervals_cover_what_they_promise_and_split_conformal_ones_do_not(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = drifting(make_world)
    world.prepare()
    untrained(world.settings.trainer, world, "r")
    saved, _ = checkpoint.find(TrainingRun(Path("data/runs/r")).checkpoints, "best")
    forecaster = load_forecaster(world.settings.trainer, world.open(), saved)
    adapting = calibrate(forecaster, 0.9)
    monkeypatch.setattr(intervals, "adapts", lambda _: False)
    scores = []
    for made in (adapting, calibrate(forecaster, 0.9)):
        model = ("mlp", forecaster.model)
        config = world.settings.trainer
        table = evaluate(config, world.open(), split="test", baselines=[], model=model, intervals=made)
        assert table.rows[0].interval is not None
        scores.append(table.rows[0].interval["raw"])
        assert made is not None
        assert made.coverage is not None
        assert scores[-1]["coverage"] == pytest.approx(made.coverage.share, abs=1e-3)
    follows, stays = scores
    assert 0.88 <= follows["coverage"] <= 0.92
    assert stays["coverage"] < 0.8
    assert follows["winkler"] < 0.9 * stays["winkler"]


@pytest.mark.parametrize("follows", [True, False])
def test_quantiles_of_a_model_are_moved_to_cover_what_they_promise(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    """Conformalised quantile regression: those of an untrained model cover anything but 0.9."""
    if not follows:
        monkeypatch.setattr(intervals, "adapts", lambda _: False)
    training = {"batch_size": 64, "loss": "quantile", "quantiles": [0.05, 0.5, 0.95]}
    split = {
        "train": "2024-03-01..2024-03-06",
        "validation": "2024-03-07..2024-03-13",
        "test": "2024-03-14..2024-03-20",
    }
    world = make_world(20, split=split, window={"history": 6, "horizon": 3}, training=training)
    world.prepare()
    untrained(world.settings.trainer, world, "r")
    saved, _ = checkpoint.find(TrainingRun(Path("data/runs/r")).checkpoints, "best")
    forecaster = load_forecaster(world.settings.trainer, world.open(), saved)
    made, model = calibrate(forecaster, 0.9), ("mlp", forecaster.model)
    table = evaluate(world.settings.trainer, world.open(), split="test", baselines=[], model=model, intervals=made)
    scores = table.rows[0].interval
    assert scores is not None
    assert scores["own"]["level"] == pytest.approx(0.9)
    assert scores["own"]["scaled"]["coverage"] < 0.7
    assert 0.86 <= scores["scaled"]["coverage"] <= 0.94
    assert scores["scaled"]["winkler"] < scores["own"]["scaled"]["winkler"]
    assert made is not None
    assert made.coverage is not None
    assert made.coverage.share == pytest.approx(scores["scaled"]["coverage"], abs=1e-3)
