"""Which dumps there are: a file, several files or a folder a date."""

from __future__ import annotations

import datetime as dt
import difflib
import glob
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dateshard.pipeline.config import MEASURE_CODE, TYPED_CODE
from dateshard.pipeline.raw.object_files import files_under, names_matching, no_object
from dateshard.pipeline.spelling.path_dates import PLACEHOLDER, refuse_pattern
from dateshard.shardstore.errors import UsageError, shorten
from dateshard.shardstore.objects.object_store import ObjectName, is_remote, path_of

NODE = "{node}"
FIELD = re.compile(rf"{PLACEHOLDER.pattern}|{re.escape(NODE)}")
ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
DATED = re.compile(r"(?<!\d)(?:19|20)\d\d(-?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)")
STYLES = ("", ":%Y%m%d", ":%Y_%m_%d", ":%d-%m-%Y", ":%d.%m.%Y", ":%m-%d-%Y", ":%y%m%d")  # that people name dumps by
DIGITS = {
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%m": r"\d{1,2}",
    "%d": r"\d{1,2}",
    "%j": r"\d{1,3}",
}  # as strptime takes them
SHOWN_NAMES = 3
LISTED = 4  # names of a folder at least, on average, to list folders for what is a plain file
LOOKED_AT = 20  # names of a folder, for how they write their dates
TYPED = (".parquet", ".pq", ".arrow", ".ipc", ".feather")  # suffixes of files whose columns have types
HIDDEN = (".", "_")  # what writers leave beside data: _SUCCESS, _temporary, .part.crc
ONE_NODE = "node"  # where nothing names nodes, nor the configuration the one that there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """One date's raw files as they are now. Paths are made when they are asked for: of most of thousands nobody asks.

    Attributes:
        name: what messages name: the file, or the folder.
        size: bytes of all files.
        hash: of all their bytes, in order.
        file_names: in the order in which their rows count.
        hashes: of each file.
        typed: its columns have types; of a spill, those of the file that it was cut from.
        rows: of a spill; 0 where it is not known.
    """

    name: str
    size: int
    hash: str
    file_names: tuple[str, ...]
    hashes: tuple[str, ...]
    typed: bool = False
    rows: int = 0

    @property
    def path(self) -> Path:
        """The file or folder that messages name, as a path."""
        return path_of(self.name)

    @property
    def files(self) -> tuple[Path, ...]:
        """The raw files as paths, in the order in which their rows count."""
        return tuple(map(path_of, self.file_names))

    @property
    def code(self) -> int:
        """Which code measures it."""
        return TYPED_CODE if self.typed else MEASURE_CODE


def is_one_file(pattern: str) -> bool:
    """Whether a path names one file of many dates."""
    return PLACEHOLDER.search(pattern) is None


def find_files(pattern: str) -> tuple[Path, ...]:
    """The file or files of many dates that a path without a date names, in order of name."""
    return tuple(file for name in _names(pattern) for file in files_below(path_of(name)))


def _names(pattern: str) -> list[str]:
    """What matches a path, in order of name: of files and folders here, or of objects."""
    if is_remote(pattern):
        return names_matching(pattern, _expression(pattern))
    return sorted(glob.glob(_wildcard(pattern), include_hidden=False))


def one_table(pattern: str, files: Sequence[Path]) -> str:
    """Tells what a path without a date is taken for: one table of many dates.

    If it names a folder or several files, it also says what may be meant instead. Empty where the path is that of one file."""
    if len(files) < 2 and Path(pattern) == next(iter(files), None):
        return ""
    many = f"its {len(files):,} files are" if len(files) > 1 else "its one file is"
    taken_for = f"{pattern} has no {{date}} in it: {many} read as one table of many dates"
    dated = (DATED.sub(_placeholder, str(file)) for file in files)
    meant = next((path for path in dated if "{date" in path), None)
    return f"{taken_for}. For a dump a date write pipeline.source.path: {meant}" if meant else taken_for


def _placeholder(match: re.Match[str]) -> str:
    return "{date}" if "-" in match[0] else "{date:%Y%m%d}"


def is_typed(file_names: Sequence[str], file_format: str) -> bool:
    """Whether the columns of a dump have types, by `pipeline.source.format` or its first file's suffix."""
    if file_format != "auto":
        return file_format in ("parquet", "arrow")
    return bool(file_names) and file_names[0].lower().endswith(TYPED)


