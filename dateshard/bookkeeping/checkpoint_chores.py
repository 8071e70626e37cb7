"""The checkpoints of a run or a folder: which are there, what they hold, and what is done with them."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dateshard.documents.checkpoints import (
    AsideRow,
    CheckpointCopyDocument,
    CheckpointExportDocument,
    CheckpointInfoDocument,
    CheckpointPinDocument,
    CheckpointRow,
    CheckpointsCleanDocument,
    CheckpointsListDocument,
    CheckpointsVerifyDocument,
    DamagedRow,
    ExportRow,
    VerifiedRow,
)
from dateshard.places import runs_folder
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.errors import NotThereError, StoreError, UsageError, Where, shorten
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import removal
from dateshard.trainer.checkpoint.after_save import BEST_EXPORT
from dateshard.trainer.checkpoint.retention import RetentionPolicy
from dateshard.trainer.checkpoint.saving import copy as copy_checkpoint
from dateshard.trainer.config import flatten
from dateshard.trainer.runs.run_folder import TrainingRun, newest
from dateshard.trainer.runs.save_dir import refuse_absent, run_of

ASIDE = re.compile(r"set_aside-[0-9a-f]{8}-(checkpoint_epoch_\d+_batch_\d+(?:-\d+)?)")
LATEST = "latest"
BY_WORD = ("best", "best_model", LATEST)
EXPORT_SUFFIXES = (".pth", ".pt")
LOOKS, EXPORTED_WITHIN = 20, 0.5  # of an export that a training writes anew; seconds after its checkpoint


@dataclass(frozen=True, slots=True)
class CheckpointPlace:
    """A folder of checkpoints, and the run that they belong to, if any."""

    folder: Path
    run: str | None


def place_of(run: str | None, directory: str | None) -> CheckpointPlace:
    """The checkpoints of a run (the newest, where none is named, or `latest`), or those that lie in a folder.

    Raises:
        UsageError: both are named. NotThereError: there is none.
    """
    if directory is not None:
        if run is not None:
            raise UsageError("a run and --dir both say where the checkpoints lie", todo="Give one of them")
        return _in_folder(Path(directory))
    return _of_run(newest(runs_folder()) if run is None or run == LATEST else TrainingRun.open(runs_folder(), run))


def _of_run(run: TrainingRun) -> CheckpointPlace:
    refuse_absent(run.folder)
    if not run.checkpoints.is_dir():  # a trial, or copied without them
        what, todo = f"run {run.name} has no checkpoints", f"Its state: {command('runs')}"
        raise NotThereError(what, where=Where(file=str(run.checkpoints)), todo=todo)
    return CheckpointPlace(run.checkpoints, run.name)


def _in_folder(directory: Path) -> CheckpointPlace:
    if not directory.is_dir():
        where = Where(file=shorten(str(directory), 200))
        raise NotThereError("no folder of checkpoints", where=where, todo=f"See: {command('runs')}")
    owner = run_of(directory)
    return CheckpointPlace(directory, None) if owner is None else CheckpointPlace(owner / "checkpoints", owner.name)


def is_checkpoint(word: str) -> bool:
    """Whether a word of the command line means a checkpoint (`.pth` or not, with its path or without), not a run."""
    name = Path(word.removesuffix(".pth")).name
    return bool(checkpoint.NAME.fullmatch(name) or ASIDE.fullmatch(name) or name in BY_WORD)


@dataclass(frozen=True, slots=True)
class Named:
    """One checkpoint as it was asked for."""

    place: CheckpointPlace
    name: str


def named(words: Sequence[str], directory: str | None, otherwise: str) -> Named:
    """Finds what `[RUN] [CHECKPOINT]` name, in any order; `otherwise` where no checkpoint is named.

    Raises:
        UsageError: more than that. NotThereError: no such run or folder.
    """
    wanted = [word for word in words if is_checkpoint(word)]
    runs = [word for word in words if not is_checkpoint(word)]
    if len(wanted) == 2 and not runs and wanted[0] == LATEST:  # of the newest run
        runs, wanted = wanted[:1], wanted[1:]
    if len(wanted) > 1 or len(runs) > 1:
        raise UsageError("name one run and one checkpoint", todo=f"See: {command('checkpoints', 'list')}")
    word = Path((wanted or [otherwise])[0].removesuffix(".pth"))
    if len(word.parts) > 1:
        if runs or directory is not None:
            raise UsageError("the checkpoint's path says where it lies", todo="Leave the run and --dir out")
        return Named(_in_folder(word.parent), word.name)
    return Named(place_of(runs[0] if runs else None, directory), word.name)


def open_named(wanted: Named) -> checkpoint.Checkpoint:
    """Opens a named checkpoint by its manifest; of `best` and `latest` the first whose every byte verifies.

    Raises:
        NotThereError, DamagedError: naming the file.
    """
    if wanted.name in BY_WORD:
        return checkpoint.find(wanted.place.folder, wanted.name)[0]
    return checkpoint.inspect(wanted.place.folder / wanted.name)


def damage_of(saved: checkpoint.Checkpoint) -> str | None:
    """What is wrong with its files, all bytes compared."""
    try:
        checkpoint.verify(saved)
    except StoreError as error:
        return str(error)
    return None


def list_checkpoints(place: CheckpointPlace) -> CheckpointsListDocument:
    """Everything that lies there: the best first, the others newest first. Manifests and sizes are read, no tensors."""
    intact, damaged = [], list[DamagedRow]()
    for folder in _folders(place.folder, checkpoint.NAME):
        try:
            saved = checkpoint.inspect(folder)
            _refuse_other_sizes(saved)
            intact.append(saved)
        except StoreError as error:
            damaged.append({"name": folder.name, "message": str(error)})
    best = next(iter(checkpoint.ranked(intact)), None)
    intact.sort(key=lambda saved: (saved is best, saved.place), reverse=True)
    rows = [_row(saved) for saved in intact]
    exports = [_export_row(path) for path in sorted(place.folder.glob("*.pth")) if _is_export(path)]
    aside: list[AsideRow] = [
        {"name": folder.name, "bytes": removal.bytes_of(folder)} for folder in _folders(place.folder, ASIDE)
    ]
    spoilt = sum(removal.bytes_of(place.folder / row["name"]) for row in damaged)
    extra = sum(row["bytes"] for row in exports if row["file"] == BEST_EXPORT)  # the others count with their folders
    return {
        "run": place.run,
        "folder": str(place.folder),
        "best": best.name if best else None,
        "checkpoints": rows,
        "exports": exports,
        "set_aside": aside,
        "damaged": damaged,
        "count": len(rows),
        "bytes": sum(row["bytes"] for row in (*rows, *aside)) + spoilt + extra,
    }


def _folders(parent: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Lists the folders of that name, by the numbers in it: batch 4 before batch 12."""
    folders = [path for path in parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: ([int(digits) for digits in re.findall(r"_(\d+)", path.name)], path.name))


