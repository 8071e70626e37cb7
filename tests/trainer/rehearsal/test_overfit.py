"""Learning a few batches by heart: what its losses are means of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dateshard.trainer.loop import Stepped
from dateshard.trainer.rehearsal.overfit import Overfitted, overfit


def test_losses_are_means_over_windows_and_the_last_one_is_the_lowest_of_all_passes(
    make_world: Callable[..., Any], session_of: Callable[..., Any]
) -> None:
    """At a rate that rises until the model is thrown about, and with a short last batch."""
    training = {"epochs": 1, "batch_size": 16, "learning_rate": 1.0, "max_steps": 45}
    rising = {"type": "none", "warmup_steps": 200}
    split = {"train": "2024-03-01..2024-03-05"}
    world = make_world(5, missing=0.5, split=split, training=training, scheduler=rising)
    world.prepare()
    session = session_of(world)
    order = session.train.order
    assert order.num_windows % 16
    *steps, end = overfit(session, order.num_batches, lambda: False)
    assert isinstance(end, Overfitted)
    means = []
    for first in range(0, len(steps), order.num_batches):
        taken = [step for step in steps[first : first + order.num_batches] if isinstance(step, Stepped)]
        assert sum(step.size for step in taken) == end.windows == order.num_windows
        means.append(sum(float(step.loss) * step.size for step in taken) / end.windows)
    assert (end.first, end.last) == pytest.approx((means[0], min(means)))
    assert means[-1] > min(means) < means[0]
    assert end.steps == len(steps) <= 45
