"""Coverage, width, Winkler score and pinball loss of intervals, held against their definitions written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.trainer.metrics import interval_scores
from dateshard.trainer.metrics.interval_scores import IntervalScores
from dateshard.trainer.metrics.units import Units

LEVEL, FEATURES, NODES = 0.8, ["speed", "volume"], ["n0", "n1", "n2"]
Batches = list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def some_batches() -> Batches:
    """(quantiles, targets, which were observed, hours) of two batches; some cells have no interval."""
    generator, batches = np.random.default_rng(2), []
    for size in (5, 3):
        shape = (size, 4, 3, 2)
        quantiles = np.sort(generator.standard_normal((3, *shape)), axis=0)
        quantiles[:, generator.random(shape) < 0.1] = np.nan
        target = (1.5 * generator.standard_normal(shape)).astype(np.float32)
        batches.append((quantiles, target, generator.random(shape) < 0.8, generator.integers(0, 24, (size, 4))))
    return batches


def plain_means(cells: list[tuple[float, float, float, float]]) -> dict[str, float]:
    """The definitions of (low, median, high, target) cells, one at a time."""
    rows = []
    for low, median, high, target in cells:
        winkler = high - low
        if target < low:
            winkler += 2 / (1 - LEVEL) * (low - target)
        if target > high:
            winkler += 2 / (1 - LEVEL) * (target - high)
        losses = [max(p * (target - q), (p - 1) * (target - q)) for q, p in ((low, 0.1), (median, 0.5), (high, 0.9))]
        rows.append((low <= target <= high, high - low, winkler, float(np.mean(losses))))
    return dict(zip(("coverage", "width", "winkler", "pinball"), np.mean(rows, axis=0).tolist(), strict=True))


@pytest.mark.parametrize("chunk", [1 << 16, 1])
def test_scores_are_the_means_of_their_definitions_in_every_group(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(interval_scores, "CHUNK", chunk)
    world = make_world(2, split={"train": "2024-03-01", "validation": "2024-03-02"})
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    world.prepare()
    units = Units(world.open(), [0, 1])
    scores, batches = IntervalScores.none(LEVEL, units, 4), some_batches()
    for quantiles, target, observed, hours in batches:
        scores.add(quantiles, torch.from_numpy(target), torch.from_numpy(observed), hours)
    report = scores.report(FEATURES, NODES)
    assert report is not None
    cells: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for quantiles, target, observed, hours in batches:
        raw = units.raw(torch.from_numpy(np.concatenate([quantiles, target[None].astype(np.float64)]))).numpy()
        for place in np.argwhere(observed & ~np.isnan(quantiles[0])):
            b, p, n, f = place.tolist()
            key = (p, n, f, int(hours[b, p]))
            scaled = np.append(quantiles[:, b, p, n, f], target[b, p, n, f])
            cells.setdefault(key, []).append((scaled, raw[:, b, p, n, f]))

    def expect(found: dict[str, Any], unit: int, **chosen: int) -> None:
        names = dict(zip("pnfh", range(4), strict=True))
        own = [
            c[unit] for key, some in cells.items() for c in some if all(key[names[k]] == v for k, v in chosen.items())
        ]
        assert found["count"] == len(own)
        for name, value in plain_means(own).items() if own else ():
            assert found[name] == pytest.approx(value, rel=1e-9), (chosen, name)

    expect(report["scaled"], 0)
    assert report["raw"]["winkler"] is None  # targets differ in unit
    for step in range(4):
        expect(report["by_horizon"][step], 0, p=step)
    for f, name in enumerate(FEATURES):
        expect(report["scaled"]["by_feature"][name], 0, f=f)
        expect(report["raw"]["by_feature"][name], 1, f=f)
        for kind, letter in (("by_node", "n"), ("by_hour", "h")):
            for group in range(len(report[kind][name]["count"])):
                one = {figure: values[group] for figure, values in report[kind][name].items()}
                expect(one, 1, f=f, **{letter: group})
    assert IntervalScores.none(LEVEL, units, 4).report(FEATURES, NODES) is None


def test_a_target_on_an_end_lies_inside_whatever_float32_left_of_it(make_world: Callable[..., Any]) -> None:
    """A count of 0 lies in an interval that is cut off at 0, and in one that ends there."""
    world = make_world(2, split={"train": "2024-03-01", "validation": "2024-03-02"})
    world.prepare()
    dataset = world.open()
    units = Units(dataset, [1])
    zero_NF = dataset.scale.of([1]).apply(np.zeros((1, 1, 3, 1)))
    scores = IntervalScores.none(0.9, units, 1)
    for ends in ([zero_NF, zero_NF + 0.1, zero_NF + 0.2], [zero_NF - 0.2, zero_NF - 0.1, zero_NF]):
        scores.add(np.stack(ends), torch.from_numpy(zero_NF.astype(np.float32)), None, None)
    report = scores.report(["volume"], NODES)
    assert report is not None
    assert report["scaled"]["coverage"] == 1.0
    assert report["raw"]["winkler"] == pytest.approx(report["raw"]["width"], rel=1e-5)
    assert report["by_hour"] is None
