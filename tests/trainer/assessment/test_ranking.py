"""The worst, middle and best windows of a pass, against all errors held in one array; and what is drawn of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.assessment.ranking import KEPT, SAMPLED, Ranked, Ranking, cell_errors, drawn_node
from dateshard.trainer.data.batch import Batch


def ranked(errors: np.ndarray, *, stretch: int = 1, batch: int = 7) -> list[Ranked]:
    ranking = Ranking(len(errors), stretch, 5)
    for low in range(0, len(errors), batch):
        part = errors[low : low + batch]
        ranking.add(range(low, low + len(part)), part)
    return ranking.chosen()


def greedy(errors: np.ndarray, stretch: int, sign: int) -> list[int]:
    """Of all stretches' own extremes, in order, those far enough from the ones before."""
    known = [k for k in range(len(errors)) if not np.isnan(errors[k])]
    firsts = dict[int, int]()
    for k in sorted(known, key=lambda k: (sign * errors[k], k)):
        firsts.setdefault(k // stretch, k)
    chosen = list[int]()
    for k in firsts.values():
        if len(chosen) < KEPT and all(abs(k - other) >= stretch for other in chosen):
            chosen.append(k)
    return chosen


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf, np.nan]), min_size=40, max_size=300), st.integers(1, 9))
def test_the_extremes_are_those_of_all_windows(values: list[float], stretch: int) -> None:
    errors = np.asarray(values)
    found = ranked(errors, stretch=stretch)
    assert len({one.position for one in found}) == len(found)
    worst, best = greedy(errors, stretch, -1), greedy(errors, stretch, 1)
    told = {kind: [one.position for one in found if one.kind == kind] for kind in ("worst", "best")}
    assert told["worst"][:1] == worst[:1]
    if not {*worst} & {*best}:
        assert told == {"worst": worst, "best": best}
    assert all(one.error == errors[one.position] for one in found)


def test_the_middle_is_the_median_of_few_and_near_it_of_many() -> None:
    generator = np.random.default_rng(2)
    few = generator.normal(size=SAMPLED - 1)
    middle = [one for one in ranked(few) if one.kind == "median"]
    assert middle[0].error == np.median(few)
    many = generator.normal(size=60_000)
    (first, _) = (one for one in ranked(many, batch=512) if one.kind == "median")
    assert abs((many < first.error).mean() - 0.5) < 0.05


def test_of_an_even_number_the_lower_median_is_the_middle() -> None:
    assert [one.error for one in ranked(np.arange(6.0)) if one.kind == "median"] == [2.0]


def test_a_category_that_is_unseen_or_not_observed_is_no_error_and_a_forecast_that_is_no_number_is_the_largest() -> (
    None
):
    kind = SimpleNamespace(name="kind", loss="cross_entropy", targets=(1,))
    speed = SimpleNamespace(name="speed", loss="mse", targets=(0,))
    form: Any = SimpleNamespace(heads=(speed, kind), numeric=(speed,), categorical=(kind,), numbers=(0,))
    target = torch.tensor([[1.0, 0.0], [2.0, 2.0], [3.0, 1.0], [4.0, 1.0]])[None, :, None]  # [B, P, N, T]
    observed = torch.tensor([[True, True], [True, True], [True, False], [False, True]])[None, :, None]
    logits = torch.tensor([0.0, 0.0, 5.0]).expand(1, 4, 1, 3)  # always the second category
    told = {"speed": torch.tensor([1.5, torch.nan, 3.0, 9.0])[None, :, None, None], "kind": logits}
    errors, counts = (
        cell_errors(
            form, told, Batch(history_BHNF=target[:, :0], target_BPNF=target, observed_BPNF=observed, codes_BW=None)
        )
        or ()
    )
    assert errors[0, :, 0].T.tolist() == [[0.25, np.inf, 0.0, 25.0], [1.0, 0.0, 1.0, 1.0]]
    assert counts[0, :, 0].T.tolist() == [[True, True, True, False], [False, True, False, True]]


def test_where_all_errors_are_infinite_a_node_is_drawn_without_a_warning() -> None:
    assert drawn_node(np.full(3, np.inf), "middle", np.inf) == 0


