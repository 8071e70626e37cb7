"""Reading steps of a segment across its dates: any of the four arrays alone, and what lies before the segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

NAMES = ("values", "observed", "codes", "times")


@pytest.mark.parametrize("name", NAMES)
def test_any_array_is_read_alone_across_dates_and_is_that_of_reading_all(
    make_world: Callable[..., Any], name: str
) -> None:
    world = make_world(3, missing=0.3, split={"train": "..2024-03-02", "validation": "2024-03-03.."})
    world.prepare()
    dataset = world.open()
    first, second = dataset.days[:2]
    low, high = -3, first.num_steps + second.num_steps - 2
    shape = (high - low, dataset.manifest.num_nodes, len(dataset.features))
    made = {"values": (shape, np.float32), "observed": (shape, np.bool_)}
    made |= {"codes": (shape[:1], np.int32), "times": (shape[:1], np.int64)}

    def read(*names: str) -> dict[str, np.ndarray]:
        arrays = {each: np.full(made[each][0], 1, made[each][1]) for each in names}
        dataset.read_span(0, low, high, **arrays)
        return arrays

    alone, together = read(name)[name], read(*NAMES)[name]
    whole = {
        "values": lambda day: dataset.map(day.date),
        "observed": lambda day: dataset.map(day.date, "observed"),
        "codes": dataset.codes,
        "times": dataset.times,
    }[name]
    expected = np.concatenate([np.asarray(whole(day)) for day in (first, second)])[:high]
    assert np.array_equal(alone, together)
    assert not alone[:3].any()
    assert np.array_equal(alone[3:], expected)
    assert len(np.unique(alone[3:])) > 1
