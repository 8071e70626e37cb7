"""Starting a run, or continuing one exactly where a checkpoint stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DamagedError, NotThereError, StoreError, UsageError, Where, counted, shorten
from dateshard.shardstore.times.calendar import collapse
from dateshard.trainer import checkpoint
from dateshard.trainer.binding import refuse_difference
from dateshard.trainer.checkpoint import DataIdentity
from dateshard.trainer.config import Trainer
from dateshard.trainer.devices.mesh import Mesh
from dateshard.trainer.loop import finished
from dateshard.trainer.models import num_parameters, unused_of_nodes
from dateshard.trainer.runs.disk_need import fitting, need
from dateshard.trainer.runs.initial_weights import Initial, begin_with, begin_with_same
from dateshard.trainer.runs.observed_targets import blind_inputs, blind_splits, refuse_blind
from dateshard.trainer.runs.run_folder import TrainingRun, find_continuable, newest
from dateshard.trainer.runs.run_record import RunRecord
from dateshard.trainer.runs.save_dir import keep_own, refuse_absent, run_of
from dateshard.trainer.runs.status import noted
from dateshard.trainer.session import Session, restore
from dateshard.trainer.setup import make_session, refuse_batch_of_one

BY_WORD = ("best", "best_model", "latest")
MOST_TRIES = 5  # to pin a generation that others clean away meanwhile


@dataclass(slots=True, kw_only=True)
class Started:
    """A run that is ready to train, locked until `close` or the end of the process.

    Attributes:
        continued: name of the checkpoint it goes on from, None for a new run.
        notes: what a person should know: checkpoints passed over, a newer generation, another environment.
        warnings: what a person should do something about.
    """

    run: TrainingRun
    dataset: Dataset
    session: Session
    continued: str | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    finished: bool = False
    lock: int | None = None

    def close(self) -> None:
        """Lets go of the run, so that it can be continued, also by this process."""
        if self.lock is not None:
            with suppress(OSError):  # nothing was written through it; the lock goes with the descriptor
                os.close(self.lock)
        self.lock = None


@dataclass(frozen=True, slots=True)
class New:
    """What a new run is asked for beside its configuration.

    Attributes:
        name: None: dataset and time. save_dir: where its checkpoints lie; None: in its folder. initial: its first weights.
    """

    name: str | None = None
    save_dir: Path | None = None
    initial: Initial | None = None


def open_shards(shards: Path, held: DataIdentity | None = None) -> Dataset:
    """The current generation, or the one that a run is bound to. Another opener may add dates that have no shard."""
    return Dataset.open(shards, held.generation if held else None)


Opener = Callable[[Path, DataIdentity | None], Dataset]


def start_new(
    config: Trainer, shards: Path, runs: Path, new: New, opener: Opener = open_shards, mesh: Mesh | None = None
) -> Started:
    """A new run on the dataset's current generation, which it pins."""
    for _ in range(MOST_TRIES - 1):
        with suppress(NotThereError):
            return _start_on(opener(shards, None), config, shards, runs, new, mesh)
    return _start_on(opener(shards, None), config, shards, runs, new, mesh)


def _start_on(dataset: Dataset, config: Trainer, shards: Path, runs: Path, new: New, mesh: Mesh | None) -> Started:
    """Starts a new run on a dataset and pins its generation.

    Raises:
        NotThereError: the generation was cleaned away before it was pinned; the run's folder is gone again.
    """
    session = make_session(config, dataset, runs, mesh)  # refuses before a folder is made
    refuse_batch_of_one(session)
    refuse_blind(session)
    notes = [*_direct(dataset), *unused_of_nodes(config.model.name, dataset.static, len(dataset.edges.weights_E))]
    if new.initial is not None:
        begin_with(session, new.initial)
        notes.append(f"begins with the weights of {new.initial.source}; optimizer and position begin anew")
    record = RunRecord(
        bound=session.bound,
        root=str(shards),
        config=config.model_dump(mode="json"),
        environment=dict(session.environment),
        **_about(session, dataset),
    )
    with TrainingRun.create(runs, dataset.manifest.dataset, new.name, record, new.save_dir) as (run, lock):
        session.checkpoints = run.checkpoints
        dataset.pin(run.folder)
        warnings = [*_keep_to_the_disk(session), *blind_inputs(session)]
        return Started(run=run, dataset=dataset, session=session, notes=notes, warnings=warnings, lock=lock)


def _direct(dataset: Dataset) -> list[str]:
    """A sentence on the dates that have no shard; none where all have."""
    dates = sorted(dataset.manifest.dates.keys() - dataset.published.dates.keys())
    return [f"read from their dumps in every epoch, for they have no shard: {collapse(dates)}"] if dates else []


