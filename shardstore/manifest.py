"""What a generation is: an immutable list of all dates and their shards. `CURRENT` names one.

The manifest holds content only: no clock, host, path, process or generation number, so that equal data give equal
bytes. What only the pipeline needs (dumps, rejected rows, staged keys) stands in the sources file beside it.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import NotThereError, StoreError, Where, counted
from dateshard.shardstore.identity import expected_form, nothing_to_collect, seal, unseal
from dateshard.shardstore.layouts import LAYOUTS
from dateshard.shardstore.layouts.feature import Feature, categorical
from dateshard.shardstore.layouts.row_buckets import BUCKETS, ROW
from dateshard.shardstore.objects.bucket_store import Bucket, bucket_of, read_committed
from dateshard.shardstore.objects.format_file import FORMAT, check_format
from dateshard.shardstore.times.calendar import UNDATED, Day, zone

SPLITS = ("train", "validation", "test")
FOLDER_NAME = re.compile(r"[0-9A-Za-z]{1,64}(-\d{1,3})?")  # no id leads out of the store
TYPES = {
    "values": np.dtype("<f4"),
    "observed": np.dtype("|b1"),
    "time": np.dtype("<i8"),
    "cuts": np.dtype("<i8"),
    "cut_names": np.dtype("|u1"),
}
ARRAYS = {name: kind.itemsize for name, kind in TYPES.items()}  # bytes of one element
CUTS = frozenset({"cuts", "cut_names"})
EPOCH, DAY = dt.date(1970, 1, 1).toordinal(), 86_400_000_000_000  # nanoseconds
Ranges = tuple[tuple[dt.date, dt.date], ...]  # both ends included


class Stored(NamedTuple):
    """A date's file in a storage beside Zarr: <format>/<date>/<folder>/<date>.<format>."""

    folder: str
    size: int
    hash: str


Formats = Mapping[str, Stored | None]
NEW_NODES = ("keeps_unknown", "new_nodes", "num_new_nodes")
SOMETIMES = ("vocabularies", "cut", "cut_column", "static", "edges", *NEW_NODES)  # written where they are not empty
ZARR_ONLY: Formats = {"zarr": None}


class Part(NamedTuple):
    """A date's arrays of nodes [first, last) of the frozen list. A tuple: tens of thousands are made when a store is opened.

    Attributes:
        id: by the arrays' content, whatever they are stored as; the folder's name in Zarr.
        files: {array: (bytes, xxh3_128)} of its canonical buffer, which is the chunk file in Zarr.
        formats: what it is stored as; of Zarr `files` says all.
    """

    id: str
    nodes: tuple[int, int]
    files: Mapping[str, tuple[int, str]]
    formats: Formats = ZARR_ONLY


