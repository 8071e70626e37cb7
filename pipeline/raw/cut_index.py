"""A file of many dates, cut: what stands on disk of it (`cutting.py` makes it).

cut/<key>/index.json (sealed)   cut/<key>/<date>.arrow        key: the file's bytes and the settings that decide the cut
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.memory_shares import SPILL_FORMAT
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.identity import identity, unseal

PATH_NODE = "__node"  # column of a spill: the node that the file's path names
CODE = 2  # raised by hand when the same file and settings give other spills
TYPED_CODE = 3  # likewise of a file whose columns have types


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut as it stands on disk."""

    folder: Path
    files: tuple[Path, ...]
    dates: Mapping[
        dt.date, tuple[int, str, int]
    ]  # size, hash and rows of each spill; 0 rows where an older index is silent
    rows: RowCounts

    def dumps(self, *, typed: bool = False) -> dict[dt.date, Dump]:
        """The spills as dumps; messages name the file that they were cut from."""
        return {
            date: Dump(
                name=str(self.files[0]),
                size=size,
                hash=digest,
                file_names=(str(self.folder / f"{date}.arrow"),),
                hashes=(digest,),
                typed=typed,
                rows=rows,
            )
            for date, (size, digest, rows) in self.dates.items()
        }


def cut_key(config: Pipeline, whole: Dump) -> str:
    """Returns the key of a cut file, made of its content and the settings that decide the spills."""
    code = TYPED_CODE if whole.typed else CODE
    bounds = config.source.model_dump(mode="json", include={"dates"}, exclude_none=True)
    return identity([code, whole.hash, config.source.measuring(), config.raw_columns(), *bounds.values()])


def find_cut(root: Path, key: str) -> Cut | None:
    """The cut of that key, None if there is none that reads."""
    folder = root / "cut" / key
    try:
        content = unseal((folder / "index.json").read_bytes(), str(folder / "index.json"))
        spills = {dt.date.fromisoformat(date): spill for date, spill in content["dates"].items()}
        dates = {date: (size, digest, rows[0] if rows else 0) for date, (size, digest, *rows) in spills.items()}
        return Cut(folder, tuple(map(Path, content["files"])), dates, RowCounts(**content["rows"]))
    except (OSError, DamagedError, KeyError, TypeError, ValueError):
        return None


def cut_account(root: Path, dumps: Mapping[dt.date, Dump], config: Pipeline) -> dict[str, Any] | None:
    """What the sources file says of the file that the dumps were cut from, {files, rows}; None for no such file."""
    spill = next((dump.files[0] for dump in dumps.values()), None) if config.source.cut_first else None
    cut = find_cut(root, spill.parent.name) if spill else None
    return {"files": [str(path) for path in cut.files], "rows": asdict(cut.rows)} if cut else None


def spilled(config: Pipeline) -> Pipeline:
    """The configuration that reads spills instead of the file."""
    change = {"time": config.source.time_columns[-1], "time_format": "iso", "format": SPILL_FORMAT}
    change |= {"time_stamps": "start", "ambiguous": "refuse"}  # spills hold instants
    change |= {"node": PATH_NODE} if config.source.node_in_path else {}
    source = config.source.model_copy(update=change)
    return config.model_copy(update={"source": source})
