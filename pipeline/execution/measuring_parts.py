"""Measures a date in parts, one range of its nodes after the other: its grid is never held whole.

The dump is read once, its records are divided by nodes, and each part is reduced, measured and written by itself.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dateshard.pipeline.acts import (
    Measured,
    MeasuredFolder,
    joined_partials,
    partial_of_nodes,
    publish_measured,
    publish_partial,
    refuse_changed,
)
from dateshard.pipeline.arrays import by_raw_column, decoded_dump, reduce, reduced_parts, rows_of, staged_of
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.weights import weight_of
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.shardstore.commit import staging_folder
from dateshard.shardstore.layouts.category_codes import sorted_names
from dateshard.shardstore.layouts.records import NO_DUPLICATES, Duplicates
from dateshard.shardstore.measured import PART_VALUES
from dateshard.shardstore.scaling.partials import PartialStatistics

if TYPE_CHECKING:
    from dateshard.pipeline.raw.decode import Decoded


def measure_in_parts(
    root: Path,
    dump: Dump,
    date: dt.date,
    key: str,
    config: Pipeline,
    table_nodes: tuple[str, ...] | None,
    memory_bytes: int,
) -> Measured:
    """Measures one date as `measure_date` does; with more than `store.nodes_per_part` nodes it is staged with a file a part.

    Memory: `memory_bytes` where the grid of a part allows it.

    Raises:
        DumpError: as of `measure_date`, and records of one part that do not fit. ResourceError: a part's grid is too large.
    """
    with staging_folder(root) as spilled:
        most = config.store.nodes_per_part
        decoded = decoded_dump(dump, date, config, table_nodes, memory_bytes, spilled, most_nodes=most)
        parts = config.store.parts_of(len(decoded.nodes))
        if len(parts) == 1:
            staged = staged_of(decoded, config, reduce(decoded, config))
            refuse_changed(dump, date, config, decoded.hashes)
            return publish_measured(root, date, key, staged, config)
        with MeasuredFolder(root) as folder:
            written = _write(folder, date, decoded, config, parts)
            refuse_changed(dump, date, config, decoded.hashes)
            partial = publish_partial(root, date, key, joined_partials(written.partials), config)  # as measure_date
            rows = rows_of(decoded, config, written.duplicates, written.resets)
            shape = [decoded.day.num_steps, len(decoded.nodes), len(config.features)]
            receipt = {"nodes": list(decoded.nodes), "rows": rows, "key": key, "shape": shape, **written.described()}
            staged_folder = folder.publish(root / "staged" / str(date) / key, receipt)
    return Measured(
        date=date,
        key=key,
        rows=rows,
        weight=written.weight,
        folders=(staged_folder, *([partial] if partial else [])),
        conflicts=by_raw_column(written.duplicates, config),
        unknown_nodes=Strangers.of(decoded.strangers, decoded.nodes),
    )


@dataclass(slots=True, kw_only=True)
class _Written:
    """What is known of the parts that were written; small, whatever their size."""

    widths: list[int] = field(default_factory=list)
    vocabularies: list[Mapping[str, Sequence[str]]] = field(default_factory=list)
    partials: list[PartialStatistics | None] = field(default_factory=list)
    duplicates: Duplicates = NO_DUPLICATES
    resets: Counter[str] = field(default_factory=Counter)
    weight: int = 0

    def described(self) -> dict[str, Any]:
        """Gives widths and vocabularies, as the receipt holds them: each part has codes of its own vocabulary."""
        places = self.vocabularies[0]
        whole = {place: sorted_names({n for own in self.vocabularies for n in own[place]}) for place in places}
        own = [{place: list(names) for place, names in own.items()} for own in self.vocabularies]
        named = {"vocabularies": {place: list(names) for place, names in whole.items()}} if whole else {}
        return {"parts": self.widths, "part_vocabularies": own, **named}


def _write(
    folder: MeasuredFolder, date: dt.date, decoded: Decoded, config: Pipeline, parts: Sequence[tuple[int, int]]
) -> _Written:
    """Reduces and writes one part after the other."""
    written, num_nodes = _Written(), len(decoded.nodes)
    for number, reduced in enumerate(reduced_parts(decoded, config, parts)):
        staged = staged_of(decoded, config, reduced)
        values = np.ascontiguousarray(staged.values_TNF, dtype="<f8")
        written.partials.append(partial_of_nodes(values, date, {}, config, staged.nodes, num_nodes))
        folder.add(PART_VALUES.format(number), values)
        written.widths.append(values.shape[1])
        written.vocabularies.append(staged.vocabularies)
        written.duplicates = written.duplicates.and_of(reduced.duplicates)
        written.resets.update(reduced.resets)
        written.weight += weight_of(values, staged.rows, config, first_part=number == 0)
    return written
