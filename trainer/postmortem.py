"""What a run that found no finite gradient leaves behind: which batch it was, and what in it is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dateshard.shardstore.commands import command
from dateshard.shardstore.disk.durable import disk_full_as_error, replace_file
from dateshard.shardstore.errors import DateshardError, Where
from dateshard.trainer.session import Session

LARGE = 1e3  # scaled values beyond this are named: no z-score of sound data goes there


def dates_of(session: Session, first: int, count: int = 1) -> list[str]:
    """Dates of the first targets of `count` batches of the current epoch, from number `first` (0-based) on."""
    reader, dates = session.train, set[str]()
    timeline = reader.dataset.timeline
    order = reader.order
    low = first * order.batch_size
    for piece in order.epoch(session.state.epoch).pieces(low, low + order.windows_in(first, count)):
        for run, anchor in zip(piece.block_runs[piece.run_K], piece.anchor_K.tolist(), strict=True):
            day, _ = next(timeline.spans(order.runs[int(run)].segment, anchor, anchor + 1))
            dates.add(str(day.date))
    return sorted(dates)


def write(session: Session) -> None:
    """Writes post_mortem_step_<n>.json into the run's folder: position, dates, inputs, weights, configuration."""
    state, accumulate = session.state, session.config.training.accumulate
    first = (state.batch - 1) // accumulate * accumulate
    content = {
        "epoch": state.epoch + 1,
        "batches": [first + 1, state.batch],
        "step": state.step,
        "skipped_in_a_row": state.skipped_in_a_row,
        "dates": dates_of(session, first, state.batch - first),
        "inputs": _inputs(session, first, state.batch),
        "weights_not_finite": [n for n, p in session.model.named_parameters() if not bool(torch.isfinite(p).all())],
        "learning_rate": session.optimizer.param_groups[0]["lr"] if session.optimizer else None,
        "losses_so_far": session.metrics.losses(),
        "config": session.config.model_dump(mode="json"),
    }
    path = _path(session)
    with disk_full_as_error(path):
        replace_file(path, json.dumps(content, indent=1).encode() + b"\n", durable=False)


def _path(session: Session) -> Path:
    return session.checkpoints.parent / f"post_mortem_step_{session.state.step}.json"


def error(session: Session, *, over: bool) -> DateshardError:
    """The end of the run, in one sentence; likewise of one that is continued where it ended so.

    Args:
        over: nothing is left to do, and no step of the run changed a weight: there is nothing to go on with.
    """
    state, path = session.state, _path(session)
    if not path.is_file():  # not copied with the run
        write(session)
    dates = json.loads(path.read_text())["dates"]
    steps = f"{state.skipped_in_a_row} steps in a row"
    if over:
        steps = f"all {state.step} steps of the run" if state.step > 1 else "the only step of the run"
    what = (
        f"{steps} had no finite loss or gradient, {'the last ' * (state.step > 1)}at epoch {state.epoch + 1} "
        f"batch {state.batch} (windows of {', '.join(dates[:3])}{' ...' if len(dates) > 3 else ''})"
    )
    todo = "Read that file; look at those dates, or begin a run with a lower training.learning_rate or training.clip_norm. "
    if state.loss_scale is not None:
        todo += f"fp16 ends at 65,504, and the loss scale is {state.loss_scale.value:g}: try training.precision=bf16. "
    if over:
        todo += f"No weight was changed: look at the scale of the targets too ({command('inspect', config=True)})"
    else:
        more = f"trainer.training.max_skipped={2 * state.skipped_in_a_row}"
        todo += f"To continue over them: {command('train', '--resume', path.parent.name, more)}"
    return DateshardError(what, where=Where(file=str(path)), todo=todo)


@torch.no_grad()
def _inputs(session: Session, first: int, stop: int) -> list[dict[str, Any]]:
    """Describes each batch of the step: largest values, and whether the forecast is finite."""
    batches = []
    for number, batch in enumerate(session.train.batches(session.state.epoch, start=first), start=first + 1):
        if number > stop:
            break
        history, target = batch.history_BHNF, batch.target_BPNF
        largest = {"history": float(history.abs().max()), "target": float(target.abs().max())}
        large = {name: int((tensor.abs() > LARGE).sum()) for name, tensor in (("history", history), ("target", target))}
        batches.append({"batch": number, "windows": batch.size, "largest": largest, f"beyond_{LARGE:g}": large})
    return batches
