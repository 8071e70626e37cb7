"""Intervals by split conformal prediction, held against plain counting."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dateshard.trainer import checkpoint
from dateshard.trainer.assessment import intervals
from dateshard.trainer.assessment.coverage import Coverage, Group, worst
from dateshard.trainer.assessment.forecaster import Forecaster, load_forecaster
from dateshard.trainer.assessment.intervals import _ends, _reach, calibrate, cover
from dateshard.trainer.loop import train
from dateshard.trainer.runs.start import New, start_new


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals that keep the ends which the validation windows gave, as those of records."""
    monkeypatch.setattr(intervals, "adapts", lambda _: False)


SPLIT = {"train": "2024-03-23..2024-03-27", "validation": "2024-03-28..2024-03-30", "test": "2024-03-31..2024-04-01"}


@pytest.fixture
def forecaster(make_world: Callable[..., Any], plain: Callable[..., Any]) -> tuple[Forecaster, Any]:
    """A trained model of two features whose cells are partly missing, and the same windows in plain Python."""
    world = make_world(
        10, first="2024-03-23", split=SPLIT, missing=0.6, training={"epochs": 1}, window={"history": 6, "horizon": 3}
    )
    world.prepare()
    config = world.settings.trainer
    with closing(start_new(config, world.store, Path("runs"), New("r"))) as started:
        for _ in train(started.session, lambda: False):
            pass
        found, _ = checkpoint.find(started.run.checkpoints, "best")
    return load_forecaster(config, world.open(), found), plain(world)


def missed(forecaster: Forecaster, world: Any, split: str) -> np.ndarray:
    """[K, P, N, F] target less forecast of every window, NaN where nothing was observed."""
    rows = []
    for window in world.windows(split, 6, 3):
        told, _ = forecaster.of_window(window.scaled[:6].astype(np.float32), window.codes.astype(np.int32))
        target = window.scaled[window.targets].astype(np.float32)
        rows.append(np.where(window.observed[window.targets], target - told, np.nan))
    return np.stack(rows)


def by_rank(scores: list[float], level: float) -> tuple[float, float]:
    """The definition: ranks of n + 1, NaN where they lie beyond the scores."""
    ordered, tail = sorted(scores), (1 - level) / 2
    low = math.floor(round((len(ordered) + 1) * tail, 9))
    high = len(ordered) + 1 - low
    if low < 1 or high > len(ordered):
        return math.nan, math.nan
    return ordered[low - 1], ordered[high - 1]


@pytest.mark.usefixtures("still")
def test_the_ends_are_order_statistics_of_what_the_validation_windows_missed(
    forecaster: tuple[Forecaster, Any],
) -> None:
    model, world = forecaster
    made = calibrate(model, 0.8)
    assert made is not None
    scores = missed(model, world, "validation")
    assert made.windows == made.of == len(scores)
    assert np.isnan(scores).any()
    for step in range(3):
        for feature in range(2):
            for node in range(3):
                mine = scores[:, step, node, feature]
                mine = mine[~np.isnan(mine)]
                if len(mine) * 0.1 < intervals.TAIL_SCORES:  # too few of its own: those of all nodes
                    mine = scores[:, step, :, feature]
                    mine = mine[~np.isnan(mine)]
                low, high = by_rank(mine.tolist(), 0.8)
                got = made.begin.ends_2PNF[:, step, node, feature]
                np.testing.assert_allclose(got, (min(low, 0.0), max(high, 0.0)), atol=2e-5)
    assert made.own_nodes == 0
    known = ~np.isnan(scores)
    assert made.errors["model"] == pytest.approx(np.square(scores[known].astype(np.float64)).mean(), rel=1e-4)
    for name, wrong in naive_errors(world).items():
        assert made.errors[name] == pytest.approx(np.nanmean(np.square(wrong)), rel=1e-4), name


def naive_errors(world: Any) -> dict[str, np.ndarray]:
    """{mean | repeat: [K, P, N, F] less the target}: of each node its own mean, its newest observed value."""
    steps = [step for steps in world.segments for step in steps if world.member(step["date"], "train")]
    raw, seen = (np.array([step[key] for step in steps]) for key in ("raw", "observed"))
    center, spread = (np.array([moment[k] for moment in world.moments]) for k in range(2))
    means = (np.nanmean(np.where(seen, raw, np.nan), axis=0) - center) / spread
    found: dict[str, list[np.ndarray]] = {"mean": [], "repeat": []}
    for window in world.windows("validation", 6, 3):
        target = np.where(window.observed[6:], window.scaled[6:], np.nan)
        newest = means.copy()
        for step in range(6):
            newest = np.where(window.observed[step], window.scaled[step], newest)
        found["mean"].append(means - target)
        found["repeat"].append(newest - target)
    return {name: np.stack(rows) for name, rows in found.items()}


