"""Bounds of a feature: no forecast goes beyond them, whoever makes it, in whichever units it is scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.bounds import bounds_of, scaled_bounds
from tests.trainer.assessment.test_rivals import errors_of, figures, judged, last_seen, prepared, walk

Make = Callable[..., Any]
ALL = np.ones((9 * 24, 3), bool)


@pytest.mark.parametrize(
    "feature", [{}, {"scale_per": "node"}, {"scale": "minmax"}, {"transform": "log1p", "scale_per": "node"}]
)
@pytest.mark.parametrize("bounds", [(18.0, None), (None, 21.0), (19.0, 20.5)])
def test_what_is_judged_is_moved_into_the_bounds(
    make_world: Make, feature: dict[str, str], bounds: tuple[float | None, float | None]
) -> None:
    """A walk from 20 on that leaves them: repeat is the last value, or the bound."""
    values = walk(3)
    world = prepared(make_world, values, trainer={"bounds": {"speed": bounds}}, **feature)
    plain = last_seen(values, ALL)
    low, high = (-np.inf if bounds[0] is None else bounds[0], np.inf if bounds[1] is None else bounds[1])
    error = errors_of(values, ALL, lambda *step: float(np.clip(plain(*step), low, high)))
    assert abs(error - errors_of(values, ALL, plain)).max() > 0.5
    assert figures(judged(world, "repeat"), "repeat")["mae"] == pytest.approx(abs(error).mean(), rel=1e-4)


class Wild(torch.nn.Module):
    """Forecasts that no bound would let pass."""

    def forward(self, history: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        return history[:, -1:].expand(-1, 4, -1, -1) * 0 - 9.0


def test_the_windows_of_the_page_are_drawn_within_the_bounds(make_world: Make) -> None:
    world = prepared(make_world, walk(3), trainer={"bounds": {"speed": (2.5, None)}})
    result = evaluate(world.settings.trainer, world.open(), split="test", baselines=["repeat"], model=("wild", Wild()))
    drawn = [value for window in result.shown for target in window["targets"] for value in target["forecasts"]["wild"]]
    assert set(drawn) == {2.5}


def test_a_count_a_counter_and_a_logarithm_of_what_was_never_negative_end_at_0_by_themselves(make_world: Make) -> None:
    """Whatever is said beyond that holds too; what was negative in training may be so again."""
    world = make_world(4, split={"train": "2024-03-01..2024-03-04"})
    for date, rows in world.rows.items():
        world.rows[date] = [(i, node, speed, volume - 0.5) for i, node, speed, volume in rows]
        world.write(date)
    world.tree["pipeline"]["features"] = {
        "speed": {"transform": "log1p"},
        "low": {"column": "vehicles", "aggregate": "min", "transform": "log1p"},
        "rows": {"aggregate": "count"},
        "vehicles": {"aggregate": "sum"},
        "grown": {"column": "vehicles", "aggregate": "difference"},
    }
    world.tree["trainer"]["bounds"] = {"rows": [None, 3], "vehicles": [-5, 50]}
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    low, high = bounds_of(config, dataset, range(5))
    assert low.tolist() == [0, -np.inf, 0, -5, 0]
    assert high.tolist() == [np.inf, np.inf, 3, 50, np.inf]
    scaled = scaled_bounds(config, dataset, range(4))
    assert scaled is not None
    assert np.isneginf(scaled[0, :, 1].numpy()).all()
    assert scaled_bounds(config, dataset, [1]) is None


@pytest.mark.parametrize(("name", "message"), [("sped", "no feature 'sped'"), ("kind", "'kind' is a category")])
def test_bounds_of_what_is_no_number_here_are_refused_before_anything_is_trained(
    make_world: Make, session_of: Make, name: str, message: str
) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-04"}, bounds={name: [0, 1]})
    world.tree["pipeline"]["features"] = {"speed": {}, "kind": {"column": "vehicles", "categorical": True}}
    world.prepare()
    with pytest.raises(UsageError, match=message):
        session_of(world)


@pytest.mark.parametrize("bounds", [[None, None], [1, 1], [2, 1], [1], [float("nan"), 1]])
def test_bounds_that_are_none_are_refused_with_their_place(bounds: list[float | None]) -> None:
    from pydantic import ValidationError

    from dateshard.trainer.config import Trainer

    with pytest.raises(ValidationError, match=r"bounds\.speed"):
        Trainer.model_validate({"bounds": {"speed": bounds}})
