"""Pins: which generations training runs need. Cleaning keeps a pinned generation until its run is known to be gone.

    pins/<run>@<hash of the runs folder's id and place>.json

A run is gone only where its runs folder, known by its id, is there and lacks it. A folder that is absent, empty, another
one or unreadable proves nothing: its disk may not be mounted, it may have moved, or lie behind another path today.

A reader writes its pin and then looks whether the manifest is still there, cleaning reads the pins and then removes
manifests; `pins/lock` keeps one from happening in the middle of the other.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.disk.durable import disk_full_as_error, replace_file
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import DamagedError, NotThereError, StoreError, Where, shorten
from dateshard.shardstore.identity import expected_form, identity, seal, unseal
from dateshard.shardstore.manifest import load_manifest
from dateshard.shardstore.pinning.runs_id import make_runs_id, runs_id

MARK = "@"  # in the name of a pin that knows its runs folder; no run's name has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One run's claim on a generation.

    Attributes:
        runs: id of the runs folder that the run lies in; None: it had none.
        places: where that folder is looked for: as it lies from the store, and where it lay when the pin was written.
    """

    file: Path
    generation: int
    run: str
    runs: str | None
    places: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a pin's run.

    Attributes:
        there: False: its runs folder is there and lacks it. None: nothing tells.
        place: of its runs folder; where it was seen, or else where it lay when the pin was written.
        why: nothing tells, as a clause about the runs folder.
    """

    pin: Pin
    there: bool | None
    place: Path
    why: str = ""

    @property
    def label(self) -> str:
        """The run and its folder, as messages name them."""
        here, place = Path.cwd(), self.place
        name = shorten(str(place.relative_to(here) if place.is_relative_to(here) else place), 200)
        return f"run {self.pin.run} of {name}"


def judge_pins(root: Path, here: Path | None = None) -> list[Look]:
    """Looks for the run of every pin.

    Args:
        here: the runs folder of the caller: a run that lies there is seen wherever the store or the folder lay before.

    Raises:
        DamagedError: one cannot be read, so nobody knows what its run needs.
    """
    return [_look_everywhere(pin, here) for pin in read_pins(root)]


def _look_everywhere(pin: Pin, here: Path | None) -> Look:
    """What proves most: the run, then a runs folder that lacks it, then what is there instead."""
    looks = [_look(place, pin) for place in pin.places]
    if here is not None and pin.runs is not None and (seen := _look(here, pin)).there:
        looks.append(seen)
    for proof in (True, False):
        for look in looks:
            if look.there is proof:
                return look
    return next((look for look in looks if os.path.lexists(look.place)), looks[-1])


def _look(place: Path, pin: Pin) -> Look:
    """Looks for a run in one folder, which proves something only if it is the very one that the run lay in."""
    try:
        present = runs_id(place)
        if pin.runs is not None and present != pin.runs:
            return Look(pin, None, place, _why_not(place, present))
        if _exists(place / pin.run):
            return Look(pin, True, place)
        if present is None and not any(_exists(run / "run.json") for run in place.iterdir()):
            return Look(pin, None, place, "which holds no run now (is its disk not mounted?)")
        return Look(pin, False, place)
    except (FileNotFoundError, NotADirectoryError):
        return Look(pin, None, place, _why_not(place, None))
    except OSError as error:
        return Look(pin, None, place, f"which cannot be read now ({error.strerror})")
    except DamagedError:
        return Look(pin, None, place, "whose ID is damaged")


def _why_not(folder: Path, present: str | None) -> str:
    if present is not None:
        return "where another runs folder lies now"
    return "which is there without its ID (is its disk not mounted?)" if folder.is_dir() else "which is not here now"


def _exists(path: Path) -> bool:
    """Whether there is anything of that name, a link that leads nowhere too; other failures are raised."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()
        return True
    return False


def write_pin(root: Path, generation: int, run: Path) -> None:
    """Keeps `generation` from being cleaned until the run's folder is gone; then checks that it is still there.

    The runs folder is noted relative to the store too, so that a data folder may be moved as a whole.

    Raises:
        NotThereError: the generation was cleaned away before the pin stood.
    """
    folder, pins = run.parent, root / "pins"
    pins.mkdir(exist_ok=True)
    known = make_runs_id(folder)
    file, content = _pin(root, folder, known, run.name, generation)
    with pins_lock(root, fcntl.LOCK_SH), disk_full_as_error(file):
        replace_file(file, content)
        try:
            load_manifest(root, generation)
        except NotThereError:
            file.unlink()
            raise
        if known is not None:
            _give_id(root, folder, known, run.name, generation)


