"""Raw dumps that a forecast is made from: files, folders or patterns, by date."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from dateshard.pipeline.arrays import StagedDate, stage
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.memory_shares import FREE_SHARE
from dateshard.pipeline.planning.observe import whole_file
from dateshard.pipeline.raw.cut_index import spilled
from dateshard.pipeline.raw.dumps import Dump, date_of, find_dumps, find_files, is_one_file, no_match, place_of
from dateshard.shardstore.commands import by_door
from dateshard.shardstore.errors import DumpError, UsageError, Where
from dateshard.shardstore.objects.object_store import is_remote, path_of
from dateshard.shardstore.times.calendar import UNDATED

Names = tuple[str, ...] | None  # of a node table; None where nodes are found


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """The raw files of a history by date; those of `cut` are spills of a file of many dates.

    Attributes:
        config: how dumps are read. folder: of spills, and of records that do not fit into memory. names: as given.
    """

    config: Pipeline
    dumps: Mapping[dt.date, Dump]
    cut: frozenset[dt.date]
    folder: Path
    names: tuple[str, ...]

    def place_of(self, date: dt.date) -> Where:
        """Where a date's dump was looked for."""
        pattern = next((name for name in self.names if not is_one_file(name)), None)
        return Where(file=place_of(pattern, date)) if pattern else Where(date=date)

    def stage(self, date: dt.date, table_nodes: Names, *, keep_places: bool = False) -> StagedDate:
        """One date, decoded and reduced; as `dateshard.pipeline.arrays.stage`."""
        config = spilled(self.config) if date in self.cut else self.config
        memory = int(FREE_SHARE * psutil.virtual_memory().available)
        folder = self.folder / f"records-{date}"
        return stage(self.dumps[date], date, config, table_nodes, memory, folder, keep_places=keep_places)


@contextmanager
def raw_files(names: Sequence[str], config: Pipeline) -> Iterator[Raw]:
    """The dates that files, folders, or patterns with `{date}` hold.

    A name tells its date by `pipeline.source.path`, or by a 2013-03-05 or 20130305 in it; a file whose name tells none
    is cut by the times of its rows, in a temporary folder.

    Raises:
        DumpError: nothing matches, or holds a row. UsageError: two of them hold the same date.
    """
    with tempfile.TemporaryDirectory(prefix="dateshard-") as temporary:
        dumps, cut = dict[dt.date, Dump](), set[dt.date]()
        for number, name in enumerate(names):
            matches, spills = _found(name, config, Path(temporary) / str(number))
            for date, dump in matches.items():
                if date in dumps:
                    what = f"two of the histories hold {date}: {dumps[date].path} and {dump.path}"
                    raise UsageError(what, todo="Name one of them, or a folder with the files of that date")
                dumps[date] = dump
            cut |= spills
        if not dumps:
            raise DumpError(
                "the file has no row of any date", where=Where(file=names[0]), todo=f"Check {history_option()}"
            )
        yield Raw(config=config, dumps=dumps, cut=frozenset(cut), folder=Path(temporary), names=tuple(names))


def _found(name: str, config: Pipeline, folder: Path) -> tuple[dict[dt.date, Dump], frozenset[dt.date]]:
    """Returns ({date: dump} of one --history, which of them are spills)."""
    if not is_one_file(name):
        matches = find_dumps(name)
        if not matches:
            raise _nothing(name)
        return {
            date: Dump(name=path, size=0, hash="", file_names=files, hashes=())
            for date, (path, files) in matches.items()
        }, frozenset()
    files = find_files(name)
    if not files or not all(is_remote(file) or file.exists() for file in files):
        raise _nothing(name)
    date = date_of(path_of(name), config.source.path) or (None if config.source.time_columns else UNDATED)
    if date is not None:
        dump = Dump(name=str(path_of(name)), size=0, hash="", file_names=tuple(map(str, files)), hashes=())
        return {date: dump}, frozenset()
    if Path(name).is_dir():
        todo = "Name its files, or a pattern such as FOLDER/{date}.csv"
        raise UsageError("the folder's name has no date", where=Where(file=name), todo=todo)
    from dateshard.pipeline.raw.cutting import cut

    alone = config.model_copy(update={"source": config.source.model_copy(update={"path": name, "dates": None})})
    (folder / "staging").mkdir(parents=True)
    whole = whole_file(alone)
    assert whole is not None, "its files were found above"
    dumps = cut(folder, alone, whole).dumps()
    return dumps, frozenset(dumps)


def _nothing(name: str) -> DumpError:
    return DumpError(no_match(name), todo=f"Check {history_option()}; {{date}} stands for every date")


def history_option() -> str:
    """The option or argument that names the dumps."""
    return by_door("--history", "history")