def find_dumps(pattern: str) -> dict[dt.date, tuple[str, tuple[str, ...]]]:
    """Returns {date: (path, files)} of what matches a path with `{date}` or `{date:%Y%m%d}`, perhaps `{node}` or `*`.

    Both are spelled as `Path` spells them. A folder stands for all files below it, in order of name.

    Raises:
        UsageError: a date that is none, or two files of one date where the path has no `*`.
    """
    refuse_pattern(pattern)
    style = next(PLACEHOLDER.finditer(pattern))[1] or "%Y-%m-%d"
    by_date: dict[dt.date, list[tuple[str, str]]] = {}
    expression, names, has_node = _expression(pattern), _names(pattern), NODE in pattern
    as_spelled = str(path_of(pattern)) == pattern  # then so is each name
    for name in names:
        match = expression.fullmatch(name)
        if match and (date := _date_in(match, style)) is not None:
            spelled = name if as_spelled else str(path_of(name))
            by_date.setdefault(date, []).append((match["node"] if has_node else "", spelled))
    plain = _plain_files(names)
    return {
        date: (matches[0][1], (matches[0][1],))
        if len(matches) == 1 and not has_node and matches[0][1] in plain
        else _one_dump(pattern, date, [(node, path_of(name)) for node, name in matches])
        for date, matches in by_date.items()
    }


