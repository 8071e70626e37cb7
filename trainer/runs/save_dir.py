"""Checkpoints that lie in a folder of the user's choice (`--save-dir`): the run's `checkpoints` is a link to it.

The folder says whose it is in `of_run.json`; it counts only where that run's link leads back.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dateshard.shardstore.commands import command
from dateshard.shardstore.disk.durable import disk_full_as_error, fsync_above, fsync_path, replace_file
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import NotThereError, UsageError, Where, shorten
from dateshard.trainer.checkpoint import NAME
from dateshard.trainer.checkpoint.removal import LOCK, removal_lock

NOTE = "of_run.json"


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Makes `directory` if need be and keeps others from claiming it while the run is made within this context.

    Where that fails, a new directory goes again.

    Raises:
        UsageError: it holds checkpoints already, or is another run's.
    """
    _refuse_taken(directory)
    new = not directory.exists()
    try:
        with disk_full_as_error(directory):
            directory.mkdir(parents=True, exist_ok=True)
            fsync_above(directory, 2)
        with removal_lock(directory):
            _refuse_taken(directory)
            yield
    except BaseException:
        if new and run_of(directory) is None and {*_names(directory)} <= {NOTE, LOCK}:  # not another's by now
            shutil.rmtree(directory, ignore_errors=True)
        raise


def make_place(run: Path, directory: Path | None) -> None:
    """A new run's `checkpoints`: a folder, or a link to `directory`, which then names the run. Durable."""
    place = run / "checkpoints"
    with naming(place):
        if place.is_symlink() or (directory is not None and place.is_dir()):  # of a start that was killed
            place.unlink() if place.is_symlink() else place.rmdir()
        if directory is None:
            place.mkdir(exist_ok=True)
            return
    with disk_full_as_error(directory):
        _note(run, directory)
        place.symlink_to(os.path.relpath(directory.resolve(), run.resolve()), target_is_directory=True)
        fsync_path(run)


def _note(run: Path, directory: Path) -> None:
    note = {"run": run.name, "folder": os.path.relpath(run.resolve(), directory.resolve())}
    replace_file(directory / NOTE, json.dumps(note).encode() + b"\n")


def keep_own(run: Path) -> None:
    """Where a run that is continued was renamed or moved, the folder of its checkpoints names it again.

    Raises:
        NotThereError: the folder is absent. UsageError: it is another run's, such as that of which this one is a copy.
    """
    refuse_absent(run)
    place = run / "checkpoints"
    if not place.is_symlink():
        return
    directory = place.resolve()
    owner = run_of(directory)
    if owner is None:
        with disk_full_as_error(directory):
            _note(run, directory)
    elif not owner.samefile(run):
        what, todo = f"its checkpoints are those of run {owner.name}", f"rm {place} && cp -r {directory} {place}"
        raise UsageError(what, where=Where(file=str(place)), todo=f"Give it its own: {todo}")


def is_absent(run: Path) -> bool:
    """Tells whether a run's `checkpoints` leads to a folder that is not there.

    It is gone, or was never the run's own (a disk that is not mounted)."""
    place = run / "checkpoints"
    noted = place.is_symlink() and not (place / NOTE).exists()
    return noted and not any(NAME.fullmatch(name) for name in _names(place))


def refuse_absent(run: Path) -> None:
    """Refuses a run whose folder of checkpoints is absent.

    Raises:
        NotThereError: the folder of its checkpoints is absent: the run must not be taken for one without checkpoints.
    """
    if not is_absent(run):
        return
    place = run / "checkpoints"
    target = os.path.normpath(run.resolve() / os.readlink(place))
    raise NotThereError(
        "the folder that its checkpoints lie in is not there (moved, or its disk is not mounted?)",
        where=Where(file=shorten(target, 200)),
        todo=f"Bring it back; or, where it has moved to FOLDER: ln -sfnr FOLDER {shlex.quote(str(place))}",
    )


def _refuse_taken(directory: Path) -> None:
    """Refuses a directory that cannot take a new run's checkpoints.

    Raises:
        UsageError: what is at `directory` cannot take a new run's checkpoints.
    """
    where = Where(file=shorten(str(directory), 200))
    if directory.exists() and not directory.is_dir():
        raise UsageError("--save-dir is not a folder", where=where, todo="Name a folder, or one that is to be made")
    taken = [
        name for name in _names(directory) if NAME.fullmatch(name.removesuffix(".pth")) or name == "best_model.pth"
    ]
    owner = run_of(directory)
    if owner is None and not taken:
        return
    what = f"the checkpoints of {f'run {owner.name}' if owner else 'a run that is not here'} lie in this --save-dir"
    todo = f"Continue it: {command('train', '--resume', owner.name)}; or name" if owner else "Move them away, or name"
    raise UsageError(what, where=where, todo=f"{todo} another --save-dir")


def _names(directory: Path) -> Iterator[str]:
    if directory.is_dir():
        yield from (path.name for path in directory.iterdir())


def run_of(directory: Path) -> Path | None:
    """The folder of the run whose checkpoints lie directly in `directory`; None if they are nobody's."""
    for parent in (directory.parent, directory.absolute().parent, directory.resolve().parent):
        if parent.name not in ("", "..") and _leads_to(parent, directory):
            return parent
    try:
        note = json.loads((directory / NOTE).read_bytes())
        run = Path(os.path.normpath(directory.resolve() / note["folder"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    here = Path.cwd()
    return (run.relative_to(here) if run.is_relative_to(here) else run) if _leads_to(run, directory) else None


def _leads_to(run: Path, directory: Path) -> bool:
    """Whether `run` is a training run whose checkpoints lie in `directory`."""
    inside = run / "checkpoints"
    return os.path.isfile(run / "run.json") and inside.is_dir() and directory.is_dir() and inside.samefile(directory)
