"""What nothing needs any more, and its removal. No clock decides: only which generations are kept, and what they name.

Kept are the newest generations, the pinned ones, everything that their manifests and sources files name, and the
measured arrays that the caller wants. A manifest goes first, durably; then folders, each by one rename out of its
place, so that a process killed anywhere in between leaves garbage but nothing half.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dateshard.shardstore.commit import load_sources, sources_path
from dateshard.shardstore.disk.durable import fsync_path
from dateshard.shardstore.errors import DamagedError, StoreError, Where
from dateshard.shardstore.frozen import LOADS
from dateshard.shardstore.identity import identity, unseal_readable
from dateshard.shardstore.manifest import (
    Manifest,
    current_generation,
    generations,
    load_manifest,
    manifest_name,
    named_folders,
)
from dateshard.shardstore.pinning.pins import Look, Pin, judge_pins, pins_lock
from dateshard.shardstore.storage import STORAGES

KEPT_GENERATIONS = 3
BY_DATE = ("shards", "staged", "partials", "cache", *STORAGES)


@dataclass(slots=True, kw_only=True)
class Garbage:
    """What would go.

    Attributes:
        kept: generations that stay, with the names of the runs that are there and need them.
        generations: manifests that go.
        pins: of runs that are gone; they go. away: of runs of which nobody can say that; their generations stay.
        folders: published folders that no kept generation names.
        damaged: folders for which a mended copy stands; they are moved to quarantine/ and never deleted here.
        sizes: {generations|nodes|statistics|vocabularies|shards|cache|parquet|staged|partials|cut|damaged: (how many, bytes)}
            of all that goes.
        notes: what could not be judged and is therefore kept.
    """

    kept: dict[int, list[str]]
    generations: list[int] = field(default_factory=list)
    pins: list[Look] = field(default_factory=list)
    away: list[Look] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def files(self, root: Path) -> list[Path]:
        """Manifests and pins that go, and sources files that have no manifest or lose it."""
        manifests = [root / "manifests" / manifest_name(number) for number in self.generations]
        stay = {sources_path(root, number) for number in self.kept}
        sources = (path for path in _all_sources(root) if path not in stay)
        return [*manifests, *sources, *(look.pin.file for look in self.pins)]


@dataclass(frozen=True, slots=True)
class Runs:
    """What is known of the training runs that may need a generation.

    Attributes:
        folder: the runs folder of the caller; None: only those that the pins name are looked at.
        gone: pins that may go where their runs are gone; None: all.
    """

    folder: Path | None = None
    gone: frozenset[Path] | None = None


@dataclass(frozen=True, slots=True)
class Needed:
    """Measured arrays that stay beside those of kept generations.

    Attributes:
        staged: (date, key), as the present settings need them.
        partial_key: of a staged key, after the present transforms.
        cuts: of a file of many dates: those that the next preprocess can use; None: any.
    """

    staged: frozenset[tuple[str, str]]
    partial_key: Callable[[str], str]
    cuts: frozenset[str] | None = None


def _all_sources(root: Path) -> list[Path]:
    return sorted((root / "manifests").glob("g*.sources.json"))


def staged_of(root: Path, generation: int) -> dict[str, str]:
    """Returns the {date: staged key} that a generation's sources file names, without failed dates that have none.

    Raises:
        StoreError: missing or damaged.
    """
    return {str(date): row.staged for date, row in load_sources(root, generation).dates.items()}


def find_garbage(root: Path, wanted: Needed, keep: int = KEPT_GENERATIONS, runs: Runs = Runs()) -> Garbage:
    """What would go, if `keep` of the newest generations stay. Looks only.

    Raises:
        DamagedError: a pin, or the manifest of a generation that must stay, cannot be read: nothing can be judged.
    """
    looks, there = judge_pins(root, runs.folder), generations(root)
    gone = [look for look in looks if look.there is False and (runs.gone is None or look.pin.file in runs.gone)]
    away = [look for look in looks if look.there is None and look.pin.generation in there]
    kept: dict[int, list[str]] = {number: [] for number in [*there[-keep:], current_generation(root)]}
    for look in looks:
        if look.there is not None and look not in gone and look.pin.generation in there:
            kept.setdefault(look.pin.generation, []).append(look.pin.run)
    folders = {look.place for look in looks} | {*filter(None, [runs.folder])}
    doubtful = {look.pin.generation for look in away}
    for number, run in _claimed(root, folders, (set(there) - set(kept)) | doubtful):
        kept.setdefault(number, []).append(run)
    away = [look for look in away if not _seen(look.pin, kept)]
    kept |= {look.pin.generation: [] for look in away if look.pin.generation not in kept}
    garbage = Garbage(kept={number: list(dict.fromkeys(names)) for number, names in sorted(kept.items())})
    garbage.generations += [number for number in there if number not in kept]
    garbage.pins, garbage.away = gone, away
    named = {name for number in kept for name in named_folders(_manifest(root, number))}
    _judge(root, named, (*LOADS, "shards", "cache", *STORAGES), garbage)
    if wanted.cuts is not None:
        _judge(root, {f"cut/{key}" for key in wanted.cuts}, ("cut",), garbage)
    try:
        staged = {*wanted.staged, *(row for number in kept for row in staged_of(root, number).items())}
    except StoreError as error:
        garbage.notes.append(f"all measured arrays stay: {error}")
    else:
        _judge(root, {f"staged/{date}/{key}" for date, key in staged}, ("staged",), garbage)
        _judge(root, {f"partials/{date}/{wanted.partial_key(key)}" for date, key in staged}, ("partials",), garbage)
    garbage.sizes["generations"] = len(garbage.generations), sum(path.stat().st_size for path in garbage.files(root))
    return garbage


def _seen(pin: Pin, kept: Mapping[int, list[str]]) -> bool:
    """Whether the run of a pin that knows no runs folder was found in another place, and keeps its generation there."""
    return pin.runs is None and pin.run in kept.get(pin.generation, ())


def _claimed(root: Path, folders: set[Path], going: set[int]) -> Iterator[tuple[int, str]]:
    """Yields those of `going` that a run's own run.json names, with the run.

    Such a run was renamed, or copied, or killed before it pinned."""
    ids = dict[int, str | None]()
    for folder in {folder.resolve() for folder in folders} if going else ():
        for path in sorted(folder.glob("*/run.json")):
            with suppress(OSError, DamagedError, KeyError, TypeError):  # it is no run that could be continued as it is
                data = unseal_readable(path.read_bytes(), str(path))["data"]
                if (number := data["generation"]) not in going:
                    continue
                if number not in ids:
                    ids[number] = _identity_of(root, number)
                if data["id"] == ids[number] or (ids[number] is None and data["name"] == root.name):
                    yield number, path.parent.name


def _identity_of(root: Path, generation: int) -> str | None:
    """What a run's data say of a generation; None where its manifest is damaged, which must not cost it its place."""
    try:
        return identity(load_manifest(root, generation).to_json())
    except DamagedError:
        return None