def _is_export(path: Path) -> bool:
    return path.name == BEST_EXPORT or bool(checkpoint.NAME.fullmatch(path.stem))


def _refuse_other_sizes(saved: checkpoint.Checkpoint) -> None:
    """Refuses a checkpoint whose files do not have their sizes, without reading one.

    Raises:
        NotThereError: a file is missing or cut off, without reading one.
    """
    for name, (size, _) in saved.files.items():
        path = saved.folder / name
        there = path.stat().st_size if path.is_file() else None
        if there != size:
            what = "is missing" if there is None else f"has {there:,} bytes, {size:,} were saved"
            raise NotThereError(
                what,
                where=Where(file=str(path)),
                todo=f"See: {command('checkpoints', 'verify', '--dir', saved.folder.parent)}",
            )


def _row(saved: checkpoint.Checkpoint) -> CheckpointRow:
    state = saved.state
    return {
        "name": saved.name,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "step": state.step,
        "validated": state.validated,
        "train_loss": state.train_loss,
        "val_loss": state.val_loss,
        "bytes": removal.bytes_of(saved.folder),
        "saved": _time(saved.folder / "manifest.json"),
        "pinned": removal.is_pinned(saved.folder),
        "exported": removal.export_of(saved.folder).exists(),
    }


def _export_row(path: Path) -> ExportRow:
    return {"file": path.name, "bytes": path.stat().st_size, "saved": _time(path)}


