"""What a plan looks at: dumps with their hashes, staged keys, the node table. Reads, never writes.

A dump is hashed once: `dumps.json` remembers (size, times, inode) -> hash. It is a sealed cache: damaged it is
ignored and written anew, and nothing is believed of it that a `stat` does not confirm.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.plan import Observed, ToCut
from dateshard.pipeline.planning.remarks import change_text, size_text
from dateshard.pipeline.raw.cut_index import Cut, cut_key, find_cut
from dateshard.pipeline.raw.dumps import NODE, Dump, find_dumps, find_files, is_typed, no_match, node_of
from dateshard.pipeline.raw.edge_file import EdgeRows, read_edges
from dateshard.pipeline.raw.node_table import NodeRows, read_nodes
from dateshard.pipeline.raw.object_files import copy_of, digest_of, facts_of, hash_objects, held
from dateshard.pipeline.raw.public_holidays import is_holiday
from dateshard.pipeline.source import NodeTable, Source
from dateshard.shardstore.commit import Committed, content_of
from dateshard.shardstore.disk.durable import appearing, disk_full_as_error
from dateshard.shardstore.errors import DamagedError, StoreError
from dateshard.shardstore.frozen import Nodes, merged_dates
from dateshard.shardstore.frozen.static_columns import StaticTable
from dateshard.shardstore.identity import expected_form, hash_file, identity, nothing_to_collect, seal, stamp_of, unseal
from dateshard.shardstore.objects.bucket_store import bucket_of
from dateshard.shardstore.objects.object_store import ObjectFacts, ObjectName, is_remote, path_of
from dateshard.shardstore.sources import Sources
from dateshard.shardstore.times.calendar import UNDATED

Cache = dict[str, list[Any]]
HashNew = Callable[[Sequence[str]], Cache]  # of files that nobody saw yet; one that cannot be read is left out


@dataclass(frozen=True, slots=True)
class AboutNodes:
    """What the configuration says of nodes: the node table, and the file of edges; None where there is none.

    `lists`: the table lists the nodes, it does not merely describe those that are found.
    """

    table: NodeRows | None
    edges: EdgeRows | None
    lists: bool

    @property
    def nodes(self) -> Nodes | None:
        """The nodes that a table lists."""
        return self.table.nodes if self.table and self.lists else None

    def placed(self, names: Sequence[str]) -> Nodes:
        """Nodes that were found, in this order, with the positions that a table has of them."""
        return (
            self.table.nodes.positions_of(names) if self.table else Nodes(tuple(names), (), np.empty((len(names), 0)))
        )

    @property
    def static(self) -> StaticTable:
        """The static columns of a node table."""
        return self.table.static if self.table else StaticTable()


@nothing_to_collect()
def observe(
    config: Pipeline, root: Path, current: Committed | None, hash_new: HashNew | None = None
) -> tuple[Observed, AboutNodes, Cache]:
    """Everything that `make_plan` needs, what the configuration says of nodes, and the cache of dump hashes as it is now.

    Args:
        hash_new: hashes the dumps of dates that nobody saw yet, if not one after the other.
    """
    if config.calendar:
        is_holiday(UNDATED, config.calendar.country, config.calendar.subdivision)  # refused before anything is read
    cache, fresh = _read_cache(root), Cache()
    dumps, to_cut = _dumps(config, root, cache, fresh, hash_new)
    about = AboutNodes(_table(config.nodes), None, lists=config.lists_nodes)
    edges = _edges(config.nodes)
    if edges and about.nodes:
        edges.refuse_unknown(about.nodes.names)
    seen = Observed(
        manifest=current.manifest if current else None,
        sources=current.sources if current else Sources(),
        staged=StagedKeys(root, current.sources if current else Sources()),
        dumps=dumps,
        node_names=about.nodes.names if about.nodes else None,
        nodes_id=about.nodes.id if about.nodes else None,
        static_id=about.static.id,
        edges_id=edges.edges.id if edges else "",
        to_cut=to_cut,
        no_match=no_match(config.source.path) if not dumps and to_cut is None else "",
        merged=_merged(root, current) if current else (),
    )
    return seen, replace(about, edges=edges), fresh


def _merged(root: Path, current: Committed) -> tuple[dt.date, ...]:
    try:
        return merged_dates(root, current.manifest.statistics)
    except StoreError:  # damaged: what needs them says so
        return ()


def _table(nodes: NodeTable | None) -> NodeRows | None:
    if nodes is None or nodes.table is None:
        return None
    with held([path_of(nodes.table)]) as (path,):
        return read_nodes(nodes.model_copy(update={"table": str(path)}))


def _edges(nodes: NodeTable | None) -> EdgeRows | None:
    if nodes is None or nodes.edges is None:
        return None
    with held([path_of(nodes.edges)]) as (path,):
        return replace(read_edges(str(path)), path=path_of(nodes.edges))


def _dumps(
    config: Pipeline, root: Path, cache: Cache, fresh: Cache, hash_new: HashNew | None = None
) -> tuple[dict[dt.date, Dump], ToCut | None]:
    if config.source.undated:
        whole = whole_file(config, cache, fresh)
        return {UNDATED: whole} if whole else {}, None
    if not config.source.cut_first:
        paths = find_dumps(config.source.path)
        source = config.source
        every = [name for _, several in paths.values() for name in several]
        if is_remote(source.path):
            names = map(ObjectName, every)
            hash_objects(name for name in names if not _is_known(facts_of(name), cache.get(str(name))))
        elif hash_new:
            new = [name for name in every if name not in cache]
            cache |= hash_new(new) if len(new) > 1 else {}
        return {date: _dump(path, files, source, cache, fresh) for date, (path, files) in paths.items()}, None
    whole = whole_file(config, cache, fresh)
    if whole is None:
        return {}, None
    if cut := whole_cut(config, root, whole, cache, fresh):
        return cut.dumps(typed=whole.typed), None
    return {}, ToCut(whole, _why_cut(config, root, whole, cache))


def whole_cut(config: Pipeline, root: Path, whole: Dump, cache: Cache, fresh: Cache) -> Cut | None:
    """The cut of a file of many dates as it is now; None if it must be cut (again): spills are hashed at first sight."""
    cut = find_cut(root, cut_key(config, whole))
    for dump in cut.dumps().values() if cut else ():
        try:
            size, digest, fresh[dump.file_names[0]] = _hashed(dump.file_names[0], cache)
        except OSError:
            return None
        if (size, digest) != (dump.size, dump.hash):
            return None
    return cut


def _why_cut(config: Pipeline, root: Path, whole: Dump, cache: Cache) -> str:
    """Why there is no cut of the file as it is now. Its size when it was cut last is known from the cache alone."""
    name, size = f"{whole.path}", size_text(whole.size)
    key = cut_key(config, whole)
    if (root / "cut" / key).exists():
        return f"the files that {name} ({size}) was divided into are damaged: it will be divided again"
    folders = (root / "cut").iterdir() if (root / "cut").is_dir() else ()
    older = [find_cut(root, folder.name) for folder in folders]
    if not any(cut.files == whole.files for cut in older if cut):
        return f"{name} ({size}) is not divided by date yet: preprocess divides it first, in one pass"
    before = [cache.get(str(file)) or [0, 0, 0, 0, ""] for file in whole.files]
    if [row[4] for row in before] == list(whole.hashes):
        return f"{name} ({size}) was divided with other settings: it will be divided again"
    return f"{name} changed ({change_text(sum(row[0] for row in before), whole.size)}): it will be divided again"


def uncut(config: Pipeline, root: Path) -> Dump | None:
    """The file of many dates that must be cut before its dates are known."""
    _, to_cut = _dumps(config, root, _read_cache(root), {}) if config.source.cut_first else ({}, None)
    return to_cut.whole if to_cut else None


def whole_file(config: Pipeline, cache: Cache | None = None, fresh: Cache | None = None) -> Dump | None:
    """The file or files of many dates as one dump, None if there is none."""
    files = tuple(map(str, find_files(config.source.path)))
    path = str(path_of(config.source.path))
    return _dump(path, files, config.source, cache or {}, {} if fresh is None else fresh) if files else None


def dump_at(config: Pipeline, date: dt.date) -> Dump | None:
    """The dump of one date as it is now; None if there is none. Of a file of many dates only that of undated rows."""
    if config.source.undated:
        return whole_file(config)
    paths = find_dumps(config.source.path)
    return _dump(*paths[date], config.source, {}, {}) if date in paths else None


def _dump(path: str, files: tuple[str, ...], source: Source, cache: Cache, fresh: Cache) -> Dump:
    """The files as they are now. Where their paths name nodes, those are a part of what the dump says."""
    size, hashes, here = 0, [], list[str]()
    for name in files:
        try:
            num_bytes, digest, fresh[name] = _hashed(name, cache)
        except OSError:  # measuring it tells why, and only this date fails
            num_bytes, digest, fresh[name] = 0, "unreadable", []
        size += num_bytes
        hashes.append(digest)
        here.append(str(copy_of(ObjectName(name), digest)) if is_remote(name) and fresh[name] else name)
    named = [node_of(path_of(name), source.path) for name in files] if NODE in source.path else []
    whole = hashes[0] if len(hashes) == 1 and not named else identity([*hashes, *named])
    return Dump(
        name=path,
        size=size,
        hash=whole,
        file_names=tuple(here),
        hashes=tuple(hashes),
        typed=is_typed(files, source.format),
    )


def _hashed(name: str, cache: Cache) -> tuple[int, str, list[Any]]:
    if is_remote(name):
        return _hashed_object(ObjectName(name), cache)
    stamp, known = stamp_of(os.stat(name)), cache.get(name)
    row = known if known and known[:4] == stamp else stamped_hash(name)
    return row[0], row[4], row


def stamped_hash(name: str) -> list[Any]:
    """The row of a file in the cache of hashes. The file is looked at first: a hash is never older than its times.

    Raises:
        OSError: it cannot be read.
    """
    return [*stamp_of(os.stat(name)), hash_file(name)[1]]


def _is_known(facts: ObjectFacts, row: list[Any] | None) -> bool:
    return row is not None and row[:2] == [facts.size, facts.tag]


def _hashed_object(name: ObjectName, cache: Cache) -> tuple[int, str, list[Any]]:
    """Hashes an object: what its store says of it stands for a file's times, and only a new one is downloaded."""
    facts = facts_of(name)
    known = cache.get(str(name))
    digest = known[4] if known and _is_known(facts, known) else digest_of(name)
    return facts.size, digest, [facts.size, facts.tag, 0, 0, digest]


