"""Errors in raw units against plain numpy and scikit-learn: by node, by hour, relative, quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.metrics.raw_errors import ErrorCounts, RawFigures, hours_of
from dateshard.trainer.metrics.units import Units

B, P, N, F = 7, 4, 5, 2
NODES = [f"n{index}" for index in range(N)]


class Affine:
    """Units of two features: 12 x + 60 and 3 x + 1e6."""

    spread, middle = torch.tensor([12.0, 3.0]), torch.tensor([60.0, 1e6])
    shift_raw_NF = torch.tensor([60.0, 1e6], dtype=torch.float64).expand(N, F)
    rounding_NF = np.full((N, F), 1e-9)
    both_signs_F = np.zeros(F, dtype=bool)

    def raw(self, values: torch.Tensor) -> torch.Tensor:
        return values.double() * self.spread + self.middle


def test_units_are_those_of_the_targets_in_their_own_order(make_world: Any, plain: Any) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"})
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    world.prepare()
    dataset, date = world.open(), min(world.rows)
    scaled = torch.from_numpy(np.asarray(dataset.map(date)).copy())
    known = np.asarray([[[cell or np.nan for cell in node] for node in step] for step in
                        plain(world)._aggregate(date, world.rows[date])])  # fmt: skip
    for targets in ([1], [1, 0], [0, 1]):
        raw = Units(dataset, targets).raw(scaled[..., targets]).numpy()
        seen = ~np.isnan(known[..., targets])
        np.testing.assert_allclose(raw[seen], known[..., targets][seen], rtol=1e-5)


@pytest.mark.parametrize("scale", ["zscore", "robust"])
def test_a_target_with_training_values_on_both_sides_of_0_has_no_percentages(make_world: Any, scale: str) -> None:
    world = make_world(3, split={"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"})
    world.tree["pipeline"]["features"]["speed"]["scale"] = scale
    for date, rows in world.rows.items():
        world.rows[date] = [(at, node, None if x is None else x - 50.0, y) for at, node, x, y in rows]
        world.write(date)
    world.prepare()
    least, greatest = world.open().statistics.over_nodes[4:6]
    assert least[0] < 0 < greatest[0]
    assert least[1] >= 0
    units = Units(world.open(), [0, 1])
    assert units.both_signs_F.tolist() == [True, False]
    figures = RawFigures.none(units, P, 0.001)
    shape = (B, P, *units.rounding_NF.shape)
    figures.add(torch.zeros(shape), torch.ones(shape), None, np.zeros((B, P), dtype=np.int64))
    nodes = [str(k) for k in range(shape[2])]
    found = figures.report(["speed", "volume"], nodes)["by_feature"]
    assert found["speed"]["mape"] is None
    assert found["speed"]["mape_left_out"] == found["speed"]["count"] == np.prod(shape[:3])
    assert found["speed"]["wape"] is not None
    assert found["volume"]["mape"] is not None


def draw(share: float | None, batches: int = 5) -> list[tuple[Any, ...]]:
    generator, found = np.random.default_rng(4), []
    for number in range(batches):
        size = B if number < batches - 1 else 3
        target = torch.from_numpy(generator.normal(size=(size, P, N, F))).float()
        target[..., 0][torch.from_numpy(generator.random(target.shape[:3])) < 0.1] = -5.0  # raw 0
        forecast = target + torch.from_numpy(generator.normal(size=target.shape)).float() * 0.3
        observed = None if share is None else torch.from_numpy(generator.random(target.shape) < share)
        found.append((forecast, target, observed, generator.integers(0, 24, size=(size, P))))
    return found


def counted(batches: list[tuple[Any, ...]], floor: float = 0.5) -> dict[str, Any]:
    figures = RawFigures.none(Affine(), P, floor)  # type: ignore[arg-type]
    for forecast, target, observed, hours in batches:
        figures.add(forecast, target, observed, hours)
    return figures.report(["speed", "level"], NODES)


def plainly(batches: list[tuple[Any, ...]], feature: int) -> dict[str, np.ndarray]:
    """One row a cell that counts: error, target, step, node, hour."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("forecast", "target", "step", "node", "hour")}
    units = Affine()
    for forecast, target, observed, hours in batches:
        shape = target.shape[:3]
        seen = np.ones(shape, bool) if observed is None else observed[..., feature].numpy()
        grid = np.broadcast_arrays(np.arange(P)[None, :, None], np.arange(N)[None, None], hours[:, :, None])
        raw = (units.raw(part)[..., feature].numpy() for part in (forecast, target))
        for name, values in zip(parts, (*raw, *(np.broadcast_to(g, shape) for g in grid)), strict=True):
            parts[name].append(values[seen])
    return {name: np.concatenate(values) for name, values in parts.items()}


@pytest.mark.parametrize("share", [None, 0.6])
@pytest.mark.parametrize("feature", [0, 1])
def test_figures_by_node_and_hour_are_those_of_their_cells(share: float | None, feature: int) -> None:
    batches = draw(share)
    report, cells = counted(batches), plainly(batches, feature)
    name = ("speed", "level")[feature]
    for by, key, groups in (("by_node", "node", N), ("by_hour", "hour", 24)):
        found = report[by][name]
        for group in range(groups):
            here = cells[key] == group
            target, forecast = cells["target"][here], cells["forecast"][here]
            assert found["count"][group] == here.sum()
            if not here.any():
                assert found["mae"][group] is found["r2"][group] is None
                continue
            assert found["mae"][group] == pytest.approx(oracle.mean_absolute_error(target, forecast), rel=1e-12)
            assert found["rmse"][group] == pytest.approx(oracle.root_mean_squared_error(target, forecast), rel=1e-12)
            assert found["bias"][group] == pytest.approx((forecast - target).mean(), rel=1e-9, abs=1e-9)
            assert found["r2"][group] == pytest.approx(oracle.r2_score(target, forecast), rel=1e-9, abs=1e-9)
    assert report["by_node"]["nodes"] == NODES


