"""How a run stands: what its process wrote into `state.json`, held against its lock and its checkpoints.

The file is for people, so nothing fails for it: a run without one, or with a damaged one, is judged by its newest
checkpoint. Only the lock tells that a run is trained now; a process that was killed left `running` behind, and no lock.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import DateshardError
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.config import Trainer
from dateshard.trainer.runs.run_folder import TrainingRun

FILE = "state.json"
RESUMABLE = ("stopped", "cut off", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a run stands.

    Attributes:
        state: `running`, `stopped` (by a signal, or at its memory limit), `ended`, `failed`, `cut off` (killed) or `damaged`.
        why: of an end `epochs`, `early stopping`, `max steps` or `overfit`; of a stop `memory limit`; of a failure its first
            line; else empty.
        began: when the process of now, or the last one, took the run; local time with its offset.
        seconds: of training, over all processes that had the run.
        from_step: optimizer steps that were done when that process took it.
    """

    state: str
    why: str = ""
    began: str | None = None
    seconds: float | None = None
    from_step: int = 0


def begin(run: TrainingRun, step: int) -> Standing:
    """Notes that this process, which holds the run's lock, trains it from here on."""
    before = noted(run)
    now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    standing = Standing(state="running", why="", began=now, seconds=before.seconds if before else None, from_step=step)
    if before and before.state == "running":  # killed: its time is told by the last thing that it wrote
        standing = replace(standing, seconds=_until(before, _last_written(run)))
    _write(run, standing)
    return standing


def end(run: TrainingRun, begun: Standing, state: str, why: str = "") -> None:
    """Notes how this process left the run."""
    _write(run, replace(begun, state=state, why=why, seconds=_until(begun, dt.datetime.now().timestamp())))


def standing(run: TrainingRun, newest: Checkpoint | None) -> Standing:
    """How the run stands now. Takes nothing: others may begin or end it at any moment.

    Args:
        newest: its newest checkpoint, which tells where the file is missing.
    """
    last, busy = noted(run), is_locked(run)
    if busy:
        seconds = _until(last, dt.datetime.now().timestamp()) if last and last.state == "running" else None
        return replace(last or Standing(state="running"), state="running", why="", seconds=seconds)
    if last is None:
        why = _by_checkpoint(newest)
        return Standing(state="ended", why=why) if why else Standing(state="cut off")
    if last.state == "running":
        return replace(last, state="cut off", seconds=_until(last, _last_written(run)))
    return last


def is_locked(run: TrainingRun) -> bool:
    """Whether a process trains the run; looking holds it, shared, for an instant (`TrainingRun.lock` waits for that)."""
    path = run.folder / "run.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        take_lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, path)
    except BlockingIOError:
        return True
    except DateshardError:  # where there are no locks nobody can train
        return False
    finally:
        os.close(descriptor)
    return False


def _by_checkpoint(newest: Checkpoint | None) -> str:
    """Why a run ended, by its newest checkpoint and the settings in it; empty where it did not."""
    if newest is None or not newest.state.validated:
        return ""
    with suppress(ValueError, TypeError, KeyError):
        config = Trainer.model_validate(newest.state.config)
        if newest.state.progress.exhausted(config.early_stopping):
            return "early stopping"
        if config.model.name == "ridge" or newest.state.epoch + 1 >= config.training.epochs:
            return "epochs"
    return ""


def noted(run: TrainingRun) -> Standing | None:
    """What the last process of the run wrote; None where there is nothing that could be read."""
    try:
        content = json.loads((run.folder / FILE).read_bytes())
        last = Standing(**content)
        texts = isinstance(last.state, str) and isinstance(last.why, str)
        dt.datetime.fromisoformat(last.began or "")
        return last if texts and isinstance(last.seconds, float | int | None) and last.from_step + 0 >= 0 else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write(run: TrainingRun, standing: Standing) -> None:
    with suppress(OSError):
        replace_file(run.folder / FILE, json.dumps(asdict(standing)).encode() + b"\n", durable=False)


def _until(standing: Standing, moment: float) -> float:
    began = dt.datetime.fromisoformat(standing.began or "").timestamp()
    return round((standing.seconds or 0.0) + max(0.0, moment - began), 1)


def _last_written(run: TrainingRun) -> float:
    path = run.folder / "metrics.jsonl"
    return path.stat().st_mtime if path.exists() else 0.0