def _keep_to_the_disk(session: Session) -> list[str]:
    """Switches retention on where all checkpoints would not fit; what a person should know of it."""
    needed = need(session, session.checkpoints)
    session.keeping = fitting(needed, session.config.checkpoint)
    if session.keeping is None:
        return []
    return [
        f"all checkpoints would take {needed.bytes_all / 1e9:,.1f} GB, more than half of the "
        f"{needed.free / 1e9:,.1f} GB free: only the newest {session.keeping.keep_last:,} and the best are kept "
        "(trainer.checkpoint.keep_last or max_bytes decides otherwise)"
    ]


def continue_run(
    run: TrainingRun, config: Trainer, shards: Path, which: str, opener: Opener = open_shards, mesh: Mesh | None = None
) -> Started:
    """Continues `run` from its checkpoint `which` (latest, best or a name), on the generation that it pins.

    A run that was cut off before its first checkpoint begins again, as its printed resume command promises.

    Raises:
        UsageError: a setting differs; all are named. StoreError: no good checkpoint, or the generation is gone.
    """
    lock = run.lock()
    try:
        started = _continue_locked(run, config, shards, which, opener, mesh or Mesh())
    except BaseException:
        os.close(lock)
        raise
    started.lock = lock
    return started


def _continue_locked(
    run: TrainingRun, config: Trainer, shards: Path, which: str, opener: Opener, mesh: Mesh
) -> Started:
    keep_own(run.folder)
    checkpoint.tidy(run.checkpoints)
    mended = _make_facts_again(run, shards)
    if which == "latest" and checkpoint.scan(run.checkpoints) == ([], []):
        return _begin_again(run, config, shards, opener, mesh)
    saved, notes = checkpoint.find(run.checkpoints, which)
    generation = saved.state.bound.data.generation
    dataset = opener(shards, saved.state.bound.data)
    dataset.pin(run.folder)  # again: the run may have been copied or renamed
    session = make_session(config, dataset, run.checkpoints, mesh)
    refuse_difference(saved.state.bound, session.bound, saved.folder)
    session.bound = replace(session.bound, init_from=saved.state.bound.init_from)
    restore(session, saved)
    if finished(session) is None:
        refuse_batch_of_one(session)
    _note_settings(run, session, dataset)
    notes = [*mended, *_direct(dataset), *(f"passed over: {note}" for note in notes)]
    later = checkpoint.set_aside_later(saved)
    run.rewind_metrics(session.state.step, validated=session.state.validated)  # rows outlive the checkpoints after them
    if later:
        them = counted(later, "later checkpoint is", "later checkpoints are")
        notes.append(f"{them} set aside (checkpoints/set_aside-*): the run goes on from here")
    checkpoint.mend(run.checkpoints, config.checkpoint)
    current = Dataset.open(shards)
    if current.generation != generation:
        notes.append(f"the run stays on generation {generation}; the dataset is at {current.generation} now")
    notes += environment_notes(saved.state.environment, dict(session.environment))
    warnings = [*_keep_to_the_disk(session), *map(str, blind_splits(session)), *blind_inputs(session)]
    return Started(
        run=run,
        dataset=dataset,
        session=session,
        continued=saved.name,
        notes=notes,
        warnings=warnings,
        finished=finished(session) is not None,
    )


def _make_facts_again(run: TrainingRun, shards: Path) -> list[str]:
    """Writes a damaged run.json anew from the newest good checkpoint, and says so.

    Raises:
        DamagedError: there is no checkpoint to make it from.
    """
    try:
        run.facts()
    except DamagedError as error:
        record = run.recovered()
        if record is None:
            raise
        run.write_facts(replace(record, root=str(shards)))
        return [f"{run.folder / 'run.json'} was damaged ({error.what}): made again from {record.made_again_from}"]
    return []


def _about(session: Session, dataset: Dataset) -> dict[str, Any]:
    """What else run.json tells of a run, for `compare` and `tail`."""
    return {
        "split": {name: [list(map(str, ends)) for ends in ranges] for name, ranges in dataset.manifest.split.items()},
        "parameters": num_parameters(session.model),
        "windows": session.train.order.num_windows,
        "batches": session.train.order.num_batches,
    }


def _note_settings(run: TrainingRun, session: Session, dataset: Dataset) -> None:
    """Writes settings that a continued run may change, such as more epochs, into run.json: the next one keeps them.

    Completes one that an older version wrote, or that was made again. A run that has nothing left to do with these settings
    keeps those it was trained with.
    """
    record = run.facts()
    created = record.created or run.created(record).astimezone().isoformat()
    goes_on = finished(session) is None or record.config is None
    config = session.config.model_dump(mode="json") if goes_on else record.config
    now = replace(record, created=created, config=config, **_about(session, dataset))
    if now != record:
        run.write_facts(now)