def _manifest(root: Path, generation: int) -> Manifest:
    try:
        return load_manifest(root, generation)
    except StoreError as error:
        path = root / "manifests" / manifest_name(generation)
        todo = f"Nothing was removed. If that generation is given up: mv {path} {root / 'quarantine'}/"
        raise type(error)(error.what, where=Where(file=str(path)), todo=todo) from None


def _judge(root: Path, named: set[str], kinds: Iterable[str], garbage: Garbage) -> None:
    """Sorts published folders. Copies `<id>-2` of a name that stays are what readers fall back to: they stay too."""
    mended = {_stem(name) for name in named if _is_copy(name)}
    for kind in kinds:
        for folder in _published(root / kind, deep=kind in BY_DATE):
            name = str(folder.relative_to(root))
            if name in named or _stem(name) in named:
                continue
            damaged = _stem(name) in mended
            (garbage.damaged if damaged else garbage.folders).append(folder)
            count, num_bytes = garbage.sizes.get(label := "damaged" if damaged else kind, (0, 0))
            garbage.sizes[label] = count + 1, num_bytes + _size_of(folder)


def _stem(name: str) -> str:
    """A published folder's name without the number of a copy."""
    return name.rpartition("-")[0] if _is_copy(name) else name


def _is_copy(name: str) -> bool:
    """Tells whether a name is a copy: `shards/2024-03-01/5e2b9c-2` is one, `shards/2024-03-01/5e2b9c` is not."""
    return "-" in name.rpartition("/")[2]


def _published(parent: Path, *, deep: bool) -> list[Path]:
    folders = sorted(folder for folder in parent.iterdir() if folder.is_dir()) if parent.is_dir() else []
    return [inner for folder in folders for inner in _published(folder, deep=False)] if deep else folders


def remove_garbage(root: Path, wanted: Needed, keep: int = KEPT_GENERATIONS, runs: Runs = Runs()) -> Garbage:
    """Removes what `find_garbage` finds, and returns it. The caller holds the writer's lock.

    Pins are read and manifests removed under pins/lock: a reader either pins before and is seen, or finds its
    manifest gone and opens the current generation.
    """
    with pins_lock(root, fcntl.LOCK_EX):
        garbage = find_garbage(root, wanted, keep, runs)
        going = garbage.files(root)
        for path in going:
            path.unlink()
        for parent in {path.parent for path in going}:
            fsync_path(parent)
    for folder in garbage.damaged:
        folder.rename(root / "quarantine" / f"{folder.parent.name}-{folder.name}-{uuid.uuid4().hex[:8]}")
    for folder in garbage.folders:
        trash = root / "staging" / f"trash-{uuid.uuid4().hex}"
        folder.rename(trash)
        try:
            shutil.rmtree(trash)
        except OSError as error:
            error.filename = str(trash)  # rmtree names what failed without its folder
            raise
    for folder in {path.parent for path in (*garbage.folders, *garbage.damaged)}:
        if folder.parent != root:
            with suppress(OSError):  # other folders of that date live there
                folder.rmdir()
    return garbage


def _size_of(folder: Path) -> int:
    return sum(Path(parent, name).stat().st_size for parent, _, names in os.walk(folder) for name in names)