class Entry(NamedTuple):
    """One committed date in its parts, by nodes; `length` is that of a `Day`."""

    start: int
    num_steps: int
    parts: tuple[Part, ...]
    length: int = 0

    @property
    def num_nodes(self) -> int:
        """All that the date's arrays have, whichever part they lie in."""
        return self.parts[-1].nodes[1]

    def joined(self, others: Iterable[Entry]) -> Entry:
        """The entry of the whole date: this has its first part, and these have the others, in order."""
        return self._replace(parts=(*self.parts, *(shard for entry in others for shard in entry.parts)))

    @property
    def masked(self) -> bool:
        """Whether anything of it is missing, as far as its files tell."""
        first, *others = self.parts
        return "observed" in first.files or any("observed" in shard.files for shard in others)

    def to_json(self) -> dict[str, Any]:
        """The entry as it is written."""
        length = {"length": self.length} if self.length else {}
        return {"start": self.start, "steps": self.num_steps, "parts": list(map(_part_to_json, self.parts))} | length


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of one generation: all its dates, their shards, and the settings they were made with.

    Attributes:
        step: length of a step in nanoseconds; 0 where the layout has none.
        cut: column by whose values the records of a date are cut into pieces that no window crosses; empty for none.
        cut_column: whether `cut` names a column of a table that has the very name of the buckets of rows, `row`.
        static: id of the node table's static columns; empty where none is named.
        edges: id of the edges between nodes; empty where none are named.
        num_nodes: all of them. keeps_unknown: nodes that training never saw are kept.
        new_nodes: id of the nodes that training never saw, behind the frozen list; num_new_nodes: how many there are.
        vocabularies: id of the categorical features' frozen vocabularies; empty where no feature is categorical.
        normalise: identity of the settings and statistics that every shard of this generation was scaled with.
        split: {train|validation|test: ranges of dates, ends included}, resolved.
        split_cuts: {train|validation|test: names of cuts, sorted} where cuts are divided and not dates; then each of the
            splits has all dates, and of each only the records of its own cuts.
        provisional: training dates that failed and are missing from the statistics.
        failed: dates whose last preparation failed (an older shard of theirs may stand in `dates`).
    """

    dataset: str
    timezone: str
    step: int
    features: tuple[Feature, ...]
    nodes: str
    num_nodes: int
    statistics: str
    normalise: str
    split: Mapping[str, Ranges] = field(default_factory=dict)
    dates: Mapping[dt.date, Entry] = field(default_factory=dict)
    provisional: tuple[dt.date, ...] = ()
    failed: tuple[dt.date, ...] = ()
    layout: str = "grid"
    vocabularies: str = ""
    cut: str = ""
    cut_column: bool = False
    split_cuts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    static: str = ""
    edges: str = ""
    keeps_unknown: bool = False
    new_nodes: str = ""
    num_new_nodes: int = 0

    @property
    def num_frozen_nodes(self) -> int:
        """How many nodes training saw, or a node table lists."""
        return self.num_nodes - self.num_new_nodes

    def day(self, date: dt.date) -> Day:
        """The date's place in time, as committed."""
        entry = self.dates[date]
        return Day(date=date, start=entry.start, step=self.step, num_steps=entry.num_steps, length=entry.length)

    def days(self) -> list[Day]:
        """All committed dates in order."""
        return [self.day(date) for date in sorted(self.dates)]

    @property
    def frozen(self) -> dict[str, str]:
        """Returns {kind: id} of the folders that hold what is frozen."""
        ids = {
            kind: getattr(self, kind)
            for kind in ("nodes", "statistics", "vocabularies", "static", "edges", "new_nodes")
        }
        return {kind: folder_id for kind, folder_id in ids.items() if folder_id}

    @property
    def undated(self) -> bool:
        """Whether the rows have no date: they all lie under `UNDATED`."""
        return self.layout == "table" and set(self.dates) == {UNDATED}

    def split_of(self, date: dt.date) -> str | None:
        """Returns `train`, `validation`, `test`, or None for a date outside all of them.

        Where cuts are divided, every date may hold training records, and is one of `train`.
        """
        if self.split_cuts:
            return "train"
        for name, ranges in self.split.items():
            for first, last in ranges:  # a plain loop: it is asked of thousands of dates
                if first <= date <= last:
                    return name
        return None

    @property
    def by_row(self) -> bool:
        """Whether a hash of what they hold puts rows into one of a hundred buckets, and no column cuts them."""
        names = (name for own in self.split_cuts.values() for name in own)
        return self.layout == "table" and self.cut == ROW and not self.cut_column and all(n in BUCKETS for n in names)

    @property
    def training(self) -> str:
        """What the statistics are of, in words: all of the training dates, or some records of every date."""
        if not self.split_cuts:
            return "training dates"
        return "training rows" if self.layout == "table" else "training records"

    def cuts_of(self, split: str) -> str:
        """How many cuts a split has, in words, where cuts are divided: `2 values of 'session'`, `70 % of the rows`."""
        count = len(self.split_cuts.get(split, ()))
        if self.by_row:
            return f"{count} % of the rows"
        return f"{counted(count, 'value')} of '{self.cut}'"

    def to_json(self) -> dict[str, Any]:
        """The content of manifests/g*.json."""
        cuts = {name: list(names) for name, names in self.split_cuts.items()}
        some = {kind: getattr(self, kind) for kind in SOMETIMES} | {"split_cuts": cuts}
        return {name: value for name, value in some.items() if value} | {
            "format": FORMAT,
            "dataset": self.dataset,
            "layout": self.layout,
            "timezone": self.timezone,
            "step": self.step,
            "features": [feature.to_json() for feature in self.features],
            "nodes": self.nodes,
            "num_nodes": self.num_nodes,
            "statistics": self.statistics,
            "normalise": self.normalise,
            "split": {name: [[str(a), str(b)] for a, b in ranges] for name, ranges in self.split.items()},
            "provisional": [str(date) for date in self.provisional],
            "failed": [str(date) for date in self.failed],
            "dates": {str(date): entry.to_json() for date, entry in self.dates.items()},
        }

    @staticmethod
    def from_json(content: Mapping[str, Any], file: str, todo: str = "") -> Manifest:
        """Makes a manifest of a file's content, once all of it is checked.

        Raises:
            StoreError: a format that this version does not know.
            DamagedError: content that is no manifest: a name that leads out of the store, a size that does not fit.
        """
        with expected_form(file, todo):
            check_format(content["format"], file)
            manifest = Manifest(
                dataset=content["dataset"],
                layout=content["layout"],
                vocabularies=folder_name(content["vocabularies"]) if "vocabularies" in content else "",
                static=folder_name(content["static"]) if "static" in content else "",
                edges=folder_name(content["edges"]) if "edges" in content else "",
                keeps_unknown=content.get("keeps_unknown", False),
                new_nodes=folder_name(content["new_nodes"]) if "new_nodes" in content else "",
                num_new_nodes=content.get("num_new_nodes", 0),
                cut=content.get("cut", ""),
                cut_column=content.get("cut_column", False),
                split_cuts={name: tuple(names) for name, names in content.get("split_cuts", {}).items()},
                timezone=content["timezone"],
                step=content["step"],
                features=tuple(map(Feature.from_json, content["features"])),
                nodes=folder_name(content["nodes"]),
                num_nodes=content["num_nodes"],
                statistics=folder_name(content["statistics"]),
                normalise=content["normalise"],
                split={name: _ranges(pairs) for name, pairs in content["split"].items()},
                provisional=tuple(map(dt.date.fromisoformat, content["provisional"])),
                failed=tuple(map(dt.date.fromisoformat, content["failed"])),
                dates=_entries(content["dates"]),
            )
            _refuse_unfit(manifest)
        return manifest