def _time(path: Path) -> str:
    return dt.datetime.fromtimestamp(int(path.stat().st_mtime)).astimezone().isoformat()


def describe(wanted: Named) -> CheckpointInfoDocument:
    """Everything in the manifest, and whether the bytes are as they were saved."""
    saved = open_named(wanted)
    state, data, init_from = saved.state, saved.state.bound.data, saved.state.bound.init_from
    return {
        **_row(saved),
        "run": wanted.place.run,
        "folder": str(saved.folder),
        "total_batches": state.num_batches,
        "losses": dict(state.losses),
        "learning_rate": state.learning_rate,
        "skipped": state.skipped,
        "best_val_loss": checkpoint.loss_of_best(state.progress, checkpoint.scan(saved.folder.parent)[0]),
        "best_epoch": state.progress.best_epoch + 1,
        "files": [{"file": name, "bytes": size, "xxh3_128": digest} for name, (size, digest) in saved.files.items()],
        "damage": damage_of(saved),
        "dataset": data.name,
        "generation": data.generation,
        "data": str(data.id),
        "init_from": init_from.get("source") if init_from else None,
        "settings": flatten(state.config),
        "environment": dict(state.environment),
    }


def verify(place: CheckpointPlace, names: Sequence[str]) -> CheckpointsVerifyDocument:
    """Every byte of the named checkpoints, or of all and of what was exported beside them."""
    rows, whole = list[VerifiedRow](), dict[str, checkpoint.Checkpoint]()
    chosen = [open_named(Named(place, name)).folder if name in BY_WORD else place.folder / name for name in names]
    for folder in chosen if names else _folders(place.folder, checkpoint.NAME):
        try:
            saved = checkpoint.inspect(folder)
            size, damage = saved.num_bytes, damage_of(saved)
            if damage is None:
                whole[saved.name] = saved
        except StoreError as error:
            if not names and not folder.is_dir():
                continue  # a training that goes on has removed it meanwhile
            size, damage = removal.bytes_of(folder) if folder.is_dir() else 0, str(error)
        rows.append({"name": folder.name, "bytes": size, "damage": damage})
    if not names:
        rows += _verify_exports(place.folder, whole, {row["name"] for row in rows if row["damage"] is not None})
    damaged = sum(row["damage"] is not None for row in rows)
    return {"run": place.run, "folder": str(place.folder), "verified": rows, "damaged": damaged}


def _verify_exports(
    folder: Path, whole: dict[str, checkpoint.Checkpoint], damaged: Collection[str]
) -> list[VerifiedRow]:
    """An export is compared with its checkpoint, tensor by tensor; one whose checkpoint is damaged cannot be."""
    from dateshard.trainer.checkpoint import pth  # and torch, without which all else here is done

    rows = list[VerifiedRow]()
    best = next(iter(checkpoint.ranked(list(whole.values()))), None)
    for path in sorted(filter(_is_export, folder.glob("*.pth"))):
        saved = best if path.name == BEST_EXPORT else whole.get(path.stem)
        if saved is None:
            continue
        if path.name == BEST_EXPORT:
            holds, saved = _holds_best(path, saved, damaged)
        else:
            holds = pth.matches(path, saved)
        todo = to_run("checkpoints", "export", saved.folder, path, "--force")
        error = NotThereError(f"does not hold what {saved.name} holds", where=Where(file=str(path)), todo=todo)
        rows.append(
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "damage": None if holds else str(error),
            }
        )
    return rows


