"""One date's dump -> its staged array -> what its shard holds, in memory. One path for preparing and for predicting.

Legend: T steps of the date, N nodes, F features.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import compress, repeat
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.memory_shares import own_bytes, record_budget
from dateshard.pipeline.raw.dumps import ONE_NODE, Dump
from dateshard.pipeline.raw.public_holidays import put_holidays
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.shardstore.errors import DumpError, NoRowsError, Where, counted, shorten
from dateshard.shardstore.frozen import Frozen, Nodes, Vocabularies
from dateshard.shardstore.identity import ReadHash, nothing_to_collect
from dateshard.shardstore.layouts import reducer_of
from dateshard.shardstore.layouts.category_codes import own_vocabulary, recode
from dateshard.shardstore.layouts.encode import encode
from dateshard.shardstore.layouts.feature import CALENDAR, Feature, categorical
from dateshard.shardstore.layouts.fill import WHOLE
from dateshard.shardstore.layouts.grid import on_nodes
from dateshard.shardstore.layouts.records import Duplicates, Reduced, Reduction, Stretch
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.transform import Floats, Integers, in_blocks
from dateshard.shardstore.storage import About
from dateshard.shardstore.times.calendar import Day
from dateshard.shardstore.times.instants import spell

if TYPE_CHECKING:
    from dateshard.pipeline.raw.decode import Decoded

LARGEST, LEAST_OF_LOG1P = float(np.finfo(np.float32).max), -1.0
LEAVE_OUT = "pipeline.source.empty_date: drop leaves such dates out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """What a date is normalised to: the frozen nodes and vocabularies, and the scale of the frozen statistics.

    Attributes:
        about: what files in other formats than Zarr say of themselves.
        num_frozen: so many nodes are those of training or of a node table; new ones stand behind them.
    """

    nodes: Nodes
    vocabularies: Vocabularies
    scale: Scale
    about: About
    num_frozen: int

    @staticmethod
    def of(frozen: Frozen, manifest: Manifest) -> Normaliser:
        """The target of a generation; of the manifest its dates do not matter."""
        specs = [(feature.scale, feature.scale_per) for feature in manifest.features]
        nodes = frozen.nodes.joined(frozen.new_nodes)
        scale = frozen.statistics.on(len(nodes.names)).scale(specs, nodes.names)
        ids = {"nodes": manifest.nodes, "statistics": manifest.statistics}
        ids |= {"vocabularies": manifest.vocabularies} if manifest.vocabularies else {}
        about = About(
            dataset=manifest.dataset,
            timezone=manifest.timezone,
            step=manifest.step,
            features=manifest.features,
            nodes=nodes.names,
            ids=ids,
            scale=scale,
        )
        return Normaliser(
            nodes=nodes,
            vocabularies=frozen.vocabularies,
            scale=scale,
            about=about,
            num_frozen=len(frozen.nodes.names),
        )

    def reaching(self, names: Sequence[str]) -> Normaliser:
        """The target of a date with these nodes: the frozen list, and of the new nodes all up to the date's last one.

        So a date has the same bytes, whichever nodes come after it."""
        if self.num_frozen == len(self.nodes.names):
            return self
        count = max(self.num_frozen, 1 + int(positions(names, self.nodes).max(initial=-1)))
        if count == len(self.nodes.names):
            return self
        nodes = self.nodes.positions_of(self.nodes.names[:count])
        return replace(self, nodes=nodes, scale=self.scale.nodes(slice(count)), about=self.about.of_nodes(0, count))


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedDate:
    """A measured date before filling and scaling.

    Attributes:
        values_TNF: float64 on the date's own nodes, codes of its own vocabularies, NaN where nothing was observed.
        columns: which of the nodes the values have; None: all.
        vocabularies: {place of a categorical feature: the date's own categories}.
        rows: what became of the dump's rows, in JSON.
        beside: arrays that its layout keeps beside the values.
        files: names for its `file`, where it was asked which rows its records are.
        last: instant of the last record, None without one.
        strangers: some of the names that the node table lacks.
        hashes: of files of the dump that were hashed as they were read.
        conflicts: {raw column: rows that were dropped as duplicates and had another value there}.
    """

    day: Day
    values_TNF: Floats
    nodes: tuple[str, ...]
    vocabularies: Mapping[str, Sequence[str]]
    rows: Mapping[str, Any]
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    columns: Integers | None = None
    files: tuple[str, ...] = ()
    last: int | None = None
    strangers: tuple[str, ...] = ()
    hashes: Mapping[Path, ReadHash] = field(default_factory=dict)
    conflicts: Mapping[str, int] = field(default_factory=dict)

    @property
    def own_nodes(self) -> Sequence[str]:
        """The nodes of the values."""
        return self.nodes if self.columns is None else [self.nodes[column] for column in self.columns]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a shard holds.

    Attributes:
        observed_TNF: None where nothing is missing.
        unknown_nodes: nodes of the date that training never saw: they have no place in the frozen list.
        unknown_categories: {feature: categories that training never saw}; they have code 0.
    """

    values_TNF: NDArray[np.float32]
    observed_TNF: NDArray[np.bool_] | None
    unknown_nodes: tuple[str, ...]
    unknown_categories: Mapping[str, Strangers]


def loaded_bytes() -> int:
    """What a process holds before its first date: with this module comes all that measuring needs."""
    import pyarrow  # noqa: F401 - 0.3 s: what measures no date should not wait for it

    import dateshard.pipeline.raw.decode  # noqa: F401

    return own_bytes()


@cache
def _import_decoder() -> None:
    """Imports polars, whose objects all stay, without looking through them for garbage; once, for each look takes 5 ms."""
    with nothing_to_collect():
        import dateshard.pipeline.raw.decode  # noqa: F401


def decoded_dump(
    dump: Dump,
    date: dt.date,
    config: Pipeline,
    table_nodes: tuple[str, ...] | None,
    memory_bytes: int,
    spilled: Path,
    *,
    keep_places: bool = False,
    most_nodes: int | None = None,
) -> Decoded:
    """Decodes one dump; records that do not fit beside its grid are spilled into the folder `spilled` by the hour.

    Args:
        most_nodes: of the grids that are made of it, one after the other; None: one grid of all nodes.

    Raises:
        DumpError: the dump cannot be used; NoRowsError: it has no row. ResourceError: its grid alone is too large.
    """
    _import_decoder()
    from dateshard.pipeline.raw.decode import decode

    try:
        if not dump.files:
            where, todo = Where(file=str(dump.path), date=date), "Write the dump again, or remove the folder"
            raise NoRowsError("the folder holds no file", where=where, todo=todo)
        listed = len(table_nodes or ())
        budget = record_budget(memory_bytes, config.day(date), config, min(listed, most_nodes or listed))
        decoded = decode(dump.files, date, config, table_nodes, budget, spilled, keep_places=keep_places)
        day, num_nodes = config.day(date, decoded.rows.accepted), 1 if config.cut else len(decoded.nodes)
        num_nodes = min(num_nodes, most_nodes or num_nodes)
        decoded.spool.budget_bytes = record_budget(memory_bytes, day, config, num_nodes)
    except NoRowsError as error:
        raise NoRowsError(error.what, where=error.where, todo=f"{error.todo}; {LEAVE_OUT}") from None
    return decoded


def stage(
    dump: Dump,
    date: dt.date,
    config: Pipeline,
    table_nodes: tuple[str, ...] | None,
    memory_bytes: int,
    spilled: Path,
    *,
    keep_places: bool = False,
) -> StagedDate:
    """Decodes one dump and reduces it to the grid in float64.

    Memory: `memory_bytes` where the grid allows it; records that do not fit are spilled into the folder `spilled` by
    the hour, to the same bytes.

    Args:
        keep_places: whether `beside` has `file` and `row` of each record (of layouts that keep records).

    Raises:
        DumpError: the dump cannot be used; NoRowsError: it has no row. ResourceError: its grid alone is too large.
    """
    decoded = decoded_dump(dump, date, config, table_nodes, memory_bytes, spilled, keep_places=keep_places)
    return staged_of(decoded, config, reduce(decoded, config, keep_places=keep_places), keep_places=keep_places)


def staged_of(decoded: Decoded, config: Pipeline, reduced: Reduced, *, keep_places: bool = False) -> StagedDate:
    """A date, or a part of it, as it was reduced; of a part the rows are those of the date, but for what reducing counts."""
    files: tuple[str, ...] = ()
    beside = dict(reduced.beside)
    if keep_places:
        files, file_T, row_T = decoded.places.of_all(beside["place"])
        beside = {name: array for name, array in beside.items() if name != "place"} | {"file": file_T, "row": row_T}
    return StagedDate(
        day=config.day(decoded.day.date, len(reduced.values_TNF)),
        values_TNF=reduced.values_TNF,
        nodes=reduced.nodes,
        vocabularies=_own_vocabularies(reduced.values_TNF, decoded),
        rows=rows_of(decoded, config, reduced.duplicates, reduced.resets),
        beside=beside,
        files=files,
        last=reduced.last,
        strangers=decoded.strangers,
        hashes=decoded.hashes,
        conflicts=by_raw_column(reduced.duplicates, config),
    )


def rows_of(decoded: Decoded, config: Pipeline, duplicates: Duplicates, resets: Mapping[str, int]) -> dict[str, Any]:
    """What became of a dump's rows, in JSON, once its records were reduced."""
    counts = {"dropped": duplicates.dropped, "conflicting": duplicates.conflicting}
    return {
        **asdict(decoded.rows),
        "changed": decoded.rows.changed | {_reset(name): count for name, count in resets.items()},
        "duplicates": counts if config.source.duplicates == "last" else None,
    }


def reduced_parts(decoded: Decoded, config: Pipeline, parts: Sequence[tuple[int, int]]) -> Iterator[Reduced]:
    """Reduces the records of one range of a date's nodes after the other; a cell has the bytes of the whole date's.

    Memory: as `divided`, and one part's grid."""
    from dateshard.pipeline.raw.divided_records import divided

    for (first, last), records in divided(decoded, parts):
        to = _reduction(decoded, config)
        names = decoded.nodes[first:last]
        yield _reduced([(decoded.day, records)], replace(to, names=names, nodes=names), config)


def _reset(feature: str) -> str:
    return f"of the counter '{feature}' below the reading before, a reset: its step made missing"


def by_raw_column(duplicates: Duplicates, config: Pipeline) -> dict[str, int]:
    """Conflicting rows by the raw column in which they differ; features may share one."""
    counts = zip(map(config.column_of, config.features), duplicates.by_column, strict=True)
    return {column: count for column, count in counts if column is not None and count}


def reduce(decoded: Decoded, config: Pipeline, *, keep_places: bool = False) -> Reduced:
    """Makes a date's arrays of its records, as its layout says."""
    return _reduced(decoded.stretches(), replace(_reduction(decoded, config), keep_places=keep_places), config)


def _reduction(decoded: Decoded, config: Pipeline) -> Reduction:
    def refuse(place: int, count: int) -> NoReturn:
        raise _repeated(decoded, config, place, count)

    cut, names = config.by_row or config.source.cut is not None, decoded.nodes
    return Reduction(
        day=decoded.day,
        names=names,
        nodes=(config.source.node_name or ONE_NODE,) if cut else names,
        cut=cut,
        features=config.feature_specs(),
        categories=decoded.categories,
        by_row=config.by_row,
        keep_all=config.source.duplicates != "last",
        refuse=refuse if config.source.duplicates == "refuse" else None,
    )


def _reduced(stretches: Iterable[Stretch], to: Reduction, config: Pipeline) -> Reduced:
    reduced = reducer_of(config.layout)(stretches, to)
    put_holidays(reduced.values_TNF, to.day.date, to.features, config.calendar)
    return reduced


def _repeated(decoded: Decoded, config: Pipeline, place: int, count: int) -> DumpError:
    file, row = decoded.places.of(place)
    return DumpError(
        f"a later row has the same node and instant ({counted(count, 'such row')})",
        where=Where(
            file=str(file), date=decoded.day.date, column=next(iter(config.source.time_columns[-1:]), None), row=row
        ),
        todo="Correct the dump, or set pipeline.source.duplicates to last or keep",
    )


def _own_vocabularies(values_TNF: Floats, decoded: Decoded) -> dict[str, list[str]]:
    """Changes categorical cells, in place, to codes of the date's own vocabulary; gives {} where no feature is such."""
    vocabularies = {}
    for feature, names in decoded.categories.items():
        values_TNF[..., feature], own = own_vocabulary(values_TNF[..., feature], names)
        vocabularies[str(feature)] = list(own)
    return vocabularies


def encode_date(
    staged: StagedDate,
    config: Pipeline,
    target: Normaliser,
    place: Integers | None = None,
    chosen: slice | None = None,
    *,
    over: bool = False,
) -> Encoded:
    """Maps a staged date to the frozen nodes and codes, fills, scales in float64 and casts last.

    Changes its codes in place.

    Memory: about four arrays of [T, N, F] float64.

    Args:
        place: of the date's nodes on the frozen list, if that is known.
        chosen: the nodes that are wanted, by their places on the frozen list; None: all.
        over: the staged values are no longer needed, and may be changed.

    Raises:
        DumpError: no node of the date is known, or a value that its transform or float32 cannot take.
    """
    date, features, nodes = staged.day.date, config.feature_specs(), target.nodes
    own = chosen or slice(0, len(nodes.names))
    refuse_outside(staged.values_TNF, date, config, staged.own_nodes)
    place = positions(staged.nodes, nodes) if place is None else place
    if len(place) and (place < 0).all():
        raise _of_strangers_alone(staged, nodes, config)
    unknown = _recode(staged, target.vocabularies, features)
    there = place if staged.columns is None else place[staged.columns]
    there = np.where((there >= own.start) & (there < own.stop), there - own.start, -1)
    placed = on_nodes(staged.values_TNF, there, own.stop - own.start)
    for index in (index for index, feature in enumerate(features) if feature.aggregate == CALENDAR):
        placed[..., index] = staged.values_TNF[:1, :1, index]  # the same at nodes that have no record on the date
    scale = target.scale if chosen is None else target.scale.nodes(chosen)
    own_array = over or placed is not staged.values_TNF
    encoded, observed = encode(placed, features, scale, staged.beside.get("cuts", WHOLE), over=own_array)
    _refuse_infinite(encoded, date, config, nodes.names[own])
    without_place = compress(staged.nodes, (place < 0).tolist())
    return Encoded(encoded, observed, (*without_place, *staged.strangers), unknown)


def _of_strangers_alone(staged: StagedDate, nodes: Nodes, config: Pipeline) -> DumpError:
    unknown = Strangers.of(staged.nodes, nodes.names)
    return DumpError(
        f"none of the date's rows is of a known node: it has {counted(unknown.count, 'unknown one')}{unknown.hint()}",
        where=Where(date=staged.day.date, column=config.source.who, value=staged.nodes[0]),
        todo="If these nodes are new, prepare a training date that has them with --refit-statistics; "
        "or leave the date out with pipeline.exclude",
    )


def refuse_outside(values_TNF: Floats, date: dt.date, config: Pipeline, nodes: Sequence[str]) -> None:
    """Refuses values that a shard cannot hold.

    Args:
        nodes: of the values.

    Raises:
        DumpError: a value that its feature's transform cannot take, or that float32 cannot hold; names the first.
    """
    logarithms = [index for index, name in enumerate(config.features) if config.features[name].transform == "log1p"]
    if not any(_has_unfit(values_TNF[rows], logarithms) for rows in in_blocks(values_TNF.shape)):
        return  # mostly, and in one pass
    for index, (name, feature) in enumerate(config.features.items()):
        column = values_TNF[..., index]
        unfit, why = unfit_values(column, feature.transform)
        outside = column[unfit]
        if outside.size:
            where = Where(
                date=config.source.shown_date(date), column=config.column_of(name), value=repr(float(outside[0]))
            )
            what = f"{why} (feature '{name}', {outside.size:,} such{_first_of(unfit, date, config, nodes)})"
            other = "range or transform" if "log1p" in why else "range"
            raise DumpError(what, where=where, todo=f"Correct the dump, or set pipeline.features.{name}.{other}")


def _first_of(unfit_TN: NDArray[np.bool_], date: dt.date, config: Pipeline, nodes: Sequence[str]) -> str:
    """Tells where the first cell of a mask stands; empty for records of a lone node, which have no step."""
    step, node = divmod(int(unfit_TN.argmax()), len(nodes))
    day = config.day(date)
    at = [spell(day.start + step * day.step, config.source.timezone)] if day.step else []
    at += [f"node {shorten(nodes[node])}"] if at or len(nodes) > 1 else []
    return f", {'the first ' if unfit_TN.sum() > 1 else ''}at {', '.join(at)}" if at else ""


def _has_unfit(values_TNF: Floats, logarithms: Sequence[int]) -> bool:
    """Whether any of them is one that `unfit_values` marks; `logarithms`: places of features that go through log1p."""
    if (np.abs(values_TNF) > LARGEST).any():
        return True
    return any((values_TNF[..., index] <= LEAST_OF_LOG1P).any() for index in logarithms)


def unfit_values(column: Floats, transform: str) -> tuple[NDArray[np.bool_], str]:
    """Returns (which values a shard cannot hold, why it cannot hold the first of them)."""
    low = LEAST_OF_LOG1P if transform == "log1p" else -math.inf
    unfit = (column <= low) | (np.abs(column) > LARGEST)
    first = column[unfit][:1]
    return unfit, "log1p takes values above -1" if (first <= low).any() else "float32 cannot hold it"


def positions(names: Sequence[str], nodes: Nodes) -> Integers:
    """Where each of a date's nodes stands in the frozen list, -1 for one that training never saw."""
    if len(names) == len(nodes.names) and all(map(eq, names, nodes.names)):  # as on most dates of a large dataset
        return np.arange(len(names))
    place = dict(zip(nodes.names, range(len(nodes.names)), strict=True))
    return np.fromiter(map(place.get, names, repeat(-1)), dtype=np.int64, count=len(names))


def _recode(staged: StagedDate, vocabularies: Vocabularies, features: Sequence[Feature]) -> dict[str, Strangers]:
    """Changes a date's own codes to frozen ones, in place; gives the unseen categories by feature."""
    unknown: dict[str, Strangers] = {}
    values_TNF = staged.values_TNF
    for feature, name in categorical(features).items():
        own, frozen = staged.vocabularies[str(feature)], vocabularies.names[name]
        values_TNF[..., feature], count = recode(values_TNF[..., feature], own, frozen)
        if count:
            unknown[name] = Strangers.of(set(own) - set(frozen), frozen)
    return unknown


def _refuse_infinite(encoded_TNF: NDArray[np.float32], date: dt.date, config: Pipeline, nodes: Sequence[str]) -> None:
    if np.isfinite(encoded_TNF).all():
        return
    index = int(np.flatnonzero(~np.isfinite(encoded_TNF).all(axis=(0, 1)))[0])
    name, first = list(config.features)[index], _first_of(~np.isfinite(encoded_TNF[..., index]), date, config, nodes)
    raise DumpError(
        f"a value lies so far from the training values that float32 cannot hold it scaled (feature '{name}'{first})",
        where=Where(date=config.source.shown_date(date), column=config.column_of(name)),
        todo=f"Correct the dump, or set pipeline.features.{name}.range or clip",
    )