def in_no_split(split: Mapping[str, Ranges], dates: Iterable[dt.date]) -> list[dt.date]:
    """The dates that lie in none of the split's ranges."""
    spans = [ends for ranges in split.values() for ends in ranges]
    return [date for date in dates if not any(first <= date <= last for first, last in spans)]


def _ranges(pairs: Sequence[Sequence[str]]) -> Ranges:
    return tuple((dt.date.fromisoformat(a), dt.date.fromisoformat(b)) for a, b in pairs)


def _part_to_json(shard: Part) -> dict[str, Any]:
    files = {name: list(file) for name, file in shard.files.items()}
    content = {"id": shard.id, "nodes": list(shard.nodes), "files": files}
    if shard.formats == ZARR_ONLY:
        return content
    return content | {"formats": {name: [*stored] if stored else None for name, stored in shard.formats.items()}}


def _entries(content: Mapping[str, Any]) -> dict[dt.date, Entry]:
    """Makes the dates of a manifest's content; plain loops, and few objects: thousands are read before a command begins."""
    entries, ids, ranges = dict[dt.date, Entry](), list[str](), dict[tuple[int, int], tuple[int, int]]()
    for day, row in content.items():
        parts = []
        for shard in row["parts"]:
            low, high = shard["nodes"]
            nodes = ranges.setdefault((low, high), (low, high))  # most dates have the same ones
            files = {name: (size, digest) for name, (size, digest) in shard["files"].items()}
            parts.append(
                Part(shard["id"], nodes, files, _formats(shard["formats"]) if "formats" in shard else ZARR_ONLY)
            )
            ids.append(shard["id"])
        entries[dt.date.fromisoformat(day)] = Entry(row["start"], row["steps"], tuple(parts), row.get("length", 0))
    if not all(map(FOLDER_NAME.fullmatch, ids)):
        raise ValueError(ids)
    return entries