def forget_run(root: Path, run: Path) -> None:
    """Takes the pin of a run away whose folder was removed; one that says otherwise or cannot be read stays.

    Raises:
        StoreError: the store cannot be written to.
    """
    if not pin_files(root):
        return
    with pins_lock(root, fcntl.LOCK_EX):  # a new run of that name makes its folder first, and then its pin
        for file in pin_files(root):
            with suppress(DamagedError):  # `clean` names it
                pin = read_pin(root, file)
                if pin and pin.run == run.name and _look_everywhere(pin, run.parent).there is False:
                    file.unlink(missing_ok=True)


def _pin(root: Path, folder: Path, known: str | None, run: str, generation: int) -> tuple[Path, bytes]:
    place = os.path.relpath(folder.resolve(), root.resolve())
    name = f"{run}{MARK}{identity([known, place])}.json"
    content = {"generation": generation, "run": run, "runs": known, "place": place, "seen": str(folder.absolute())}
    return root / "pins" / name, seal(content)


def _give_id(root: Path, folder: Path, known: str, written: str, generation: int) -> None:
    """Writes the pins of before there were ids anew, where their runs lie in `folder` now."""
    for file in pin_files(root):
        if MARK in file.name:
            continue
        with suppress(DamagedError):  # `clean` names it
            pin = read_pin(root, file)
            if pin is None or pin.places[0] != folder.resolve() or not _exists(folder / pin.run):
                continue
            if pin.run != written:
                replace_file(*_pin(root, folder, known, pin.run, pin.generation))
            elif pin.generation != generation:
                continue  # of another run that had this name
            file.unlink(missing_ok=True)


def read_pins(root: Path) -> list[Pin]:
    """Reads all pins of a store.

    Raises:
        DamagedError: one cannot be read, so nobody knows what its run needs.
    """
    return [pin for file in pin_files(root) if (pin := read_pin(root, file)) is not None]


def pin_files(root: Path) -> list[Path]:
    """One file a run and a place of its runs folder."""
    return sorted((root / "pins").glob("*.json"))


def read_pin(root: Path, file: Path) -> Pin | None:
    """Reads a pin; None where its file is gone, as others forget runs or write older pins anew meanwhile.

    Raises:
        DamagedError: naming the file, and the run that writes it anew.
    """
    run = file.stem.partition(MARK)[0]
    todo = f"{to_run('train', '--resume', run)} (it writes the pin anew), or delete the file if {run} is over"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"the pin cannot be read: {error.strerror}"
        raise DamagedError(what, where=Where(file=str(file)), todo=todo) from None
    content = unseal(data, str(file), todo)
    with expected_form(str(file), todo):
        return _parsed(file, content, root.resolve())


def _parsed(file: Path, content: dict[str, Any], root: Path) -> Pin:
    generation = int(content["generation"])
    if any("\0" in content[key] for key in ("owner", "run", "place", "seen") if key in content):
        raise ValueError(content)
    if "owner" in content:  # of before there were ids
        owner = Path(os.path.normpath(root / content["owner"]))
        return Pin(file=file, generation=generation, run=owner.name, runs=None, places=(owner.parent,))
    run, known = content["run"], content["runs"]
    if Path(run).name != run or run == ".." or not isinstance(known, str | None):
        raise ValueError(content)
    return Pin(
        file=file,
        generation=generation,
        run=run,
        runs=known,
        places=(Path(os.path.normpath(root / content["place"])), Path(content["seen"])),
    )


@contextmanager
def pins_lock(root: Path, kind: int) -> Iterator[None]:
    """Holds pins/lock, shared (to pin) or exclusive (to remove manifests); it dies with the process."""
    path = root / "pins" / "lock"
    try:
        with disk_full_as_error(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        where = Where(file=str(path))
        raise StoreError(f"cannot be opened: {error.strerror}", where=where, todo="Check its permissions") from None
    try:
        take_lock(descriptor, kind, path)
        yield
    finally:
        with naming(path):
            os.close(descriptor)
