"""What a rerun of one date may say about the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look


def test_a_date_that_was_not_asked_for_stays_stale_even_where_its_new_dump_is_measured(
    make_world: Callable[..., Any],
) -> None:
    """Its staged array may lie there already; its shard is still that of the old dump."""
    world = make_world(4)
    world.prepare()
    first, second, *_ = sorted(world.rows)
    for date in (first, second):
        world.rows[date] = world.rows[date][:-5]
        world.write(date)
    shard = world.open().manifest.dates[second]
    world.prepare(dates=frozenset({first, second}))
    changed = world.open().manifest.dates[second]
    assert changed != shard
    world.rows[second] = world.rows[second][:-5]
    world.write(second)
    world.prepare(dates=frozenset({first}), force=True)
    states = {plan.date: plan.state for plan in look(world.settings.preparing(), world.store, Wish())[0].dates}
    assert states[second] == "stale(dump)"
    world.prepare()
    assert world.open().manifest.dates[second] != changed
    assert world.prepare().written == 0