class StagedKeys(dict[dt.date, frozenset[str]]):
    """Keys by date, looked up when they are asked for and then kept: of most dates nobody asks."""

    def __init__(self, root: Path, sources: Sources | None = None) -> None:
        """Begins with none; a store in a bucket has those that its sources file names, whatever this machine has."""
        super().__init__()
        self._root = root
        self._there = sources.dates if sources and bucket_of(root) else {}

    def __missing__(self, date: dt.date) -> frozenset[str]:
        there = {self._there[date].staged} - {""} if date in self._there else set()
        try:
            with os.scandir(self._root / "staged" / str(date)) as entries:
                self[date] = frozenset(there | {content_of(entry.name) for entry in entries})
        except FileNotFoundError:
            self[date] = frozenset(there)
        return self[date]


def _read_cache(root: Path) -> Cache:
    path = root / "dumps.json"
    try:
        content = unseal(path.read_bytes(), str(path))
        with expected_form(str(path)):
            return {name: [*row[:4], row[4]] if row else [] for name, row in content.items()}
    except (OSError, DamagedError):
        return {}


def write_cache(root: Path, cache: Cache) -> None:
    """Replaces dumps.json if it changed; losing it only costs hashing."""
    path, data = root / "dumps.json", seal(cache)
    with disk_full_as_error(path):
        if path.is_file() and path.read_bytes() == data:
            return
        with appearing(path, root / "staging" / "dumps.json", durable=False) as temporary:
            temporary.write_bytes(data)