def _formats(content: Mapping[str, Any]) -> Formats:
    """Makes a date's formats of a manifest's content.

    Raises:
        ValueError, TypeError: nothing that holds the arrays, or a name that leads out of the store.
    """
    if not content or any((stored is None) != (name == "zarr") for name, stored in content.items()):
        raise ValueError(content)
    formats = {folder_name(name): Stored(*stored) if stored else None for name, stored in content.items()}
    for stored in filter(None, formats.values()):
        _ = folder_name(stored.folder), stored.size + 0, stored.hash.encode()
    return formats


def folder_name(name: str) -> str:
    """The name itself; ValueError for one that is no id and could lead out of the store."""
    if not FOLDER_NAME.fullmatch(name):
        raise ValueError(name)
    return name


def _refuse_unfit(manifest: Manifest) -> None:
    """Refuses a manifest whose fields or array sizes do not fit each other.

    Raises:
        ValueError, TypeError, KeyError: arrays whose sizes are not those of their steps, nodes and features.
    """
    zone(manifest.timezone)
    grid = manifest.layout == "grid"
    counts = (manifest.step, manifest.num_nodes, manifest.num_new_nodes)
    if any(type(count) is not int for count in counts) or not isinstance(manifest.dataset, str):
        raise ValueError(counts, manifest.dataset)
    if (manifest.step > 0) != grid or manifest.num_nodes < 0:
        raise ValueError(manifest.step)
    if not grid and manifest.layout not in LAYOUTS:
        raise ValueError(manifest.layout)
    if manifest.split_cuts and (not manifest.cut or not manifest.split_cuts.keys() <= set(SPLITS)):
        raise ValueError(manifest.split_cuts)
    if bool(manifest.vocabularies) != bool(categorical(manifest.features)):
        raise ValueError(manifest.vocabularies)
    if bool(manifest.new_nodes) != (manifest.num_new_nodes > 0) or manifest.num_frozen_nodes < 0:
        raise ValueError(manifest.num_new_nodes)
    _refuse_unfit_dates(manifest)


def _refuse_unfit_dates(manifest: Manifest) -> None:
    """Refuses dates elsewhere in time, and parts that are no neighbours or of another size; raises as `_refuse_unfit`."""
    grid, step, known = manifest.layout == "grid", manifest.step, dict[tuple[Any, ...], list[int | None]]()
    fewest, most = manifest.num_frozen_nodes, manifest.num_nodes
    for date, (start, num_steps, parts, length) in manifest.dates.items():
        before = 0
        for _, (first, last), files, _ in parts:
            if first != before or (last <= first and len(parts) > 1):
                raise ValueError(first, last)
            kind = (num_steps, last - first, *files)
            if (sizes := known.get(kind)) is None:
                sizes = known[kind] = _sizes(manifest, num_steps, last - first, files)
            if [size for size, _ in files.values()] != sizes and any(
                wanted not in (None, size) for (size, _), wanted in zip(files.values(), sizes, strict=True)
            ):
                raise ValueError(files)
            before = last
        if not parts or not fewest <= before <= most or (len(parts) > 1 and not grid):
            raise ValueError(parts)
        far = abs(start - (date.toordinal() - EPOCH) * DAY) > DAY  # no zone is a day away from UTC
        if far or not 0 < (num_steps * step if grid else length) <= 2 * DAY or grid == bool(length):
            raise ValueError(date)


def _sizes(manifest: Manifest, num_steps: int, num_nodes: int, names: Collection[str]) -> list[int | None]:
    """Bytes of a part's arrays; None of cuts, as many as there are pieces: whoever reads them compares them with the steps."""
    if not {"values", "time"} <= set(names) or CUTS & set(names) != (CUTS if manifest.cut else set()):
        raise ValueError(names)
    cells = num_steps * num_nodes * len(manifest.features)
    return [None if name in CUTS else (num_steps if name == "time" else cells) * ARRAYS[name] for name in names]


