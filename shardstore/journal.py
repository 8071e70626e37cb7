"""The file commits.jsonl tells people which generation came when.

Each line carries its own hash; the store depends on none of it.

Lines of older versions carry none, and are taken as they are.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.errors import DamagedError, StoreError, Where, counted
from dateshard.shardstore.identity import canonical, hash_bytes

NAME, HASH = "commits.jsonl", "xxh3_128"
UNHASHED = ["generation", "at", "pid", "dates", "statistics", "failed"]  # keys of a line of older versions


def append(root: Path, content: Mapping[str, Any]) -> None:
    """Adds a line.

    Raises:
        OSError
    """
    with open(root / NAME, "ab") as file:
        file.write(_line({**content, HASH: hash_bytes(canonical(content))}))


def verify_journal(root: Path) -> Iterator[tuple[str, StoreError | None]]:
    """Yields the file's name and None, or the name of each damaged line and what is wrong; nothing where no file lies."""
    path = root / NAME
    try:
        lines = _lines(path)
    except FileNotFoundError:
        return
    except OSError as error:
        yield NAME, StoreError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo="Check the disk")
        return
    damaged = [number for number, line in enumerate(lines, start=1) if not _is_good(line)]
    todo = f"{to_run('preprocess', config=True)} (it takes the line out, and keeps the old file in quarantine/)"
    for number in damaged:
        what = "the line is damaged or cut; no data depends on it"
        yield f"{NAME}, line {number}", DamagedError(what, where=Where(file=str(path), row=number), todo=todo)
    if not damaged:
        yield NAME, None


def take_out_damaged(root: Path) -> str:
    """Leaves the good lines, and the file as it was in quarantine/. Returns what a person should know of it, or ''."""
    path = root / NAME
    with suppress(OSError):
        lines = _lines(path)
        good = [line for line in lines if _is_good(line)]
        if len(good) < len(lines):
            kept = root / "quarantine" / f"commits-{uuid.uuid4().hex[:8]}.jsonl"
            replace_file(kept, b"".join(lines), durable=False)
            replace_file(path, b"".join(good), durable=False)
            return f"{path}: {counted(len(lines) - len(good), 'damaged line')} taken out; the file as it was: {kept}"
    return ""


def _lines(path: Path) -> list[bytes]:
    *whole, rest = path.read_bytes().split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def _is_good(line: bytes) -> bool:
    """Whether the bytes are those that were written; of a line without a hash, whether they could be."""
    try:
        content = json.loads(line)
        if _line(content) != line:
            return False
        if list(content) == UNHASHED:
            return True
        return bool(content.pop(HASH) == hash_bytes(canonical(content)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"