@pytest.mark.usefixtures("still")
def test_nodes_with_scores_enough_of_their_own_decide_for_themselves(
    forecaster: tuple[Forecaster, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = forecaster
    monkeypatch.setattr(intervals, "TAIL_SCORES", 1)
    made = calibrate(model, 0.8)
    assert made is not None
    assert made.own_nodes == 6
    assert len(set(made.begin.ends_2PNF[0, 0, :, 0].tolist())) == 3


@pytest.mark.usefixtures("still")
def test_coverage_counts_the_observed_targets_of_the_test_windows(forecaster: tuple[Forecaster, Any]) -> None:
    model, world = forecaster
    made = calibrate(model, 0.7)
    assert made is not None
    told = made.coverage
    scores = missed(model, world, "test")
    low, high = made.begin.ends_2PNF
    seen = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        inside = (scores >= low) & (scores <= high)
    assert told is not None
    assert told.targets == seen.sum()
    assert abs(told.inside - inside.sum()) <= 2  # the last bit of a forecast may differ with the batch
    assert told.windows == told.of == len(scores)
    assert told.share == told.inside / told.targets
    for feature, name in enumerate(["speed", "volume"]):
        share = inside[..., feature].sum() / seen[..., feature].sum()
        assert told.by_feature[name] == pytest.approx(share, abs=0.01)
    groups = told.by_node, told.by_hour, told.by_month
    assert all(group is not None for group in groups)
    windows = world.windows("test", 6, 3)
    hours, dates = (np.array([part(window) for window in windows]) for part in (hours_of_targets, dates_of(world)))
    months = ["2024-03", "2024-04"]
    by_name: list[tuple[str, list[Any], np.ndarray]] = [
        ("nodes", world.nodes, np.broadcast_to(np.array(world.nodes), seen.shape[:3])),
        ("hours", list(range(24)), np.broadcast_to(hours[..., None], seen.shape[:3])),
        ("months", months, np.broadcast_to(dates[..., None], seen.shape[:3])),
    ]
    for (kind, names, label), group in zip(by_name, groups, strict=True):
        assert group is not None
        assert group[kind] == names
        for feature, name in enumerate(["speed", "volume"]):
            counted = [int(seen[..., feature][label == one].sum()) for one in names]
            covered = np.array([inside[..., feature][label == one].sum() for one in names])
            assert group[name]["targets"] == counted, (kind, name)
            assert abs(np.array(group[name]["inside"]) - covered).max() <= 2
    again = cover(model, made, "validation").coverage
    assert again is not None
    assert again.share is not None
    assert again.share >= 0.7  # the very scores that the ends were taken from


def hours_of_targets(window: Any) -> list[int]:
    return [code >> 3 for code in window.codes[6:].tolist()]


def dates_of(world: Any) -> Callable[[Any], list[str]]:
    """Of a window the month of each target step."""
    return lambda window: [
        f"{step['date']:%Y-%m}" for step in world.segments[window.segment][window.anchor : window.anchor + 3]
    ]


@pytest.mark.parametrize(("inside", "named"), [(68, True), (86, False), (96, True), (99, True)])
def test_of_nodes_hours_and_months_the_worst_is_named_too_much_is_as_bad_as_too_little(
    inside: int, named: bool
) -> None:
    """88 % of all: the one group that is far off, if it has targets enough; 5 % from 90 % is far."""

    def group(kind: str, *inside: int, of: int = 100) -> dict[str, Any]:
        return {kind: ["a", "b", "c"], "speed": {"targets": [of] * 3, "inside": list(inside)}}

    few = group("months", 1, 2, 3, of=99)
    made = Coverage(
        split="test",
        windows=9,
        of=9,
        targets=300,
        inside=264,
        by_feature={"speed": 0.88},
        by_node=group("nodes", 90, inside, 89),
        by_hour=group("hours", 90, 90, 90),
        by_month=few,
    )
    found = [Group(kind="node", target="speed", name="b", share=inside / 100, targets=100)] if named else []
    assert worst(made, 0.9) == found
    assert (
        worst(Coverage(split="test", windows=9, of=9, targets=300, inside=264, by_feature={"speed": 0.88}), 0.9) == []
    )


@pytest.mark.usefixtures("still")
def test_of_a_split_beyond_the_bounds_every_kth_window_is_asked(
    forecaster: tuple[Forecaster, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, world = forecaster
    monkeypatch.setattr(intervals, "HELD_BYTES", 4 * 3 * 3 * 2 * 25)
    made = calibrate(model, 0.5)
    scores = missed(model, world, "validation")
    every = math.ceil(len(scores) / 25)
    assert made is not None
    assert (made.windows, made.of) == (math.ceil(len(scores) / every), len(scores))
    chosen = scores[::every][:, 0, :, 0]
    low, high = by_rank(chosen[~np.isnan(chosen)].tolist(), 0.5)
    assert made.begin.ends_2PNF[:, 0, 0, 0] == pytest.approx((min(low, 0.0), max(high, 0.0)), abs=2e-5)
    monkeypatch.setattr(intervals, "MOST_WINDOWS", 10)
    fewer = calibrate(model, 0.5)
    assert fewer is not None
    assert fewer.windows <= 10
    assert fewer.coverage is not None
    assert fewer.coverage.windows <= 10


@pytest.mark.usefixtures("still")
def test_too_few_scores_give_no_end(forecaster: tuple[Forecaster, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "MOST_WINDOWS", 3)
    made = calibrate(forecaster[0], 0.99)
    assert made is not None
    assert np.isnan(made.begin.ends_2PNF).all()
    assert made.coverage is None


@given(
    scores=st.lists(st.floats(-1e3, 1e3, width=32), max_size=60),
    missing=st.integers(0, 5),
    level=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]),
)
def test_ends_are_the_corrected_ranks_whatever_is_missing(scores: list[float], missing: int, level: float) -> None:
    column = np.sort(np.asarray([*scores, *[np.nan] * missing, np.nan], dtype=np.float32))[:, None]
    low, high = _ends(column, np.asarray([len(scores)]), level)
    expected = by_rank(scores, level)
    np.testing.assert_array_equal([low[0], high[0]], expected)


@pytest.mark.parametrize(("count", "level", "rank"), [(199, 0.9, 10), (39, 0.95, 1), (19, 0.9, 1), (1999, 0.95, 50)])
def test_a_rank_is_a_whole_number_where_it_is_one(count: int, level: float, rank: int) -> None:
    """(1 - 0.9) / 2 x 200 is 10; in floats it is a little less."""
    column = np.arange(1.0, count + 1).astype(np.float32)[:, None]
    assert _ends(column, np.asarray([count]), level).tolist() == [[rank], [count + 1 - rank]]


def test_the_interval_of_a_biased_model_reaches_to_its_forecast() -> None:
    scores = np.linspace(1, 2, 400, dtype=np.float32).reshape(400, 1, 1, 1)  # it is always too low
    low, high = _reach(scores, 0.9)[0][:, 0, 0, 0].tolist()
    assert (low, high) == (0.0, pytest.approx(1.95, abs=0.01))
    low, high = _reach(-scores, 0.9)[0][:, 0, 0, 0].tolist()
    assert (low, high) == (pytest.approx(-1.95, abs=0.01), 0.0)


def test_new_targets_of_the_same_kind_lie_inside_as_often_as_promised() -> None:
    """200 calibrations of 79 windows each: the mean share lies between level and level + 2 / (n + 1)."""
    generator = np.random.default_rng(11)
    shares = []
    for _ in range(200):
        reach, _ = _reach(generator.standard_t(3, (79, 1, 1, 1)).astype(np.float32), 0.9)
        fresh = generator.standard_t(3, 2000)
        shares.append(((fresh >= reach[0, 0, 0, 0]) & (fresh <= reach[1, 0, 0, 0])).mean())
    assert 0.89 < np.mean(shares) < 0.935


def test_a_damaged_weight_is_never_asked(forecaster: tuple[Forecaster, Any]) -> None:
    from dateshard.shardstore.errors import DamagedError

    model, _ = forecaster
    found, _ = checkpoint.find(Path("runs/r/checkpoints"), "best")
    path = found.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        load_forecaster(model.config, model.dataset, found)
    assert torch.is_grad_enabled()
