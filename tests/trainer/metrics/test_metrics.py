"""Sums over an epoch, the loss and its gradient, early stopping: against plain float64 over everything at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.trainer.config import EarlyStopping, NoSchedule, StepSchedule
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.metrics import Sums
from dateshard.trainer.optimization.objective import Head
from dateshard.trainer.optimization.schedule import LossHistory, learning_rate

BATCHES, B, P, N, F = 9, 8, 5, 3, 2


def draw(offset: float = 0.0, spread: float = 1.0, share: float | None = 0.7) -> list[tuple[Any, Any, Any]]:
    """Batches of (forecast, target, observed or None), the last one short."""
    generator = np.random.default_rng(11)
    found = []
    for number in range(BATCHES):
        size = B if number < BATCHES - 1 else 3
        target = (offset + spread * generator.normal(size=(size, P, N, F))).astype(np.float32)
        forecast = (target + 0.3 * spread * generator.normal(size=target.shape)).astype(np.float32)
        observed = None if share is None else generator.random(target.shape) < share
        found.append((forecast, target, observed))
    return found


def plainly(batches: list[tuple[Any, Any, Any]], step: int | None, feature: int | None) -> dict[str, Any]:
    """All at once, in float64, over the observed cells of a step and a feature."""
    chosen = (
        slice(None),
        slice(None) if step is None else step,
        slice(None),
        slice(None) if feature is None else feature,
    )
    forecast, target = (np.concatenate([batch[k][chosen].ravel() for batch in batches]).astype(float) for k in (0, 1))
    masks = [np.ones(t.shape, bool) if seen is None else seen for _, t, seen in batches]
    seen = np.concatenate([mask[chosen].ravel() for mask in masks])
    forecast, target = forecast[seen], target[seen]
    error = forecast - target
    mean = math.fsum(target) / len(target)
    spread = math.fsum((target - mean) ** 2)
    squared = math.fsum(error**2)
    return {
        "count": len(target),
        "mse": squared / len(target),
        "rmse": math.sqrt(squared / len(target)),
        "mae": math.fsum(abs(error)) / len(target),
        "bias": math.fsum(error) / len(target),
        "r2": 1 - squared / spread,
    }


def summed(batches: list[tuple[Any, Any, Any]], shift: np.ndarray | None = None) -> Sums:
    sums = Sums.zeros(P, F)
    for forecast, target, observed in batches:
        seen = None if observed is None else torch.from_numpy(observed)
        sums.add(torch.from_numpy(forecast), torch.from_numpy(target), seen, shift)
    return sums


@pytest.mark.parametrize("feature", [None, 0, 1])
@pytest.mark.parametrize("step", [None, 0, P - 1])
@pytest.mark.parametrize("share", [None, 0.7, 0.02])
def test_sums_of_an_epoch_equal_float64_over_all_windows_at_once(
    share: float | None, step: int | None, feature: int | None
) -> None:
    batches = draw(share=share)
    found, expected = summed(batches).metrics(step, feature), plainly(batches, step, feature)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-15), name


@pytest.mark.parametrize("share", [None, 0.7])
@pytest.mark.parametrize("nodes", [1, N])
def test_sums_have_the_bits_of_each_term_summed_by_window_then_by_node(share: float | None, nodes: int) -> None:
    sums, expected = Sums.zeros(P, F), np.zeros((6, P, F))
    for forecast, target, seen in draw(share=share):
        given = [None if x is None else x[:, :, :nodes] for x in (forecast, target, seen)]
        sums.add(*(None if x is None else torch.from_numpy(x) for x in given))  # type: ignore[arg-type]
        value = given[1].astype(float)
        error, seen = given[0] - value, np.ones_like(value) if given[2] is None else given[2].astype(float)
        error, value = error * seen, value * seen
        for row, term in enumerate((seen, error, abs(error), error * error, value, value * value)):
            by_window = term[0].copy()
            for window in term[1:]:
                by_window += window
            expected[row] += np.einsum("pnf->pf", by_window)
    assert np.array_equal(sums.values_6GF, expected)


def test_a_report_holds_every_feature_and_every_step() -> None:
    batches = draw()
    report = summed(batches).report(["speed", "volume"])
    assert report["by_feature"]["volume"]["mse"] == pytest.approx(plainly(batches, None, 1)["mse"], rel=1e-12)
    steps = [plainly(batches, step, None)["mae"] for step in range(P)]
    assert [row["mae"] for row in report["by_horizon"]] == pytest.approx(steps, rel=1e-12)
    assert report["mse"] == pytest.approx(plainly(batches, None, None)["mse"], rel=1e-12)


@pytest.mark.parametrize(("offset", "spread"), [(1000.0, 1.0), (1e6, 1.0), (-5e4, 0.01)])
def test_r2_with_a_large_offset_is_right_when_shifted_by_the_training_mean(offset: float, spread: float) -> None:
    batches = draw(offset, spread)
    expected = plainly(batches, None, None)["r2"]
    shift = np.full((N, F), offset + 0.1 * spread)  # a mean that is only about right
    assert summed(batches, shift).metrics()["r2"] == pytest.approx(expected, rel=1e-11)
    for feature in range(F):
        found = summed(batches, shift).metrics(feature=feature)["r2"]
        assert found == pytest.approx(plainly(batches, None, feature)["r2"], rel=1e-11)


def test_the_order_of_batches_does_not_matter_but_for_the_last_bits() -> None:
    batches = draw()
    forward, backward = summed(batches).metrics(), summed(batches[::-1]).metrics()
    assert forward == pytest.approx(backward, rel=1e-13)


def test_where_nothing_was_observed_there_is_no_figure() -> None:
    nothing = [(f, t, np.zeros(t.shape, bool)) for f, t, _ in draw()]
    assert set(summed(nothing).metrics().values()) == {0, None}
    one_step = [(f, t, np.broadcast_to(np.arange(P)[:, None, None] == 2, t.shape)) for f, t, _ in draw()]
    sums = summed([(f, t, seen.copy()) for f, t, seen in one_step])
    assert [sums.metrics(step)["mse"] is None for step in range(P)] == [True, True, False, True, True]


def test_a_constant_target_has_no_r2() -> None:
    constant = [(f, np.full_like(t, 2.0), None) for f, t, _ in draw()]
    found = summed(constant, np.full((N, F), 2.0)).metrics()
    assert found["r2"] is None
    assert found["mse"] > 0


def test_values_of_masked_cells_do_not_matter() -> None:
    batches = draw()
    other = [(f, np.where(seen, t, 1e6).astype(np.float32), seen) for f, t, seen in batches]
    assert np.array_equal(summed(batches).values_6GF, summed(other).values_6GF)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, 3e38])
def test_a_forecast_that_is_no_number_behind_the_mask_does_not_matter(wrong: float) -> None:
    batches = draw()
    other = [(np.where(seen, f, wrong).astype(np.float32), t, seen) for f, t, seen in batches]
    assert np.array_equal(summed(batches).values_6GF, summed(other).values_6GF)
    forecast, target, seen = (part.copy() for part in batches[0])
    forecast[0, 1, 0, 0], seen[0, 1, 0, 0] = wrong, True
    found = summed([(forecast, target, seen)])
    assert math.isfinite(wrong) or found.metrics(step=1, feature=0)["mse"] is None
    assert found.metrics(step=1, feature=1)["mse"] is not None


def batch_of(target: torch.Tensor, observed: torch.Tensor | None) -> Batch:
    return Batch(
        history_BHNF=torch.zeros(len(target), 1, N, F), target_BPNF=target, observed_BPNF=observed, codes_BW=None
    )


@pytest.mark.parametrize("share", [None, 0.6])
def test_the_loss_is_the_sum_of_squares_of_the_observed_and_their_count(share: float | None) -> None:
    for forecast, target, observed in draw(share=share):
        seen = None if observed is None else torch.from_numpy(observed)
        head = Head(name="mse", loss="mse", weight=1.0, targets=(0, 1), channels=(0, 1))
        total, count = head.sums(torch.from_numpy(forecast), batch_of(torch.from_numpy(target), seen))
        error = forecast.astype(float) - target
        plain = error**2 if observed is None else error[observed] ** 2
        assert int(count) == plain.size
        assert float(total) == pytest.approx(math.fsum(plain.ravel()), rel=1e-5)


def test_the_learning_rate_falls_by_gamma_every_step_size_epochs() -> None:
    schedule = StepSchedule(step_size=3, gamma=0.5)
    rates = [learning_rate(epoch, 0, 0.8, schedule) for epoch in range(8)]
    assert rates == [0.8] * 3 + [0.4] * 3 + [0.2] * 2
    assert [learning_rate(epoch, 0, 0.8, NoSchedule(type="none")) for epoch in (0, 99)] == [0.8, 0.8]


def test_patience_counts_validations_without_an_improvement_of_more_than_min_delta() -> None:
    stopping, progress = EarlyStopping(patience=3, min_delta=0.1), LossHistory()
    losses = [1.0, 0.95, 0.93, 0.88, 0.87, float("nan"), None]
    bests, ends = [], []
    for epoch, loss in enumerate(losses):
        bests.append(progress.note(loss, epoch, stopping))
        ends.append(progress.exhausted(stopping))
    assert bests == [True, True, True, True, True, False, False]
    assert ends == [False, False, False, False, False, False, True]
    assert (progress.best_loss, progress.best_epoch, progress.reference_loss) == (0.87, 4, 0.88)


def test_of_equal_losses_the_older_stays_the_best() -> None:
    progress = LossHistory()
    assert [progress.note(loss, epoch, None) for epoch, loss in enumerate([0.5, 0.5, 0.4, 0.4])] == [
        True,
        False,
        True,
        False,
    ]
    assert progress.best_epoch == 2
    assert not progress.exhausted(None)
