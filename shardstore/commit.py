"""The only way bytes get into a dataset: stage, publish, commit.

    lock -> write into staging/<uuid>/ -> rename to a name made of the content -> make durable
         -> link the next manifest (fails if the number is taken) -> replace CURRENT -> report success

What CURRENT does not name, directly or through its manifest, is garbage: a process killed anywhere in between leaves
the old generation as it was. Worker processes only stage and publish; the process that holds the lock commits.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from dateshard.shardstore import journal
from dateshard.shardstore.commands import to_run
from dateshard.shardstore.disk.durable import (
    Flusher,
    appearing,
    disk_full_as_error,
    fsync_path,
    replace_file,
    write_file,
)
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import BusyError, DamagedError, DateshardError, NotThereError, StoreError, Where
from dateshard.shardstore.identity import RowTexts, hash_file, nothing_to_collect, seal, unseal
from dateshard.shardstore.manifest import (
    Manifest,
    current_generation,
    generations,
    load_manifest,
    manifest_name,
    named_folders,
    next_generation,
    pointer_to,
)
from dateshard.shardstore.objects.bucket_store import Bucket, bucket_of, make_way, read_committed
from dateshard.shardstore.objects.format_file import write_format
from dateshard.shardstore.sources import Sources

FOLDERS = ("manifests", "statistics", "nodes", "staged", "partials", "shards", "staging", "pins", "quarantine")


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A name in staging/ for a folder to be written; whatever stays there is removed."""
    folder = root / "staging" / uuid.uuid4().hex
    try:
        with disk_full_as_error(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(root: Path, folder: Path, final: Path, hashes: Mapping[str, tuple[int, str]]) -> Path:
    """Moves a finished folder to its final name and returns that name.

    Reads every file named in `hashes` back first. If the name exists with equal bytes, it is kept and nothing is
    written; if it exists damaged, the new folder goes to `<name>-2` (or -3, ...), which only a new manifest names.

    Raises:
        DamagedError: what was just written reads back differently. OSError: it cannot be read back.
    """
    for name, expected in hashes.items():
        if hash_file(folder / name) != tuple(expected):
            raise DamagedError(
                "just written, but it reads back differently: the disk or memory is faulty",
                where=Where(file=str(folder / name)),
                todo="Check the machine, then run the command again",
            )
    copies = (final.with_name(f"{final.name}-{n}") for n in range(2, 100))
    for candidate in chain([final], copies):
        if candidate.exists():
            if first_damaged(candidate, hashes) is None:
                return candidate
            if not make_way(root, candidate):
                continue
        candidate.parent.mkdir(parents=True, exist_ok=True)
        for name in hashes:
            (folder / name).chmod(0o444)
        try:
            folder.rename(candidate)
        except OSError:
            if not candidate.exists():
                raise
            if first_damaged(candidate, hashes) is not None:
                continue
        return candidate  # of equal bytes also where another worker was first
    raise StoreError("a hundred damaged copies of one folder", where=Where(file=str(final)), todo="Check the disk")


def content_of(name: str) -> str:
    """The id by which a published folder is named: `5e2b9c` of `5e2b9c`, and of its mended copy `5e2b9c-2`."""
    return name.partition("-")[0]


def copies_of(folder: Path) -> list[Path]:
    """The other folders of the same id beside a published one: its mended copies, the newest first, then the first of all.

    Not by glob: it compiles a pattern for every folder.
    """
    own = content_of(folder.name)
    try:
        names = [name for name in os.listdir(folder.parent) if content_of(name) == own and name != folder.name]
    except FileNotFoundError:
        return []
    numbers = {
        name: int(last) if (last := name.rpartition("-")[2]).isdecimal() and last != name else 1 for name in names
    }
    return [folder.with_name(name) for name in sorted(names, key=numbers.__getitem__, reverse=True)]


def first_damaged(folder: Path, hashes: Mapping[str, tuple[int, str]]) -> str | None:
    """The first file whose size or hash is not the given one, or None."""
    for name, expected in hashes.items():
        try:
            if hash_file(folder / name) != tuple(expected):
                return name
        except OSError:
            return name
    return None


@dataclass(frozen=True, slots=True)
class Committed:
    """A generation as it stands on disk."""

    generation: int
    manifest: Manifest
    sources: Sources


class StoreWriter:
    """The one writer of a dataset, from lock to commit. Use as a context manager.

    Owns: writer.lock, staging/ (emptied on entry: nobody else may write), manifests/, CURRENT, commits.jsonl.

    Raises:
        BusyError: another process holds the lock; the message names it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sound = 0  # the generation that CURRENT is known to name, with its own sources
        self._journal = ""  # what was taken out of commits.jsonl
        self._format = ""  # what was wrong with FORMAT before it was written anew
        self._bucket: Bucket | None = None
        self._texts: tuple[RowTexts, RowTexts] | None = None  # how dates are spelled in the sources and in the manifest

    def __enter__(self) -> StoreWriter:
        path, new = self.root / "writer.lock", not self.root.exists()
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            take_lock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            holder = os.pread(self._lock, 200, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise BusyError(
                f"another process is writing this dataset ({holder or 'unknown'})",
                where=Where(file=str(path)),
                todo="Wait for it to end, then run the command again",
            ) from None
        except DateshardError:
            os.close(self._lock)
            if new:
                shutil.rmtree(self.root, ignore_errors=True)
            raise
        try:
            with disk_full_as_error(path):
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            with disk_full_as_error(self.root / "FORMAT"):
                self._format = write_format(self.root)
            self.sweep()
            (self.root / "staging").mkdir(exist_ok=True)
            self._journal = journal.take_out_damaged(self.root)
            self._bucket = bucket_of(self.root)
            if self._bucket:
                self._bucket.begin((self.root / "FORMAT").read_bytes())
            self._flusher = Flusher(self.root)
        except BaseException:
            os.close(self._lock)
            raise
        self._published: list[Path] = []
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.sweep()
        self._flusher.close()
        with naming(self.root / "writer.lock"):
            os.close(self._lock)

    def sweep(self) -> None:
        """Empties staging/ of what processes that were ended have left there. None may be writing."""
        shutil.rmtree(self.root / "staging", ignore_errors=True)
        with suppress(OSError):  # on a full disk: the next writer makes it
            (self.root / "staging").mkdir(exist_ok=True)

    def current(self) -> tuple[Committed | None, list[str]]:
        """The generation to build on, and what had to be passed over to find it.

        CURRENT where it is good; else the newest manifest that is. A damaged sources file costs work: its dates are
        looked at again, and the statistics are merged again. A file that cannot be read now is no damage: it stops.
        """
        notes = [note for note in (self._format, self._journal) if note]
        try:
            named = [current_generation(self.root, self._bucket)]
        except NotThereError:
            if bucket_of(self.root):  # what lies here are copies of what is gone
                return None, notes
            named = []
        except DamagedError as error:
            notes.append(str(error))
            named = []
        for number in named + [number for number in reversed(generations(self.root)) if number not in named]:
            try:
                manifest = load_manifest(self.root, number)
            except (DamagedError, NotThereError) as error:
                notes.append(str(error))
                continue
            num_notes = len(notes)
            sources = self._load_sources(number, notes)
            self._sound = number if [number] == named and len(notes) == num_notes else 0
            return Committed(number, manifest, sources), notes
        return None, notes

    def _load_sources(self, generation: int, notes: list[str]) -> Sources:
        try:
            return load_sources(self.root, generation)
        except DamagedError as error:
            notes.append(str(error))
            older = [number for number in generations(self.root) if number < generation]
            return self._load_sources(older[-1], notes) if older else Sources()

    def published(self, folders: Sequence[Path]) -> None:
        """Notes folders that workers published, to be made durable by the next commit."""
        self._published += folders

    @nothing_to_collect()
    def commit(self, manifest: Manifest, sources: Sources, previous: Committed | None) -> Committed:
        """Makes `manifest` the current generation, or returns `previous` when nothing differs.

        When it returns, everything is on disk. On any error the old generation is still current, or (an fsync that
        failed after CURRENT was replaced) the new one is; never something between.
        """
        if (
            previous
            and previous.manifest == manifest
            and previous.sources == sources
            and self._sound == previous.generation
        ):
            self._flusher.flush(self._published)  # a copy that mends a damaged folder changes no manifest
            if self._bucket:
                self._bucket.push(self._published)
            self._published = []
            return previous
        generation = next_generation(self.root)
        contents = self._spelled(manifest, sources, previous)
        with disk_full_as_error(self.root / "manifests" / manifest_name(generation)):
            self._flusher.flush(self._published)
            if self._bucket:
                generation = self._commit_there(self._bucket, manifest, contents, previous)
            path = self.root / "manifests" / manifest_name(generation)
            self._published = []
            self._link_new(sources_path(self.root, generation), contents[0])
            self._link_new(path, contents[1])
            fsync_path(path.parent)
            replace_file(self.root / "CURRENT", pointer_to(generation))
        self._sound = generation
        self._log(generation, manifest)
        return Committed(generation, manifest, sources)

    def _spelled(self, manifest: Manifest, sources: Sources, previous: Committed | None) -> tuple[bytes, bytes]:
        """Returns the contents of the sources file and of the manifest. What `previous` has of a date keeps its text."""
        if self._texts is None:
            self._texts = of_sources, of_manifest = RowTexts(), RowTexts()
            if previous:
                path = sources_path(self.root, previous.generation)
                with suppress(OSError):  # else they are spelled anew
                    of_sources.learn(previous.sources.dates, path.read_bytes())
                    of_manifest.learn(
                        previous.manifest.dates, path.with_name(manifest_name(previous.generation)).read_bytes()
                    )
        of_sources, of_manifest = self._texts
        return (
            seal(replace(sources, dates={}).to_json(), {"dates": of_sources.spell(sources.dates)}),
            seal(replace(manifest, dates={}).to_json(), {"dates": of_manifest.spell(manifest.dates)}),
        )

    def _commit_there(
        self, bucket: Bucket, manifest: Manifest, contents: tuple[bytes, bytes], previous: Committed | None
    ) -> int:
        """Sends what the bucket lacks and commits there, before anything here says so; returns the generation."""
        known = {*named_folders(previous.manifest)} if previous else set()
        new = {*named_folders(manifest)} - known
        named = {self.root / name for name in new if not name.startswith("cache/")}
        bucket.push({*self._published, *bucket.folders(marked=previous is None), *named})

        def files(number: int) -> dict[str, bytes]:
            paths = sources_path(self.root, number), self.root / "manifests" / manifest_name(number)
            return {str(path.relative_to(self.root)): data for path, data in zip(paths, contents, strict=True)}

        return bucket.commit(previous.generation if previous else 0, files, pointer_to)

    def _link_new(self, path: Path, data: bytes) -> None:
        """A new file under `path`, complete from its first moment; fails if the name is taken, but for a bucket's copy."""
        over = self._bucket is not None
        with appearing(path, self.root / "staging" / uuid.uuid4().hex, over=over, durable=False) as temporary:
            write_file(temporary, data)
            temporary.chmod(0o444)

    def _log(self, generation: int, manifest: Manifest) -> None:
        """Notes when which generation came."""
        line = {
            "generation": generation,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "pid": os.getpid(),
            "dates": len(manifest.dates),
            "statistics": manifest.statistics,
            "failed": len(manifest.failed),
        }
        with suppress(OSError):  # it is for people
            journal.append(self.root, line)


def sources_path(root: Path, generation: int) -> Path:
    """Where a generation's sources file lies."""
    return root / "manifests" / manifest_name(generation).replace(".json", ".sources.json")


@nothing_to_collect()
def load_sources(root: Path, generation: int) -> Sources:
    """Reads a generation's sources file.

    Raises:
        DamagedError: missing or damaged; the next preprocess falls back to an older one and writes it anew.
        StoreError: it cannot be read now. To fall back then would move statistics that are meant to stay.
    """
    path, todo = sources_path(root, generation), f"{to_run('preprocess', config=True)} (it writes it anew)"
    try:
        data = read_committed(root, str(path.relative_to(root)))
    except FileNotFoundError as error:
        raise DamagedError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=todo) from None
    except OSError as error:
        todo = (
            "Check the disk. If the file is lost, remove it: preprocess writes it anew and merges the statistics again"
        )
        raise StoreError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=todo) from None
    return Sources.from_json(unseal(data, str(path), todo), str(path), todo)