def _holds_best(
    path: Path, best: checkpoint.Checkpoint, damaged: Collection[str]
) -> tuple[bool, checkpoint.Checkpoint]:
    """Whether the export of the best holds it, and the best as it was then: a training may save a better one meanwhile.

    Looks again as long as either of them changes."""
    from dateshard.trainer.checkpoint import pth

    for _ in range(LOOKS):
        before = path.stat().st_mtime_ns
        if pth.matches(path, best):
            return True, best
        time.sleep(EXPORTED_WITHIN)
        there = [saved for saved in checkpoint.scan(path.parent)[0] if saved.name not in damaged]
        now = next(iter(checkpoint.ranked(there)), best)
        if (path.stat().st_mtime_ns, now.name) == (before, best.name):
            break
        best = now
    return False, best


def export(wanted: Named, file: Path, *, force: bool) -> CheckpointExportDocument:
    """Writes one `.pth`.

    Raises:
        UsageError: it is there already, its folder is not, or it has another ending.
    """
    if file.suffix not in EXPORT_SUFFIXES:  # with --force a slip would replace a dump, or another checkpoint's own file
        what = f"a checkpoint is exported as a file that ends in {' or '.join(EXPORT_SUFFIXES)}"
        raise UsageError(what, where=Where(file=str(file)), todo="Name such a file")
    if file.exists() and not force:
        raise UsageError("there is a file already", where=Where(file=str(file)), todo="Give --force to replace it")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(
            "a file cannot be written there", where=Where(file=str(file)), todo="Name a file in a folder that exists"
        )
    from dateshard.trainer.checkpoint import pth

    saved = open_named(wanted)
    pth.export(saved, file)
    return {"name": saved.name, "file": str(file), "bytes": file.stat().st_size}


def copy(wanted: Named, directory: Path) -> CheckpointCopyDocument:
    """Copies one checkpoint into a folder that is no run's.

    Raises:
        UsageError: it is a run's folder of checkpoints, or a file.
    """
    where = Where(file=str(directory))
    if directory.exists() and not directory.is_dir():
        raise UsageError("no folder", where=where, todo="Name a folder, or one that is to be made")
    if (owner := run_of(directory)) is not None:
        raise UsageError(f"run {owner.name} keeps its own checkpoints there", where=where, todo="Name another folder")
    saved = open_named(wanted)
    checkpoint.verify(saved)
    return {"name": saved.name, "folder": str(copy_checkpoint(saved, directory)), "bytes": saved.num_bytes}


def clean(place: CheckpointPlace, policy: RetentionPolicy, *, dry_run: bool) -> CheckpointsCleanDocument:
    """Removes what the policy does not keep, and what was set aside; pinned ones stay. Works beside a training."""
    aside = [folder for folder in _folders(place.folder, ASIDE) if not removal.is_pinned(folder)]
    freed = sum(map(removal.bytes_of, aside))
    done = checkpoint.retain(place.folder, policy, dry_run=dry_run, thorough=True)
    if not dry_run:
        with removal.removal_lock(place.folder):
            removal.remove(aside)
            for path in place.folder.glob("set_aside-*.pth"):  # its folder was removed before it could be renamed too
                if ASIDE.fullmatch(path.stem) and not path.with_suffix("").exists():
                    path.unlink()
    return {
        "run": place.run,
        "folder": str(place.folder),
        "dry_run": dry_run,
        "removed": done.gone,
        "kept": done.kept,
        "set_aside": [folder.name for folder in aside],
        "damaged": done.damaged,
        "freed": done.freed + freed,
        "left": sum(removal.bytes_of(place.folder / name) for name in done.kept),
    }


def set_pin(wanted: Named, *, pinned: bool) -> CheckpointPinDocument:
    """Pins a checkpoint that verifies, or lets it go."""
    saved = open_named(wanted)
    if pinned:
        checkpoint.verify(saved)
    act: Callable[[Path], object] = removal.pin if pinned else removal.unpin
    act(saved.folder)
    return {"name": saved.name, "folder": str(saved.folder), "pinned": os.path.exists(saved.folder / removal.PIN)}
