"""How a training ended, in words, and the command that goes on with it."""

from __future__ import annotations

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import number
from dateshard.trainer.memory.memory_need import size
from dateshard.trainer.metrics.judged_figure import LOSS, NAMES
from dateshard.trainer.session import Session


def way_on(session: Session, run: str) -> str | None:
    """The command that continues a run which has nothing left to do; None where nothing can be added.

    It names every limit that the run stands at: one alone would end it again at once.
    """
    state, config = session.state, session.config
    if config.model.name == "ridge":
        return None
    more = []
    if state.validated and state.progress.exhausted(config.early_stopping):
        more.append(f"trainer.early_stopping.patience={2 * state.progress.bad_epochs}")
    if state.validated and state.epoch + 1 >= config.training.epochs:
        more += ["--epochs", str(max(2 * config.training.epochs, state.epoch + 2) if not more else state.epoch + 2)]
    if config.training.max_steps is not None and state.step >= config.training.max_steps:
        more += ["--max-steps", "null"]
    return continuing(session, run, *more)


def continuing(session: Session, run: str, *more: str) -> str:
    """The command that continues a run, in as many processes as train it now: the same number gives the same bits."""
    return command("train", *session.mesh.option, "--resume", run, *more)


def at_memory_limit(session: Session, run: str) -> str:
    """Says that a run was saved and stopped at its memory limit, and how it goes on."""
    limit = session.config.training.memory_limit
    assert limit is not None, "it stopped at its limit"
    several, local = session.mesh.world > 1, session.mesh.local
    who = f"one of {local} processes holds more than its share of the" if several else "the process holds more than its"
    again, more = (continuing(session, run, *words) for words in ((), ("--memory-limit", f"{2 * limit // 10**6}MB")))
    return (
        f"Stopped: {who} memory limit, {size(limit)} (trainer.training.memory_limit). "
        f"Continue exactly here in {'new processes' if several else 'a new process'}: {again}, or with more memory: {more}"
    )


def why_ended(session: Session, run: str, why: str) -> str:
    """One sentence about a run that has nothing left to do; `why` as `loop.finished` says."""
    training, progress = session.config.training, session.state.progress
    if why == "max steps":
        step, most = session.state.step, training.max_steps or 0
        if step > most:
            return f"{run} has taken {counted(step, 'step')}, and training.max_steps is {most:,}"
        return f"{run} has taken its {counted(most, 'step')} (training.max_steps)"
    if why != "early stopping":
        if session.config.model.name == "ridge":
            return f"{run} is complete: a ridge is solved in one pass"
        if (done := session.state.epoch + 1) > training.epochs:
            return f"{run} has trained {counted(done, 'epoch')}, and training.epochs is {training.epochs:,}"
        return f"{run} is complete: it has trained its {counted(done, 'epoch')} (training.epochs)"
    stopping = session.config.early_stopping
    assert stopping is not None, "without it a run does not stop early"
    judge = session.config.metrics.judge
    figure = "a loss" if judge == LOSS else f"validation {NAMES[judge]}"
    best = f"the best is {number(progress.best_loss)} of epoch {progress.best_epoch + 1}"
    return (
        f"{run} stopped early in epoch {session.state.epoch + 1} of {training.epochs}: "
        f"{counted(progress.bad_epochs, 'epoch')} without {figure} lower by more than {stopping.min_delta:g} "
        f"(early_stopping.patience {stopping.patience}); "
        f"{best if progress.best_loss is not None else 'no loss was finite'}"
    )
