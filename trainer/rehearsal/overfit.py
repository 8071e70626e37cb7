"""Training on a few batches again and again: a model that cannot learn those by heart will not learn the rest.

The standard first step of debugging a model. Nothing is validated and nothing is saved. What keeps a model from learning
by heart on purpose (dropout, weight decay) is switched off by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dateshard.shardstore.errors import UsageError, counted
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.loop import Stepped, set_learning_rate
from dateshard.trainer.session import Session
from dateshard.trainer.step import Step

LEARNED = 0.01  # of the loss of the first pass: near 0
LEARNING = 0.9  # below this share the loss does fall
STEPS = 2000  # at most, unless training.max_steps says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Overfitted:
    """The last event of `--overfit`. Losses are means over a pass through the batches; `last` is the lowest of all passes.

    Attributes:
        verdict: `learned`, `learning` (it falls, and is not near 0) or `not learning`; `stopped` where a stop was asked.
    """

    verdict: str
    first: float
    last: float
    steps: int
    batches: int
    windows: int


def overfit(session: Session, num_batches: int, should_stop: Callable[[], bool]) -> Iterator[Stepped | Overfitted]:
    """Steps over the first `num_batches` batches of epoch 0, a batch a step, until the loss is near 0 or steps are over.

    Memory: the batches, which are copied.

    Raises:
        UsageError: a model in closed form, or more batches than an epoch has.
    """
    batches = _first_batches(session, num_batches)
    most, state = session.config.training.max_steps or STEPS, session.state
    windows, first, lowest = sum(batch.size for batch in batches), float("nan"), float("inf")
    verdict = ""
    session.model.train()
    while not verdict:
        total = torch.zeros(())
        for number, batch in enumerate(batches, start=1):
            state.batch = number - 1
            event = _take(session, batch, number, len(batches))
            total = total + event.loss.detach().cpu() * batch.size
            yield event
            if should_stop():
                yield Overfitted(
                    verdict="stopped", first=first, last=lowest, steps=state.step, batches=len(batches), windows=windows
                )
                return
        mean = float(total) / windows
        first, lowest = (mean if first != first else first), min(lowest, mean)
        verdict = _verdict(first, lowest, over=state.step + len(batches) > most)
        session.metrics = session.metrics.fresh(0)
    yield Overfitted(verdict=verdict, first=first, last=lowest, steps=state.step, batches=len(batches), windows=windows)


def _first_batches(session: Session, count: int) -> list[Batch]:
    if session.optimizer is None:
        what = f"{session.config.model.name} is solved in closed form, it takes no steps"
        raise UsageError(f"--overfit: {what}", todo="Try another trainer.model.name")
    there = session.train.order.num_batches
    if count > there:
        raise UsageError(f"--overfit {count}: an epoch has {counted(there, 'batch', 'batches')}", todo="Take fewer")
    return [batch.copy() for _, batch in zip(range(count), session.train.batches(0), strict=False)]


def _take(session: Session, batch: Batch, number: int, count: int) -> Stepped:
    step, state = Step(session=session, num_windows=batch.size), session.state
    step.add(batch)
    rate = set_learning_rate(session)
    outcome = step.finish()
    state.step, state.skipped = state.step + 1, state.skipped + outcome.skipped
    return Stepped(
        epoch=0,
        batch=number,
        num_batches=count,
        step=state.step,
        loss=outcome.loss,
        losses=outcome.parts,
        skipped=state.skipped,
        size=outcome.size,
        learning_rate=rate,
        wait_seconds=0.0,
        gradient_norm=outcome.gradient_norm,
    )


def _verdict(first: float, lowest: float, *, over: bool) -> str:
    """Empty while it goes on; a loss that is no number falls nowhere."""
    if lowest <= LEARNED * first:
        return "learned"
    if not over:
        return ""
    return "learning" if lowest < LEARNING * first else "not learning"