def _plain_files(names: Sequence[str]) -> set[str]:
    """Names of plain files, as the listings of their folders tell; not where listing costs more than a look at each."""
    folders = {name.rpartition("/")[0] for name in names}
    files = set[str]()
    for folder in folders if LISTED * len(folders) <= len(names) else ():
        with suppress(OSError), os.scandir(folder or ".") as entries:
            above = f"{folder}/" if folder else ""
            files |= {above + entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    return files


def _one_dump(pattern: str, date: dt.date, matches: Sequence[tuple[str, Path]]) -> tuple[str, tuple[str, ...]]:
    """Returns (what messages name, files in order) of a date's matches, under the node that their path names."""
    nodes: dict[str, list[Path]] = {}
    for node, path in matches:
        nodes.setdefault(node, []).append(path)
    paths = sorted((path for _, path in matches), key=str) if len(nodes) > 1 else [path for _, path in matches]
    twice = next((some for some in nodes.values() if len(some) > 1), None)
    if twice and "*" not in pattern:
        raise UsageError(f"two dumps of {date}: {twice[0]} and {twice[1]}", todo="Keep one of them")
    files = tuple(str(file) for path in paths for file in files_below(path))
    if NODE in pattern:
        return str(path_of(place_of(pattern, date))), files
    return str(paths[0].parent if twice else paths[0]), files


def node_of(path: Path, pattern: str) -> str | None:
    """The node that the path of a file, or of a folder above it, names where `{node}` stands in the pattern.

    A path elsewhere is held against the pattern's parts from the first `{node}` or date on.
    """
    parts = Path(pattern).parts
    first = next(index for index, folder in enumerate(parts) if FIELD.search(folder))
    for form in (parts, parts[first:]):
        expression = _expression(str(Path(*form)))
        for place in (path, *path.parents):
            tail = place if form is parts else Path(*place.parts[-len(form) :])
            if match := expression.fullmatch(str(tail)):
                return match["node"]
    return None


def no_match(pattern: str) -> str:
    """Tells in which folder a path leads nowhere, and what in it is near; for who named one that nothing matches."""
    if is_remote(pattern):
        return no_object(pattern)
    what = f"{pattern}: no dump matches the path: {_near(pattern)}"
    ways = (_in_other_styles, _in_names_there) if not is_one_file(pattern) else ()
    for paths in ways:
        dates = {path: _num_dates(path) for path in paths(pattern)}
        meant = max(dates, key=dates.__getitem__, default="")
        if meant and (count := dates[meant]):
            return f"{what}; did you mean {meant} ({count:,} {'date' if count == 1 else 'dates'})?"
    return what


def _in_other_styles(pattern: str) -> list[str]:
    """The path with its date written as people write dates in names."""
    return [PLACEHOLDER.sub(f"{{date{style}}}", pattern) for style in STYLES]


def _in_names_there(pattern: str) -> list[str]:
    """Paths of what lies in the folder: its first names with the date in them, if there is one, as a placeholder."""
    folder, name = os.path.split(pattern)
    if FIELD.search(folder) or not PLACEHOLDER.search(name):
        return []
    there = sorted(glob.glob(os.path.join(_wildcard(folder), "*")))[:LOOKED_AT]
    dated = (dated_name(os.path.basename(path), style) for path in there for style in STYLES)
    return [os.path.join(folder, other) for other in dict.fromkeys(dated) if other]


def dated_name(name: str, style: str) -> str:
    """The name with `{date}` in that style for the date that it holds; empty if it holds none so written."""
    form = style[1:] or "%Y-%m-%d"
    for match in re.finditer(rf"(?<!\d)(?P<date>{_written(form)})(?!\d)", name):
        date = _date_in(match, form)
        if date is not None and date.strftime(form) == match["date"]:
            return f"{name[: match.start()]}{{date{style}}}{name[match.end() :]}"
    return ""


def _num_dates(pattern: str) -> int:
    """How many dates a path finds, those alone whose names are written in its style: 2013 is no %y%m%d."""
    style = next(PLACEHOLDER.finditer(pattern))[1] or "%Y-%m-%d"
    try:
        dumps = find_dumps(pattern)
    except UsageError:  # one date twice
        return 0
    return sum(date.strftime(style) in path for date, (path, _) in dumps.items())


def _near(pattern: str) -> str:
    """What lies where the first part of the path that leads nowhere should lie, the most alike first."""
    parts, folder, depth = Path(pattern).parts, Path(), 0
    for depth in range(1, len(parts)):
        matches = sorted(glob.glob(_wildcard(str(Path(*parts[:depth]))), include_hidden=False))
        if not (inside := [match for match in matches if os.path.isdir(match)]):
            break
        folder = Path(inside[0])
    else:
        depth = len(parts)
    lacking = parts[depth - 1]
    try:
        names = [name for name in sorted(os.listdir(folder)) if not name.startswith(HIDDEN)]
    except OSError as error:
        return f"{folder.absolute()} cannot be looked into ({error.strerror})"
    if not names:
        return f"{folder.absolute()} is empty"
    wanted = PLACEHOLDER.sub("2024-03-05", lacking)
    alike = [*difflib.get_close_matches(wanted, names, n=SHOWN_NAMES, cutoff=0.5), *names]
    shown = [*map(shorten, dict.fromkeys(alike))][:SHOWN_NAMES] + (["..."] if len(names) > SHOWN_NAMES else [])
    return f"there is no {lacking} in {folder.absolute()}, which holds {', '.join(shown)}"


def date_of(path: Path, pattern: str) -> dt.date | None:
    """The date that a path's names tell: as `pattern` spells it, else as 2013-03-05 or 20130305 in its last name."""
    matches = list(PLACEHOLDER.finditer(pattern))
    parts = [folder for folder in Path(pattern).parts if PLACEHOLDER.search(folder)]
    style = (matches[0][1] or "%Y-%m-%d") if matches else ""
    if matches and len({match[1] for match in matches}) == 1:
        tail = Path(*Path(pattern).parts[Path(pattern).parts.index(parts[0]) :])
        for form in (str(tail), *parts):
            end_of_path = Path(*path.parts[-len(Path(form).parts) :])
            match = _expression(form).fullmatch(str(end_of_path))
            if match and (date := _date_in(match, style)):
                return date
    for dated in DATED.finditer(path.name):
        with suppress(ValueError):  # no day of its month
            return dt.date.fromisoformat(dated[0])
    return None


def place_of(pattern: str, date: dt.date) -> str:
    """Where a date's dump would lie."""
    return PLACEHOLDER.sub(lambda match: date.strftime(match[1] or "%Y-%m-%d"), pattern)


def _wildcard(pattern: str) -> str:
    """The pattern for glob: the user's own `*` stay, everything else is taken as it is."""
    parts = re.split(r"(\{date(?::[^}]+)?\}|\{node\}|\*)", pattern)
    return "".join("*" if piece == "*" or FIELD.fullmatch(piece) else glob.escape(piece) for piece in parts)


def _expression(pattern: str) -> re.Pattern[str]:
    """Matches names by a pattern, with their date and node as groups: the same ones at every place."""
    expression, at, groups = "", 0, set[str]()
    for match in FIELD.finditer(pattern):
        group = "node" if match[0] == NODE else "date"
        written = "[^/]+" if group == "node" else _written(match[1] or "%Y-%m-%d")
        field = f"(?P={group})" if group in groups else f"(?P<{group}>{written})"
        expression += _literal(pattern[at : match.start()]) + field
        at, groups = match.end(), groups | {group}
    return re.compile(expression + _literal(pattern[at:]))


def _written(style: str) -> str:
    """A regular expression of dates in that style: `{date}*.csv` must know where the date ends."""
    parts = re.split(r"(%.)", style)
    known = all(directive in DIGITS for directive in parts[1::2])
    return "".join(DIGITS.get(directive) or re.escape(directive) for directive in parts) if known else ".+?"


def _date_in(match: re.Match[str], style: str) -> dt.date | None:
    """The date in a name that matched; None if what stands there is none."""
    text = match["date"]
    try:
        if style == "%Y-%m-%d" and ISO.fullmatch(text):  # strptime takes 40 us
            return dt.date.fromisoformat(text)
        return dt.datetime.strptime(text, style).date()
    except ValueError:
        return None


def _literal(text: str) -> str:
    return "[^/]*".join(re.escape(literal) for literal in text.split("*"))


def files_below(path: Path) -> list[Path]:
    """The file, or all files below the folder, in order of name.

    What cannot be looked into, or leads nowhere, is among them: reading it tells, and no row is lost in silence.
    """
    if isinstance(path, ObjectName):
        return files_under(path)
    if not os.path.isdir(path):
        return [path]
    files, closed = list[Path](), list[OSError]()
    for folder, below, names in os.walk(path, onerror=closed.append, followlinks=True):
        below[:] = [name for name in below if not name.startswith(HIDDEN)]
        inside = (Path(folder, name) for name in names if not name.startswith(HIDDEN))
        files += [file for file in inside if file.is_file() or file.is_symlink()]
    return sorted([*files, *(Path(error.filename) for error in closed)])