def test_batches_do_not_change_the_choice_and_memory_does_not_grow() -> None:
    errors = np.random.default_rng(3).exponential(size=20_000)
    assert ranked(errors, stretch=24, batch=1000) == ranked(errors, stretch=24, batch=17)

    def held(size: int) -> int:
        ranking = Ranking(size, 24, 5)
        for low in range(0, size, 500):
            ranking.add(range(low, low + 500), errors[low % 10_000 :][:500])
        arrays = [ranking._sampled, ranking._positions, *ranking._low, *ranking._high]
        assert vars(ranking).keys() == {"num_windows", "stretch", "seed", "_low", "_high", "_sampled", "_positions"}
        return sum(array.nbytes for array in arrays)

    assert held(500_000) == held(20_000) < 20_000


def test_very_few_windows_are_told_once_each_kind_first() -> None:
    assert [one.kind for one in ranked(np.asarray([3.0]))] == ["worst"]
    three = ranked(np.asarray([3.0, 1.0, 2.0]))
    assert {one.kind: one.position for one in three} == {"worst": 0, "best": 1, "median": 2}
    assert ranked(np.asarray([np.nan, np.nan])) == []


@pytest.mark.parametrize("horizon", [6, 0])
def test_what_is_drawn_is_the_data_and_the_forecast(make_world: Callable[..., Any], horizon: int) -> None:
    """Every window's error and every value drawn, done again from the shards and from a second run of the model."""
    split = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07..2024-03-08"}
    world = make_world(8, split=split, missing=0.3, window={"history": 12, "horizon": horizon})
    world.prepare()
    dataset, config = world.open(), world.settings.trainer

    class Steady(torch.nn.Module):
        def forward(self, history_BHNF: torch.Tensor, codes: Any) -> torch.Tensor:
            steps = horizon or 12
            return history_BHNF[:, -1:].expand(-1, steps, -1, -1) * 0.5 + 0.1

    result = evaluate(config, dataset, split="test", baselines=["mean"], model=("steady", Steady()))
    kinds = [window["kind"] for window in result.shown]
    assert kinds == ["worst", "worst", "median", "median", "best", "best"]
    dates = sorted(dataset.manifest.dates)
    scaled = np.concatenate([np.asarray(dataset.map(date)) for date in dates]).astype(float)
    seen = np.concatenate(
        [np.ones(scaled[:24].shape, bool) if (m := dataset.map(d, "observed")) is None else m for d in dates]
    )
    errors = {}
    for anchor in range(6 * 24 + (0 if horizon else 11), 8 * 24 - (horizon or 1) + 1):
        last = anchor - 1 if horizon else anchor
        targets = slice(anchor, anchor + horizon) if horizon else slice(anchor - 11, anchor + 1)
        away = (scaled[last] * 0.5 + 0.1 - scaled[targets]) ** 2
        errors[anchor] = away[seen[targets]].mean()
    by_size = sorted(errors, key=lambda anchor: -errors[anchor])
    begin = dt.datetime(2024, 3, 1, tzinfo=dt.UTC).timestamp()
    for window, anchor in ((result.shown[0], by_size[0]), (result.shown[4], by_size[-1])):
        assert window["error"] == pytest.approx(errors[anchor], rel=1e-5)
        first = anchor if horizon else anchor - 11
        assert dt.datetime.fromisoformat(window["begins"]).timestamp() == begin + first * 3600
        node = dataset.nodes.names.index(window["node"])
        for place, target in enumerate(window["targets"]):
            ahead = target["values"][window["horizon_from"] :]
            raw = dataset.scale.undo(scaled[first : first + len(ahead)])[:, node, place]
            there = seen[first : first + len(ahead), node, place]
            assert [value is not None for value in ahead] == there.tolist()
            assert [v for v in ahead if v is not None] == pytest.approx(raw[there].tolist(), rel=1e-5, abs=1e-5)
            last = scaled[anchor - 1 if horizon else anchor] * 0.5 + 0.1
            told = float(dataset.scale.undo(last[None])[0, node, place])
            assert target["forecasts"]["steady"] == pytest.approx([told] * len(ahead), rel=1e-4, abs=1e-4)
    worst = result.shown[0]
    where = slice(by_size[0], by_size[0] + horizon) if horizon else slice(by_size[0] - 11, by_size[0] + 1)
    last = by_size[0] - 1 if horizon else by_size[0]
    away = np.where(seen[where], (scaled[last] * 0.5 + 0.1 - scaled[where]) ** 2, 0)
    by_node = away.sum((0, 2)) / np.maximum(seen[where].sum((0, 2)), 1)
    assert worst["node"] == dataset.nodes.names[int(by_node.argmax())]
