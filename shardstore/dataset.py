"""A read-only view of one generation. Nothing is believed because it is there: size and hash before first use.

Opening reads CURRENT, FORMAT and one manifest; nothing per date. A date's file is hashed whole at first touch and
then remembered by inode, size and times, so that a second epoch costs one `fstat` a file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import load_sources, sources_path
from dateshard.shardstore.errors import DamagedError, NotThereError, StoreError, Where
from dateshard.shardstore.frozen import (
    Nodes,
    Vocabularies,
    load_new_nodes,
    load_nodes,
    load_statistics,
    load_vocabularies,
    verify_frozen,
)
from dateshard.shardstore.frozen.edges import EdgeList, load_edges
from dateshard.shardstore.frozen.static_columns import StaticColumn, load_static, place_columns
from dateshard.shardstore.identity import unseal
from dateshard.shardstore.journal import verify_journal
from dateshard.shardstore.layouts.events import Cuts, decode_names
from dateshard.shardstore.layouts.feature import Feature, categorical
from dateshard.shardstore.layouts.new_nodes import widen
from dateshard.shardstore.manifest import (
    Entry,
    Manifest,
    current_generation,
    load_manifest,
    manifest_name,
)
from dateshard.shardstore.measured import verify_measured
from dateshard.shardstore.objects.format_file import read_format
from dateshard.shardstore.pinning.pins import pin_files, read_pin, write_pin
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.storage.part_files import OF_CELLS, PartFiles, PartMap
from dateshard.shardstore.storage.verified_files import judged
from dateshard.shardstore.times.calendar import (
    NANOSECONDS,
    Day,
    Segment,
    Timeline,
    instants,
    record_codes,
    segments,
    time_codes,
)


class Dataset:
    """One generation of one dataset. Open with `Dataset.open`; safe to share between threads for reading.

    Attributes:
        root: the dataset's folder.
        generation: its number.
        manifest: what it is. published: as it lies on disk, without dates that have no shard (`DumpDataset`).
        days: all committed dates in order.
        segments: runs of dates without a gap, as index ranges of `days`.
    """

    def __init__(self, root: Path, generation: int, manifest: Manifest) -> None:
        self.root, self.generation, self.manifest, self.published = root, generation, manifest, manifest
        self.days: list[Day] = manifest.days()
        self.segments: list[Segment] = segments(self.days, joined=not manifest.cut and manifest.layout != "table")
        self.part_files = PartFiles(root, manifest, self._refuse_if_cleaned)

    @staticmethod
    def open(root: str | Path, generation: int | None = None) -> Dataset:
        """Opens a dataset's current generation, or the given one.

        Raises:
            NotThereError: no dataset, or the generation is gone.
            DamagedError: CURRENT or the manifest does not match its hash.
        """
        folder = Path(root)
        number = current_generation(folder) if generation is None else generation
        read_format(folder)
        return Dataset(folder, number, load_manifest(folder, number))

    def with_new_nodes(self, names: Sequence[str]) -> Dataset:
        """This generation with more nodes that training never saw behind its own; none of its dates has them."""
        axes = self.nodes.axes
        more = Nodes(tuple(names), axes, np.full((len(names), len(axes)), np.nan))
        total, new = self.manifest.num_nodes + len(names), self.manifest.num_new_nodes + len(names)
        wider = Dataset(self.root, self.generation, replace(self.manifest, num_nodes=total, num_new_nodes=new))
        wider.nodes = self.nodes.joined(more)
        return wider

    def pin(self, run: Path) -> None:
        """Keeps this generation on disk until the run's folder is known to be gone."""
        write_pin(self.root, self.generation, run)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Axis 2, in order."""
        return self.manifest.features

    @property
    def feature_names(self) -> list[str]:
        """Names of axis 2."""
        return [feature.name for feature in self.manifest.features]

    @cached_property
    def nodes(self) -> Nodes:
        """Axis 1: names and positions, the same in every date; nodes that training never saw come last."""
        new = load_new_nodes(self.root, self.manifest.new_nodes)
        nodes = load_nodes(self.root, self.manifest.nodes).joined(new)
        fits = (len(nodes.names), len(new.names)) == (self.manifest.num_nodes, self.manifest.num_new_nodes)
        self._refuse_unfit("nodes", fits)
        return nodes

    @cached_property
    def vocabularies(self) -> Vocabularies:
        """The categories of each categorical feature; a shard holds their codes."""
        vocabularies = load_vocabularies(self.root, self.manifest.vocabularies)
        self._refuse_unfit("vocabularies", set(vocabularies.names) == set(categorical(self.features).values()))
        return vocabularies

    @cached_property
    def static(self) -> dict[str, StaticColumn]:
        """The static columns of the nodes by name, scaled over the nodes of training; {} where none is named."""
        table = load_static(self.root, self.manifest.static)
        return place_columns(table, self.nodes.names, self.statistics.trained_nodes) if table.names else {}

    @cached_property
    def edges(self) -> EdgeList:
        """The edges between the nodes; none where no file of them is named."""
        return load_edges(self.root, self.manifest.edges).on(self.nodes.names)

    @cached_property
    def statistics(self) -> Statistics:
        """The global statistics that every shard was scaled with."""
        statistics = load_statistics(self.root, self.manifest.statistics)
        wanted = (6, self.manifest.num_frozen_nodes, len(self.features))
        self._refuse_unfit("statistics", statistics.merged.moments_6NF.shape == wanted)
        return statistics.on(self.manifest.num_nodes)

    def _refuse_unfit(self, what: str, fits: bool) -> None:
        if not fits:
            where = Where(file=str(self.root / "manifests" / manifest_name(self.generation)))
            raise DamagedError(f"the manifest names {what} of other nodes or features", where=where)

    @cached_property
    def scale(self) -> Scale:
        """Raw -> scaled, per node and feature."""
        return self.statistics.scale([(feature.scale, feature.scale_per) for feature in self.features])

    @property
    def row_values(self) -> int:
        """Values of one step: nodes x features."""
        return self.manifest.num_nodes * len(self.manifest.features)

    @property
    def steps_per_day(self) -> int:
        """Time codes of a day: its steps, or its seconds where the layout has no steps."""
        return max(1, 86_400 * NANOSECONDS // self.code_length)

    @property
    def code_length(self) -> int:
        """Nanoseconds of what time codes count: a step, or a second where the layout has no steps."""
        return self.manifest.step or NANOSECONDS

    def has_mask(self, date: dt.date) -> bool:
        """Whether anything of the date is missing (then it has an `observed` array, or lacks nodes that came later)."""
        return self._entry(date).masked or self.lacks_nodes(date)

    def lacks_nodes(self, date: dt.date) -> bool:
        """Whether nodes came after the date, which its shard does not have."""
        return self._entry(date).num_nodes < self.manifest.num_nodes

    def _wide(self, date: dt.date) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """A date's values and mask on all nodes, in memory."""
        values, mask = (self.part_files.map(date, array) for array in OF_CELLS)
        own = None if mask is None else np.asarray(mask, dtype=np.bool_)
        return widen(np.asarray(values, dtype=np.float32), own, self.features, self.scale)

    def codes(self, day: Day) -> NDArray[np.int32]:
        """Returns [T] int32 time codes: step of the local day, or a record's second of it, x 8 + weekday."""
        if day.step:
            return time_codes(day, self.manifest.timezone)
        return record_codes(day, self.times(day), self.manifest.timezone)

    def times(self, day: Day) -> NDArray[np.int64]:
        """Returns [T] int64 nanoseconds: the instant at which each step begins, or of each record.

        Raises:
            DamagedError: size or hash is not what was committed.
        """
        return instants(day) if day.step else np.asarray(self.arrays(day.date, ("time",))["time"])

    def cuts(self, day: Day) -> Cuts:
        """The pieces of a date that no window crosses.

        Raises:
            DamagedError: they are not what was committed, or do not fit the date's steps.
        """
        if not self.manifest.cut:
            return Cuts(np.zeros(1, dtype=np.int64), ("",))
        arrays = self.arrays(day.date, ("cuts", "cut_names"))
        starts, names = np.asarray(arrays["cuts"]), tuple(decode_names(arrays["cut_names"]))
        edges = np.append(starts, day.num_steps)
        if len(names) != len(starts) or edges[0] != 0 or (np.diff(edges) <= 0).any():
            raise DamagedError(
                "its cuts do not fit its records",
                where=Where(file=str(self.root), date=day.date),
                todo=to_run("preprocess", day.date, "--force", config=True),
            )
        return Cuts(starts, names)

    def read(self, date: dt.date, rows: slice, out: NDArray[np.float32]) -> None:
        """Reads steps `rows` of a date's values into `out` [rows, N, F] (C-contiguous), verified at first touch.

        Raises:
            DamagedError: size or hash is not what was committed; nothing of the file is used.
        """
        if self.lacks_nodes(date):
            out[:] = self._wide(date)[0][rows]
        else:
            self.part_files.read("values", date, rows, out)

    def read_observed(self, date: dt.date, rows: slice, out: NDArray[np.bool_]) -> None:
        """Reads steps `rows` of a date's mask into `out` [rows, N, F]; all True where nothing is missing."""
        if self.lacks_nodes(date):
            out[:] = self._wide(date)[1][rows]
        elif self.has_mask(date):
            self.part_files.read("observed", date, rows, out)
        else:
            out[:] = True

    @cached_property
    def timeline(self) -> Timeline:
        """Which dates the steps of a segment lie in."""
        return Timeline(self.days, self.segments)

    def read_span(
        self,
        segment: int,
        low: int,
        high: int,
        values: NDArray[np.float32] | None = None,
        observed: NDArray[np.bool_] | None = None,
        codes: NDArray[np.int32] | None = None,
        times: NDArray[np.int64] | None = None,
    ) -> None:
        """Reads steps [low, high) of a segment, whichever dates they lie in, into the arrays that are given.

        Args:
            low: below 0 the arrays begin with rows of zeros, for there is nothing before a segment.
            values: [high - low, N, F]. observed: of that shape too. codes, times: [high - low].

        Raises:
            DamagedError: size or hash of a file is not what was committed; nothing of it is used.
        """
        padding = max(0, -low)
        for array in (values, observed, codes, times) if padding else ():
            if array is not None:
                array[:padding] = 0
        self.read_rows(
            self.timeline.spans(segment, low + padding, high),
            None if values is None else values[padding:],
            None if observed is None else observed[padding:],
            None if codes is None else codes[padding:],
            None if times is None else times[padding:],
        )

    def read_rows(
        self,
        spans: Iterable[tuple[Day, slice]],
        values: NDArray[np.float32] | None = None,
        observed: NDArray[np.bool_] | None = None,
        codes: NDArray[np.int32] | None = None,
        times: NDArray[np.int64] | None = None,
    ) -> None:
        """Reads these rows of these dates, one date after the other, into the arrays that are given, as `read_span`."""
        stop = 0
        for day, rows in spans:
            at, stop = stop, stop + rows.stop - rows.start
            if values is not None:
                self.read(day.date, rows, values[at:stop])
            if observed is not None:
                self.read_observed(day.date, rows, observed[at:stop])
            if codes is not None:
                codes[at:stop] = self.codes(day)[rows]
            if times is not None:
                times[at:stop] = self.times(day)[rows]

    def read_day(self, day: Day, num_steps: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Returns a date's values and mask, both [T, N, F] in memory, or of its first steps alone."""
        rows = slice(0, day.num_steps if num_steps is None else num_steps)
        shape = (rows.stop, self.manifest.num_nodes, len(self.features))
        values, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
        self.read_rows([(day, rows)], values, observed)
        return values, observed

    def arrays(self, date: dt.date, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Returns all arrays of a date, or those wanted, verified.

        They are values, time, observed if anything is missing, and cuts with cut_names where records are cut. They are
        read-only maps, or decoded into memory where the date is stored without Zarr; nothing is cached. Cells of nodes
        that came after the date are added in memory."""
        arrays = self.committed(date, wanted)
        if self.lacks_nodes(date):
            wide = dict(zip(OF_CELLS, self._wide(date), strict=True))
            arrays |= {name: array for name, array in wide.items() if wanted is None or name in wanted}
        return arrays

    def committed(self, date: dt.date, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Returns the arrays of a date's shard as it was committed, on its own nodes; else as `arrays`."""
        return self.part_files.arrays(date, wanted)

    def map(self, date: dt.date, array: str = "values") -> NDArray[np.generic] | None:
        """A date's array ([T, N, F] of values and mask), verified; None for a mask that is not there.

        It is a read-only map; in memory where the date lies in several parts, or lacks nodes that came later."""
        if array in OF_CELLS and self.lacks_nodes(date):
            return self._wide(date)[OF_CELLS.index(array)]
        return self.part_files.map(date, array)

    def maps(self, date: dt.date, array: str = "values") -> list[PartMap]:
        """Returns (nodes, array) for each range of nodes in which the date lies, as `map`; nothing is gathered."""
        if array in OF_CELLS and not self.lacks_nodes(date) and self._entry(date).parts[0].files:
            return self.part_files.maps(date, array)
        return [(slice(0, self.manifest.num_nodes), self.map(date, array))]

    def _entry(self, date: dt.date) -> Entry:
        return self.part_files.entry(date)

    def _refuse_if_cleaned(self, file: str | None) -> None:
        """Refuses to read on once the generation was cleaned away.

        Raises:
            NotThereError: what is missing is no damage, for its generation is gone.
        """
        if not (self.root / "manifests" / manifest_name(self.generation)).exists():
            what = f"generation {self.generation} was cleaned away while it was read"
            todo = "Run the command again: it takes the current one"
            raise NotThereError(what, where=Where(file=file), todo=todo) from None

    def verify(
        self, dates: list[dt.date] | None = None, *, full: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        """Hashes every file of the given dates (default: all); yields (name, error or None).

        Also verifies what is frozen, the sources file, the pins, the notes on dumps and the log of commits.

        Args:
            full: also compares zarr-python's reading with ours, and hashes the measured arrays.
        """
        manifest = self.manifest
        yield from verify_frozen(self.root, manifest.frozen).items()
        sources = sources_path(self.root, self.generation)
        yield judged(sources, lambda: load_sources(self.root, self.generation))
        for pin in pin_files(self.root):
            yield judged(pin, partial(read_pin, self.root, pin))
        if (dumps := self.root / "dumps.json").exists():
            todo = f"{to_run('preprocess', config=True)} (it hashes the dumps again)"
            yield judged(dumps, lambda: unseal(dumps.read_bytes(), str(dumps), todo))
        yield from verify_journal(self.root)
        yield from self.verify_dates(sorted(self.manifest.dates) if dates is None else dates, full=full)
        with suppress(StoreError):  # told above
            if full:
                known = load_sources(self.root, self.generation)
                yield from verify_measured(self.root, known, self.features, dates, manifest.split_cuts.get("train", ()))

    def verify_dates(self, dates: list[dt.date], *, full: bool) -> Iterator[tuple[str, StoreError | None]]:
        """Verifies the given dates alone, without what they share; yields (name, error or None)."""
        for date in dates:
            yield judged(Path(str(date)), partial(self.part_files.verify, date, full=full))