def named_folders(manifest: Manifest) -> Iterator[str]:
    """Names the published folders that a manifest needs, from the store's root."""
    yield from (f"{kind}/{folder_id}" for kind, folder_id in manifest.frozen.items())
    for date, entry in manifest.dates.items():
        for shard in entry.parts:
            yield f"{'shards' if 'zarr' in shard.formats else 'cache'}/{date}/{shard.id}"
            yield from (f"{name}/{date}/{stored.folder}" for name, stored in shard.formats.items() if stored)


def manifest_name(generation: int) -> str:
    """Returns the file name of a generation's manifest: `g00000042.json`."""
    return f"g{generation:08d}.json"


def generations(root: Path) -> list[int]:
    """Numbers of all manifests, ascending: on disk, or in the bucket that the store lies in."""
    bucket, folder = bucket_of(root), root / "manifests"
    there = bucket.names("manifests") if bucket else os.listdir(folder) if folder.is_dir() else []
    names = (re.fullmatch(r"g(\d{8})\.json", name) for name in there)
    return sorted(int(match[1]) for match in names if match)


def next_generation(root: Path) -> int:
    """A number that no file of any generation has, complete or left behind by a crash."""
    names = (re.match(r"g(\d{8})\.", path.name) for path in (root / "manifests").iterdir())
    return max((int(match[1]) for match in names if match), default=0) + 1


def pointer_to(generation: int) -> bytes:
    """The content of CURRENT that names a generation."""
    return seal({"generation": generation, "manifest": manifest_name(generation)})


def current_generation(root: Path, bucket: Bucket | None = None) -> int:
    """The number that `CURRENT` names. Of a store in a bucket the bucket says it, and its files are copied here.

    Args:
        bucket: of that store, to remember which CURRENT was read; it is looked for where none is given.

    Raises:
        NotThereError: no dataset here, or nothing was committed yet.
        DamagedError: CURRENT is damaged. ResourceError: the bucket does not answer.
    """
    path = root / "CURRENT"
    bucket = bucket or bucket_of(root)
    try:
        with naming(path):
            data = bucket.pointer() if bucket else path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        data = None
    if data is None:
        where = Where(file=str(bucket.at if bucket else root))
        raise NotThereError("no committed dataset here", where=where, todo=to_run("preprocess", config=True))
    generation = _parse_pointer(path, data)
    if bucket:
        bucket.follow(data, [f"manifests/{name}" for name in _files_of(generation)])
    return generation


def _files_of(generation: int) -> tuple[str, str]:
    name = manifest_name(generation)
    return name.replace(".json", ".sources.json"), name


def _parse_pointer(path: Path, data: bytes) -> int:
    todo = f"{to_run('preprocess', config=True)} (it points CURRENT at the newest good manifest)"
    content = unseal(data, str(path), todo)
    with expected_form(str(path), todo):
        generation: int = content["generation"]
        if content != {"generation": generation, "manifest": manifest_name(generation)} or not 0 < generation < 10**8:
            raise ValueError(generation)
        return generation


@nothing_to_collect()
def load_manifest(root: Path, generation: int) -> Manifest:
    """One generation's manifest, checked against its own hash.

    Raises:
        NotThereError: it was never committed, or cleaned away.
        DamagedError: its bytes changed.
    """
    path = root / "manifests" / manifest_name(generation)
    try:
        with naming(path):
            data = read_committed(root, f"manifests/{path.name}")
    except FileNotFoundError:
        raise NotThereError(
            f"generation {generation} is not in the store",
            where=Where(file=str(path)),
            todo=f"Train afresh on the current generation ({command('train', config=True)})",
        ) from None
    todo = _repair(root, generation)
    return Manifest.from_json(unseal(data, str(path), todo), str(path), todo)


def _repair(root: Path, generation: int) -> str:
    """What mends a damaged manifest: preparing makes the current one again, an older one is lost."""
    with suppress(StoreError):
        if current_generation(root) != generation:
            return f"It cannot be made again; train afresh on the current generation. {to_run('train', config=True)}"
    return (
        f"{to_run('preprocess', config=True)} (it falls back to the newest good manifest and prepares what that lacks)"
    )
