"""What a plan looks at: dumps with their hashes, staged keys, the node table. Reads, never writes.

A dump is hashed once: `dumps.json` remembers (size, times, inode) -> hash. It is a sealed cache: damaged it is
ignored and written anew, and nothing is believed of it that a `stat` does not confirm.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

from pipeline.config import Pipeline
from pipeline.plan import Dump, Observed
from pipeline.sources import find_dumps, read_nodes
from shardstore.commit import Committed
from shardstore.durable import disk_full_as_error
from shardstore.errors import DamagedError
from shardstore.frozen import Nodes
from shardstore.identity import expected_form, hash_file, seal, unseal

Cache = dict[str, list[Any]]


def observe(config: Pipeline, root: Path, current: Committed | None) -> tuple[Observed, Nodes | None, Cache]:
    """Everything that `make_plan` needs, the node table, and the cache of dump hashes as it is now."""
    cache = _read_cache(root)
    dumps, fresh = {}, {}
    for date, path in find_dumps(config.source.path).items():
        dumps[date], fresh[str(path)] = _dump(path, cache)
    table = read_nodes(config.nodes) if config.nodes else None
    seen = Observed(
        manifest=current.manifest if current else None,
        sources=current.sources if current else {},
        staged={
            date: _staged(root, date) for date in sorted(set(dumps) | set(current.manifest.dates if current else ()))
        },
        dumps=dumps,
        node_names=table.names if table else None,
        nodes_id=table.id if table else None,
    )
    return seen, table, fresh


def _dump(path: Path, cache: Cache) -> tuple[Dump, list[Any]]:
    try:
        return _hashed(path, cache)
    except OSError:  # measuring it tells why, and only this date fails
        return Dump(path, 0, "unreadable"), []


def _hashed(path: Path, cache: Cache) -> tuple[Dump, list[Any]]:
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
    known = cache.get(str(path))
    digest = known[4] if known and known[:4] == stamp else hash_file(path)[1]
    return Dump(path, status.st_size, digest), [*stamp, digest]


def _staged(root: Path, date: dt.date) -> frozenset[str]:
    try:
        with os.scandir(root / "staged" / str(date)) as found:
            return frozenset(entry.name.split("-")[0] for entry in found)
    except FileNotFoundError:
        return frozenset()


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
        temporary = root / "staging" / "dumps.json"
        temporary.write_bytes(data)
        temporary.replace(path)
