"""Which of somebody's own files are data, and the `pipeline.source.path` that names them all."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dateshard.pipeline.raw.dumps import NODE, STYLES, dated_name, files_below, find_dumps
from dateshard.pipeline.raw.formats import suffix_of
from dateshard.pipeline.spelling.path_dates import PLACEHOLDER
from dateshard.shardstore.errors import DumpError, UsageError, Where

NAMED = 0.5  # of the files: with a date in so many of their names, names tell the dates
BEFORE = re.compile(r".*[/}][ _.-]?")  # of a path: up to the last folder or date, and the mark behind it
BEHIND = re.compile(r"(?:[ _.-]?\{|\.|/).*")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFiles:
    """Raw files of one kind, and how a path names them.

    Attributes:
        path: names all of them; `*` stands for what differs between the files of a date, or of a table in several files.
        by_node: the same path with `{node}` for what differs; None where nothing differs, or more than one name.
        files: in the order of their dates, or of their names.
        dates: of the files by their names; none where names have no date.
        others: files beside them, of another form.
    """

    path: str
    by_node: str | None
    files: tuple[Path, ...]
    dates: tuple[dt.date, ...]
    others: tuple[Path, ...]


def own_files(place: Path, header_of: Callable[[Path], tuple[str, ...]]) -> OwnFiles:
    """Finds the data under a file or a folder.

    Args:
        header_of: the names of a file's columns, by which tables beside the data are told apart.

    Raises:
        UsageError: there is no such file or folder. DumpError: it holds no file of a known format.
    """
    if not place.exists():
        raise UsageError(f"there is no file or folder {place}", todo="Correct the path after --from")
    if not place.is_dir():
        return OwnFiles(path=str(place), by_node=None, files=(place,), dates=(), others=())
    files = [path for path in files_below(place) if path.is_file() and path.stat().st_size]
    known = Counter(suffix for path in files if (suffix := suffix_of(path)))
    if not known:
        todo = "Name them .csv, .jsonl, .parquet or .arrow (texts may be packed, as .csv.gz), or name one file alone"
        raise DumpError("no file in it has a known suffix", where=Where(file=str(place)), todo=todo)
    suffix = known.most_common(1)[0][0]
    same = [path for path in files if suffix_of(path) == suffix]
    dated = _dated(place, same)
    if len(dated) > NAMED * len(same):
        return _by_date(place, dated, [path for path in files if path not in dated])
    return _without_dates(place, same, [path for path in files if path not in same], header_of)


def _dated(place: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Returns {file: its path with a placeholder for the date}, of the spelling that most of the files have."""
    best: dict[Path, str] = {}
    for style in STYLES:
        named = {path: name for path in files if (name := _placeholders(str(path.relative_to(place)), style))}
        best = named if len(named) > len(best) else best
    return best


def _placeholders(name: str, style: str) -> str:
    """A path with `{date}` wherever the date stands in it that it names first; empty if it names none in that style."""
    first = dated_name(name, style)
    if not first:
        return ""
    before = first[: first.index("{date")]
    written = name[len(before) : len(name) - (len(first) - first.index("}") - 1)]
    return name.replace(written, f"{{date{style}}}")


def _by_date(place: Path, dated: dict[Path, str], others: Sequence[Path]) -> OwnFiles:
    names = sorted(set(dated.values()))
    joined = _joined(names)
    if joined is None:  # names of different make: those of the most frequent one alone
        most = Counter(dated.values()).most_common(1)[0][0]
        others = [*others, *(file for file, name in dated.items() if name != most)]
        joined = (most, None)
    path, by_node = str(place / joined[0]), None if joined[1] is None else str(place / joined[1])
    dumps = find_dumps(path)
    files = tuple(Path(file) for _, several in dumps.values() for file in several)
    dates = tuple(date for date, (_, several) in dumps.items() for _ in several)
    return OwnFiles(path=path, by_node=by_node, files=files, dates=dates, others=tuple(others))


def _without_dates(
    place: Path, files: Sequence[Path], others: Sequence[Path], header_of: Callable[[Path], tuple[str, ...]]
) -> OwnFiles:
    """The files with the columns that most bytes have, as one table or a file a node."""
    sizes: dict[tuple[str, ...], list[Path]] = {}
    for path in files:
        sizes.setdefault(header_of(path), []).append(path)
    chosen = max(sizes.values(), key=lambda some: sum(path.stat().st_size for path in some))
    others = [*others, *(path for path in files if path not in chosen)]
    if len(chosen) == 1:
        return OwnFiles(path=str(chosen[0]), by_node=None, files=tuple(chosen), dates=(), others=tuple(others))
    joined = _joined([str(path.relative_to(place)) for path in chosen])
    name, by_node = joined or (f"*{suffix_of(chosen[0])}", None)
    return OwnFiles(
        path=str(place / name),
        by_node=None if by_node is None else str(place / by_node),
        files=tuple(chosen),
        dates=(),
        others=tuple(others),
    )


def shared_start(texts: Sequence[str]) -> str:
    """What all of the texts begin with, character by character."""
    least, greatest = min(texts), max(texts)
    return least[
        : next((k for k, pair in enumerate(zip(least, greatest, strict=False)) if pair[0] != pair[1]), len(least))
    ]


def _joined(names: Sequence[str]) -> tuple[str, str | None] | None:
    """One path for several, as (with `*`, with `{node}`) for what differs; None where more than one name differs."""
    if len(names) == 1:
        return names[0], None
    first, last = shared_start(names), shared_start([name[::-1] for name in names])[::-1]
    before = match[0] if (match := BEFORE.match(first)) else ""
    behind = match[0] if (match := BEHIND.search(last)) else ""
    middles = [name[len(before) : len(name) - len(behind)] for name in names]
    if any(not middle or "/" in middle or PLACEHOLDER.search(middle) for middle in middles):
        return None
    return f"{before}*{behind}", f"{before}{NODE}{behind}"
