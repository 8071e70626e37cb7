"""A training run: its folder, what is written there, and what a resumed run must share with it.

data/runs/<run>/  run.json  run.lock  run.log  state.json  metrics.jsonl  checkpoints/  tensorboard/
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.disk.durable import disk_full_as_error, fsync_above, replace_file
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import BusyError, DamagedError, NotThereError, UsageError, Where, shorten
from dateshard.shardstore.identity import expected_form, seal_readable, unseal_readable
from dateshard.shardstore.pinning import runs_id
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.bound_settings import binding, that_bind
from dateshard.trainer.checkpoint.removal import GONE
from dateshard.trainer.config import Trainer
from dateshard.trainer.runs import save_dir as elsewhere
from dateshard.trainer.runs.run_record import MADE_AGAIN, RunRecord

LOCK_TRIES = 10
WORDS = ("none", "auto", "latest", "best", "best_model", runs_id.NAME)  # that mean something where a run could be named


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run's folder. Make it with `create` or `open`."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.folder / "checkpoints"

    @staticmethod
    @contextmanager
    def create(
        parent: Path, dataset: str, name: str | None, record: RunRecord, save_dir: Path | None = None
    ) -> Iterator[tuple[TrainingRun, int]]:
        """Makes a run `<dataset>-<yyyymmdd>-<hhmm>` (`_2` and so on if taken), or of the given name, and locks it.

        Yields the run and the lock's descriptor. Where it cannot be made whole, or what is done with it within this
        context fails, nothing of it stays.

        Args:
            save_dir: where its checkpoints shall lie; None: in its folder.

        Raises:
            UsageError: a run of that name exists, or `save_dir` holds another's checkpoints.
        """
        if name and not re.fullmatch(r"\w[\w.-]{0,63}", name):
            raise UsageError(
                f"'{shorten(name)}' is not a valid name of a run",
                todo="Use at most 64 letters, digits, '_', '-' and '.', and begin with one of the first three",
            )
        if name in WORDS or checkpoint.NAME.fullmatch(name or ""):
            raise UsageError(
                f"a run cannot be named '{name}': that word means another thing here", todo="Name it otherwise"
            )
        if save_dir is not None and name and save_dir.absolute() == (parent / name / "checkpoints").absolute():
            save_dir = None  # where they lie anyway
        if parent.is_symlink() and not parent.exists():
            what = "the runs folder is a link to a folder that is missing (is its disk not mounted?)"
            raise NotThereError(what, where=Where(file=str(parent)), todo="Bring it back, or remove the link")
        parent.mkdir(parents=True, exist_ok=True)
        runs_id.make_runs_id(parent)  # a damaged one is told before there is a run
        stem = name or f"{dataset}-{dt.datetime.now():%Y%m%d-%H%M}"
        names = [stem] if name else [stem, *(f"{stem}_{n}" for n in range(2, 1000))]
        with elsewhere.claim(save_dir) if save_dir is not None else nullcontext():
            for candidate in names:
                folder, new = parent / candidate, True
                try:
                    folder.mkdir()
                except FileExistsError:
                    if not name or (folder / "run.json").exists():  # without it: killed before it was a run
                        continue
                    new = False
                run = TrainingRun(folder)
                if not run.checkpoints.is_symlink() and checkpoint.scan(run.checkpoints) != ([], []):
                    what = "a run's checkpoints lie here, and its run.json is gone"
                    todo = "Move the folder away, or name another --run"
                    raise UsageError(what, where=Where(file=str(folder)), todo=todo)
                with _held(run, new=new) as lock:
                    elsewhere.make_place(folder, save_dir)
                    fsync_above(folder, 2)  # data/runs/<run> may be new
                    created = dt.datetime.now().astimezone().isoformat()
                    run.write_facts(replace(record, name=candidate, created=created))
                    yield run, lock
                return
        raise UsageError(
            f"run '{stem}' exists",
            where=Where(file=str(parent / stem)),
            todo=f"Continue it: {command('train', '--resume', stem)}",
        )

    @staticmethod
    def open(parent: Path, name: str) -> TrainingRun:
        """Opens a run by its name.

        Raises:
            NotThereError: no such run; lists those there are.
        """
        folder = parent / name
        if Path(name).name != name or name == ".." or not os.path.isfile(folder / "run.json"):
            there = ", ".join(run.name for run in all_runs(parent)[:5]) or "none yet"
            raise NotThereError(
                f"no run '{shorten(name)}' (newest: {there})", where=Where(file=str(parent)), todo="Name one of them"
            )
        return TrainingRun(folder)

    def facts(self) -> RunRecord:
        """Reads run.json, compared whole with its own hash.

        Raises:
            DamagedError: naming the command that makes it again, or to start anew where no checkpoint is good.
        """
        path = self.folder / "run.json"
        try:
            return self._sealed()
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        except DamagedError as error:
            what = error.what
        todo = f"No checkpoint of it is good either: start anew. {to_run('train', config=True)}"
        if elsewhere.is_absent(self.folder):
            todo = "Bring back its checkpoints (is their disk not mounted?): it can be made again from them"
        elif self.recovered() is not None:
            todo = f"{to_run('train', '--resume', self.name)} (it makes run.json again from a checkpoint and goes on)"
        raise DamagedError(what, where=Where(file=str(path)), todo=todo)

    def _sealed(self) -> RunRecord:
        path = self.folder / "run.json"
        content = unseal_readable(path.read_bytes(), str(path))
        with expected_form(str(path)):
            return RunRecord.from_json(content)

    def sealed(self) -> RunRecord | None:
        """Reads run.json; None where it is damaged, and no checkpoint is looked at."""
        try:
            return self._sealed()
        except (OSError, DamagedError):
            return None

    def created(self, record: RunRecord | None) -> dt.datetime:
        """The instant at which the run was made, by its facts; where these do not tell it, by its oldest file.

        Raises:
            FileNotFoundError: there is no such run any more.
        """
        if record and record.created is not None:
            with suppress(ValueError, OverflowError):
                return dt.datetime.fromisoformat(record.created).astimezone(dt.UTC)
        changed = [self.folder.stat().st_mtime]
        for name in ("run.json", "run.lock"):  # nothing is ever written into the lock
            with suppress(OSError):
                changed.append((self.folder / name).stat().st_mtime)
        return dt.datetime.fromtimestamp(min(changed), dt.UTC)

    def recovered(self) -> RunRecord | None:
        """What run.json must hold, as the newest good checkpoint tells it; None without one."""
        newest, _ = checkpoint.newest(self.checkpoints)
        if newest is None:
            return None
        state = newest.state
        return RunRecord(
            name=self.name,
            created=self.created(None).astimezone().isoformat(),
            made_again_from=newest.name,
            bound=state.bound,
            config=state.config,
            environment=state.environment,
            keys=MADE_AGAIN,
        )

    def facts_or_recovered(self) -> RunRecord | None:
        """The facts of run.json; where that is damaged, those of the newest good checkpoint; else None."""
        try:
            return self.facts()
        except DamagedError:
            return self.recovered()

    def write_facts(self, record: RunRecord) -> None:
        """Replaces run.json, durably: readable, and sealed."""
        path = self.folder / "run.json"
        with disk_full_as_error(path):
            replace_file(path, seal_readable(record.to_json()))

    def lock(self) -> int:
        """Holds the run for this process until the descriptor is closed.

        Raises:
            BusyError: another process trains it. DateshardError: its file system has no locks.
        """
        path = self.folder / "run.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for _ in range(LOCK_TRIES):  # `dateshard runs` looks at a lock by holding it for an instant
                with suppress(BlockingIOError):
                    take_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
                    return descriptor
                time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        raise BusyError(
            "another process trains this run",
            where=Where(file=str(self.folder)),
            todo="Wait for it, or start another",
        )

    def rewind_metrics(self, step: int, *, validated: bool = True) -> None:
        """Drops the lines of metrics.jsonl that will come again, and a line torn by a crash.

        Args:
            step: lines of later steps come again.
            validated: False if the line of the epoch that ends at `step` comes again as well.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        kept = [line for line in path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
        if kept and not validated and _step_of(kept[-1]) == step and "val_loss" in json.loads(kept[-1]):
            kept.pop()
        trained = path.stat().st_mtime
        with disk_full_as_error(path):
            replace_file(path, "".join(line + "\n" for line in kept).encode())
            os.utime(path, (trained, trained))  # when it was last trained, which a killed process told nowhere else

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Lines of metrics.jsonl, read one by one; a torn one, or one that another process is writing, is left out."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            with open(path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if 0 <= _step_of(line) < float("inf"):
                        yield json.loads(line)


@contextmanager
def _held(run: TrainingRun, *, new: bool) -> Iterator[int]:
    """Locks a run that is being made; where that fails, it is taken back, unless another process makes it.

    Args:
        new: this process made its folder.
    """
    lock = None
    try:
        lock = run.lock()
        yield lock
    except BaseException as error:
        if new and not isinstance(error, BusyError):
            shutil.rmtree(run.folder, ignore_errors=True)
        elif lock is not None:
            with suppress(OSError):
                (run.folder / "run.json").unlink()
        if lock is not None:
            os.close(lock)
        raise


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")


def all_runs(parent: Path) -> list[TrainingRun]:
    """Runs, newest first: by the instant of their creation, then by name."""
    return [run for run, _ in _listed(parent)]


def _listed(parent: Path) -> list[tuple[TrainingRun, RunRecord | None]]:
    """Lists all runs with their facts, which are None where run.json is damaged."""
    dated = list[tuple[dt.datetime, str, TrainingRun, RunRecord | None]]()
    for folder in parent.iterdir() if parent.is_dir() else ():
        run = TrainingRun(folder)
        if not folder.name.startswith(GONE) and (folder / "run.json").is_file():
            facts = run.sealed()
            with suppress(FileNotFoundError):  # removed meanwhile
                dated.append((run.created(facts), run.name, run, facts))
    return [(run, facts) for *_, run, facts in sorted(dated, key=lambda row: row[:2], reverse=True)]


def newest(parent: Path, dataset: str | None = None, *, with_checkpoint: bool = False) -> TrainingRun:
    """The newest run: of all, or of a dataset, or of those that have a checkpoint.

    Raises:
        NotThereError: there is none.
    """
    for run, sealed in _listed(parent):
        record = (sealed or run.recovered()) if dataset is not None else None
        other = dataset is not None and (record is None or record.bound.data.name != dataset)
        if not other and (not with_checkpoint or _has_checkpoint(run)):
            return run
    of = f" of dataset '{dataset}'" if dataset is not None else ""
    raise NotThereError(f"no run{of} yet", where=Where(file=str(parent)), todo=to_run("train", config=True))


def find_continuable(parent: Path, config: Trainer, dataset: str) -> TrainingRun | None:
    """The newest run of the same dataset and settings that has a good checkpoint, or whose checkpoints are not there now."""
    wanted = _given(binding(config))
    for run, sealed in _listed(parent):
        record = sealed or run.recovered()
        bound = record.bound if record else None
        same = bound is not None and _given(bound.settings) == wanted and bound.data.name == dataset
        if same and (elsewhere.is_absent(run.folder) or checkpoint.newest(run.checkpoints)[0] is not None):
            return run
    return None


def _has_checkpoint(run: TrainingRun) -> bool:
    """Whether it has one, or they lie on a disk that is not there: that must not pass for another run."""
    return elsewhere.is_absent(run.folder) or bool(checkpoint.scan(run.checkpoints)[0])


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that bind, without those that are null: a run from before such a setting existed has none of it."""
    return {key: value for key, value in that_bind(settings).items() if value is not None}