def refuse_trial(run: TrainingRun) -> None:
    """Refuses a run that was no training.

    Raises:
        UsageError: it was a trial, whose steps no checkpoint keeps.
    """
    if (ended := noted(run)) and ended.why.startswith("overfit"):
        what = f"{run.name} was a trial (--overfit): it has no checkpoint, there is nothing to continue"
        raise UsageError(what, where=Where(file=str(run.folder)), todo=to_run("train", config=True))


def _begin_again(run: TrainingRun, config: Trainer, shards: Path, opener: Opener, mesh: Mesh) -> Started:
    """A run without any checkpoint, from its first batch on the generation that it was made for."""
    held = run.facts().bound
    refuse_trial(run)
    dataset = opener(shards, held.data)
    session = make_session(config, dataset, run.checkpoints, mesh)
    refuse_difference(held, session.bound, run.folder)
    refuse_batch_of_one(session)
    if held.init_from is not None:
        begin_with_same(session, held.init_from, run.folder.parent)
    dataset.pin(run.folder)
    _note_settings(run, session, dataset)
    run.rewind_metrics(0, validated=False)  # the only row of a closed form is of step 0
    notes = [f"{run.name} has no checkpoint yet: it begins again"]
    warnings = [*_keep_to_the_disk(session), *map(str, blind_splits(session)), *blind_inputs(session)]
    return Started(run=run, dataset=dataset, session=session, notes=notes, warnings=warnings)


def environment_notes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A sentence on what equal bits depend on and is another now; none where nothing is."""
    old, new = ({"processes": 1, **environment} for environment in (old, new))
    keys = [*new, *(key for key in ("processes", "compiled") if key in old and key not in new)]
    changed = [f"{key} {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
    return (
        [f"not the environment of the checkpoint ({', '.join(changed)}): the last bits may differ"] if changed else []
    )


def start(
    config: Trainer,
    dataset: str,
    shards: Path,
    runs: Path,
    *,
    resume: str,
    new: New = New(),
    opener: Opener = open_shards,
    mesh: Mesh | None = None,
) -> Started:
    """Starts or continues as `resume` says.

    Args:
        resume: `none` (a new run); `auto` (continue the newest run of these settings that was cut off, else a new
            one; a finished one on the current generation stays as it is); `latest` or `best` (of the newest run of
            this dataset); a run's name; or a checkpoint's folder.
        new: what a new run is asked for, where this begins one.
        opener: opens the dataset.
        mesh: the processes that train it; None: this one alone.
    """
    mesh = mesh or Mesh()
    if resume == "none":
        return start_new(config, shards, runs, new, opener, mesh)
    if resume == "auto":
        return _auto(config, dataset, shards, runs, new, opener, mesh)
    if resume in ("latest", "best"):
        return continue_run(newest(runs, dataset), config, shards, resume, opener, mesh)
    run, which = locate(resume, runs)
    return continue_run(run, config, shards, which, opener, mesh)


def locate(name: str, runs: Path) -> tuple[TrainingRun, str]:
    """A run's name, or a path to a checkpoint (or to `best_model` or `latest` beside it) -> (run, which checkpoint)."""
    path = Path(name.removesuffix(".pth"))
    called = path.name in BY_WORD and len(path.parts) > 1
    if called or (checkpoint.NAME.fullmatch(path.name) and os.path.isdir(path)):
        run = run_of(path.parent)
        if run is not None:
            return TrainingRun.open(run.parent, run.name), path.name
        if not called:
            todo = f"Begin a new run with its weights: {command('train', '--init-from', name, config=True)}"
            raise NotThereError("no run has this checkpoint (is it a copy?)", where=Where(file=str(path)), todo=todo)
    if "/" in name:
        where = Where(file=shorten(name, 200))
        raise NotThereError("neither a run nor a checkpoint", where=where, todo=f"See: {command('runs')}")
    return TrainingRun.open(runs, name), "latest"


def _auto(config: Trainer, dataset: str, shards: Path, runs: Path, new: New, opener: Opener, mesh: Mesh) -> Started:
    run = find_continuable(runs, config, dataset)
    if run is None:
        return start_new(config, shards, runs, new, opener, mesh)
    if new.save_dir is not None:
        refuse_absent(run.folder)
    if new.save_dir is not None and (not new.save_dir.exists() or not run.checkpoints.samefile(new.save_dir)):
        what = f"{run.name} is to be continued, and its checkpoints lie in {run.checkpoints.resolve()}"
        raise UsageError(what, todo="Leave --save-dir out, or begin a new run with --resume none")
    try:
        started = continue_run(run, config, shards, "latest", opener, mesh)
    except (StoreError, UsageError) as error:
        fresh = start_new(config, shards, runs, new, opener, mesh)
        fresh.notes.append(f"{run.name} is not continued: {error}")
        return fresh
    if started.finished and started.dataset.generation != Dataset.open(shards).generation:
        started.close()
        return start_new(config, shards, runs, new, opener, mesh)
    return started