@pytest.mark.parametrize("share", [None, 0.6])
def test_relative_errors_leave_out_what_is_near_nothing_and_say_how_many(share: float | None) -> None:
    batches = draw(share)
    report, cells = counted(batches), plainly(batches, 0)
    far = np.abs(cells["target"]) >= 0.5
    found, error = report["by_feature"]["speed"], np.abs(cells["forecast"] - cells["target"])
    assert 0 < found["mape_left_out"] == (~far).sum() < len(far)
    wanted = oracle.mean_absolute_percentage_error(cells["target"][far], cells["forecast"][far])
    assert found["mape"] == pytest.approx(wanted, rel=1e-12)
    assert found["wape"] == pytest.approx(error.sum() / np.abs(cells["target"]).sum(), rel=1e-12)
    assert report["by_feature"]["level"]["mape_left_out"] == 0
    assert counted(batches, floor=1e9)["by_feature"]["speed"]["mape"] is None
    assert (
        report["by_horizon"][2]["count"]
        == (plainly(batches, 0)["step"] == 2).sum() + (plainly(batches, 1)["step"] == 2).sum()
    )


@pytest.mark.parametrize("share", [None, 0.6])
def test_quantiles_are_those_of_the_errors_within_half_a_percent(share: float | None) -> None:
    batches = draw(share, batches=40)
    found = counted(batches)["by_feature"]
    for feature, name in enumerate(("speed", "level")):
        cells = plainly(batches, feature)
        error = np.abs(cells["forecast"] - cells["target"])
        for q in (50, 90, 99):
            wanted = np.quantile(error, q / 100, method="inverted_cdf")
            assert found[name]["error_quantiles"][f"p{q}"] == pytest.approx(wanted, rel=2**-8)


def test_quantiles_hold_over_forty_orders_of_magnitude_and_add_up_exactly() -> None:
    errors = 10.0 ** np.random.default_rng(0).uniform(-20, 20, size=(50, 1, 20, 1))
    whole, halves = ErrorCounts.none(1), [ErrorCounts.none(1), ErrorCounts.none(1)]
    whole.add(errors, None)
    for half, part in zip(halves, (errors[:30], errors[30:]), strict=True):
        half.add(part, None)
    assert np.array_equal(halves[0].counts_FK + halves[1].counts_FK, whole.counts_FK)
    for share in (0.5, 0.99):
        wanted = np.quantile(errors, share, method="inverted_cdf")
        assert whole.quantile(0, share) == pytest.approx(wanted, rel=2**-8)
    assert ErrorCounts.none(1).quantile(0, 0.5) is None
    broken = ErrorCounts.none(1)
    broken.add(np.array([np.nan, np.inf, 0.0, 1e300]).reshape(4, 1, 1, 1), None)
    assert broken.counts_FK.sum() == 2


def test_figures_do_not_depend_on_how_windows_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = draw(0.6)
    joined = [(*tuple(torch.cat([b[k] for b in batches]) for k in range(3)), np.concatenate([b[3] for b in batches]))]
    first = counted(batches)
    monkeypatch.setattr("dateshard.trainer.metrics.sums.CHUNK", 3 * 31 * N * F)
    second = counted(joined)
    assert second["by_feature"]["speed"]["error_quantiles"] == first["by_feature"]["speed"]["error_quantiles"]
    for left, right in zip(second["by_hour"]["level"]["mae"], first["by_hour"]["level"]["mae"], strict=True):
        assert left == (None if right is None else pytest.approx(right, rel=1e-12))
    assert second["mae"] == pytest.approx(first["mae"], rel=1e-12)


def test_hours_come_from_the_codes_of_the_target_steps() -> None:
    codes = torch.tensor([[22 * 8 + 3, 23 * 8 + 3, 0 * 8 + 4, 1 * 8 + 4]])
    assert hours_of(codes, 2, 2, 3600 * 10**9).tolist() == [[0, 1]]  # type: ignore[union-attr]
    five_minutes = torch.tensor([[11 * 8, 12 * 8, 287 * 8]])
    assert hours_of(five_minutes, 0, 3, 300 * 10**9).tolist() == [[0, 1, 23]]  # type: ignore[union-attr]
    assert hours_of(None, 0, 3, 1) is None


def test_an_evaluation_tells_hours_and_nodes_of_the_real_windows(make_world: Any, plain: Any) -> None:
    """By local hour in a zone east of Greenwich, on masked data."""
    split = {"train": "2024-03-01..2024-03-03", "test": "2024-03-04..2024-03-05"}
    world = make_world(5, split=split, zone="Asia/Tokyo")
    world.prepare()
    config = world.settings.trainer
    row = evaluate(config, world.open(), split="test", baselines=["repeat"], model=None).to_json()["rows"][0]
    windows, hours = plain(world).windows("test", 12, 6), np.zeros(24, dtype=int)
    for window in windows:
        for step in range(6):
            hours[window.codes[12 + step] // 8] += window.observed[12 + step][:, 0].sum()
    assert row["by_hour"]["speed"]["count"] == hours.tolist()
    nodes = sum(window.observed[12:, :, 0].sum(0) for window in windows)
    assert row["by_node"]["speed"]["count"] == nodes.tolist()
    assert row["by_node"]["nodes"] == ["n0", "n1", "n2"]
