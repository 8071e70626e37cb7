"""The three acts: measure a date, merge the statistics, normalise a date.

Measuring and normalising run in worker processes: they stage and publish, and return a small receipt. Nothing they
publish counts before the process that holds the lock commits it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.arrays import Normaliser, StagedDate, encode_date, positions, refuse_outside, stage
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.memory_shares import refuse_grid
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.pipeline.planning.weights import cells_by_feature, weight_of
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.raw.object_files import held
from dateshard.pipeline.raw.strangers import NO_STRANGERS, Strangers
from dateshard.shardstore.commit import publish, staging_folder
from dateshard.shardstore.disk.durable import check_free_space
from dateshard.shardstore.errors import DumpError, StoreError, UsageError, Where
from dateshard.shardstore.frozen import Frozen, Vocabularies
from dateshard.shardstore.identity import ReadHash, hash_bytes, hash_file, seal
from dateshard.shardstore.layouts.category_codes import MOST_CODES, sorted_names
from dateshard.shardstore.layouts.events import decode_names
from dateshard.shardstore.layouts.feature import Feature, categorical, with_histogram
from dateshard.shardstore.manifest import Entry, Part
from dateshard.shardstore.measured import (
    BESIDE,
    HISTOGRAM,
    VALUES,
    Receipt,
    load_arrays,
    load_beside,
    load_columns,
    load_partial,
    load_parts,
    load_receipt,
    partial_key,
)
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.scaling.transform import Floats, Integers, transform
from dateshard.shardstore.storage import zarr_raw
from dateshard.shardstore.storage.shards import publish_shard
from dateshard.shardstore.times.calendar import Day, instants


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the parent process needs of a measured date: small, whatever the date's size.

    Attributes:
        weight: see `weight_of`.
    """

    date: dt.date
    key: str
    rows: Mapping[str, Any]
    weight: int
    folders: tuple[Path, ...] = ()
    conflicts: Mapping[str, int] = field(default_factory=dict)  # as of the staged date
    unknown_nodes: Strangers = NO_STRANGERS  # rows of nodes that the node table lacks are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """Receipt of a normalised date, or of a part of it.

    Attributes:
        observed: cells of each feature into which a record with a value fell. weight: see `weight_of`.
    """

    date: dt.date
    entry: Entry
    folders: tuple[Path, ...]
    observed: tuple[int, ...]
    weight: int
    unknown_nodes: Strangers = NO_STRANGERS  # that training never saw: they have no place in the frozen list
    unknown_categories: Mapping[str, Strangers] = field(default_factory=dict)  # likewise, by feature: they have code 0

    def joined(self, others: Sequence[Normalised]) -> Normalised:
        """The receipt of the whole date: this is of its first part, and these of the others, in order."""
        receipts = (self, *others)
        return replace(
            self,
            entry=self.entry.joined(receipt.entry for receipt in others),
            folders=tuple(folder for receipt in receipts for folder in receipt.folders),
            observed=tuple(map(sum, zip(*(receipt.observed for receipt in receipts), strict=True))),
            weight=sum(receipt.weight for receipt in receipts),
        )


def measure_date(
    root: Path,
    dump: Dump,
    date: dt.date,
    key: str,
    config: Pipeline,
    table_nodes: tuple[str, ...] | None,
    memory_bytes: int,
) -> Measured:
    """Decodes one dump, reduces it to the grid in float64 and publishes staged/<date>/<key>/ and its partial statistics.

    Memory: `memory_bytes` where the grid allows it; records that do not fit are spilled by the hour, to the same bytes.

    Raises:
        DumpError: the dump cannot be used, or changed while it was read. ResourceError: its grid alone is too large.
    """
    with staging_folder(root) as spilled:
        staged = stage(dump, date, config, table_nodes, memory_bytes, spilled)
    refuse_changed(dump, date, config, staged.hashes)
    return publish_measured(root, date, key, staged, config)


def publish_measured(root: Path, date: dt.date, key: str, staged: StagedDate, config: Pipeline) -> Measured:
    """Publishes staged/<date>/<key>/ and its partial statistics, of a date that was reduced as a whole."""
    rows, own = dict(staged.rows), {"vocabularies": staged.vocabularies} if staged.vocabularies else {}
    beside = {BESIDE[name][0]: np.ascontiguousarray(array, BESIDE[name][1]) for name, array in staged.beside.items()}
    receipt = {"nodes": list(staged.nodes), "rows": rows, "key": key, **own}
    taken = partial_of(staged.values_TNF, date, staged.beside, config, staged.nodes)
    partial = publish_partial(root, date, key, taken, config)  # first, against a kill
    folder = _publish_arrays(root, root / "staged" / str(date) / key, staged.values_TNF, receipt, beside)
    unknown = Strangers.of(staged.strangers, staged.nodes)
    weight, folders = weight_of(staged.values_TNF, rows, config), (folder, *([partial] if partial else []))
    return Measured(
        date=date, key=key, rows=rows, weight=weight, folders=folders, conflicts=staged.conflicts, unknown_nodes=unknown
    )


def refuse_changed(dump: Dump, date: dt.date, config: Pipeline, read: Mapping[Path, ReadHash]) -> None:
    """Refuses a dump that is not what was hashed, once it was read.

    Args:
        read: hashes of those of its files that were hashed as they were read.

    Raises:
        DumpError: it changed.
    """
    with held(dump.files) as files:
        hashes = [read[path].of(path) if path in read else hash_file(path)[1] for path in files]
    if hashes != list(dump.hashes):
        raise DumpError(
            "the dump changed while it was read",
            where=Where(file=str(dump.path), date=config.source.shown_date(date)),
            todo="Run the command again",
        )


def publish_partial(
    root: Path, date: dt.date, key: str, partial: PartialStatistics | None, config: Pipeline
) -> Path | None:
    """Publishes a staged date's partial statistics as partials/<date>/<key>/; None where there are none yet."""
    if partial is None:
        return None
    histogram = np.frombuffer(partial.histogram.to_bytes(), dtype=np.uint8)
    more = {HISTOGRAM: histogram} if partial.histogram.rows_4K.size else {}
    final = root / "partials" / str(date) / partial_key(key, config.feature_specs(), config.training_cuts or ())
    return _publish_arrays(root, final, partial.moments_6NF, {"id": partial.id}, more)


def partial_of(
    values: Floats, date: dt.date, beside: Mapping[str, NDArray[Any]], config: Pipeline, nodes: Sequence[str]
) -> PartialStatistics | None:
    """Takes a staged date's partial statistics, after the transforms.

    Of a categorical feature they hold the number of observed cells: its codes are the date's own and no quantities. Where
    cuts are divided they are of the records of training cuts alone; None while it is not known which those are.

    Raises:
        DumpError: a value that its transform or float32 cannot take.
    """
    refuse_outside(values, date, config, nodes)
    features, cuts = config.feature_specs(), config.training_cuts
    if cuts is None:
        return None
    if cuts:
        values = values[_of_cuts(beside, cuts, len(values))]
        if not len(values):  # of none there are empty statistics
            values = np.full((1, *values.shape[1:]), np.nan)
    cells = transform(values, [feature.transform for feature in features])
    if codes := list(categorical(features)):
        cells = cells.copy()
        cells[..., codes] = np.where(np.isnan(cells[..., codes]), np.nan, 0.0)
    return PartialStatistics.of(cells, with_histogram(features))


def _of_cuts(beside: Mapping[str, NDArray[Any]], cuts: Collection[str], num_records: int) -> NDArray[np.bool_]:
    """Returns [T]: which records lie in one of the cuts."""
    chosen = set(cuts)
    inside = np.array([name in chosen for name in decode_names(beside["cut_names"])], dtype=np.bool_)
    return np.repeat(inside, np.diff(np.append(beside["cuts"], num_records)))


def take_partial(root: Path, date: dt.date, key: str, config: Pipeline) -> Path:
    """Takes a date's partial statistics again from its staged array; the dump is not read.

    Raises:
        StoreError: the staged array does not verify.
    """
    folder = root / "staged" / str(date) / key
    beside = load_beside(folder) if config.training_cuts else {}
    names = load_receipt(folder)["nodes"]
    parts = ((names[nodes], values) for nodes, values in load_parts(folder))
    partials = [partial_of_nodes(values, date, beside, config, nodes, len(names)) for nodes, values in parts]
    published = publish_partial(root, date, key, joined_partials(partials), config)
    assert published is not None, "cuts are resolved before statistics are merged"
    return published


def partial_of_nodes(
    values: Floats,
    date: dt.date,
    beside: Mapping[str, NDArray[Any]],
    config: Pipeline,
    nodes: Sequence[str],
    num_nodes: int,
) -> PartialStatistics | None:
    """Takes the statistics of some nodes of a date that has `num_nodes`, with the bits that they have among all of them.

    A lone column is summed pairwise by numpy, and several of them step by step: it gets an empty one beside it."""
    if values[0].size != 1 or num_nodes == 1:
        return partial_of(values, date, beside, config, nodes)
    two = np.concatenate([values, np.full(values.shape, np.nan)], axis=1)
    partial = partial_of(two, date, beside, config, [*nodes, ""])
    return partial and partial.on_nodes(np.array([0, -1]), 1)


def joined_partials(partials: Sequence[PartialStatistics | None]) -> PartialStatistics | None:
    """The partial statistics of a date, of those of its parts in order; None while there are none."""
    there = [partial for partial in partials if partial is not None]
    return PartialStatistics.side_by_side(there) if len(partials) == len(there) > 1 else partials[0]


def why_lost(root: Path, date: dt.date, key: str, config: Pipeline) -> StoreError | None:
    """Why a date's measured arrays cannot be merged; partials that were never taken are no damage."""
    partial = root / "partials" / str(date) / partial_key(key, config.feature_specs(), config.training_cuts or ())
    try:
        load_receipt(root / "staged" / str(date) / key)
        load_partial(partial)
    except StoreError as error:
        return error if partial.exists() else StoreError(error.what)
    return None


def _publish_arrays(
    root: Path, final: Path, array: Floats, described: Mapping[str, Any], more: Mapping[str, NDArray[Any]] | None = None
) -> Path:
    """A folder with values.f64, `more` files, and a sealed receipt.json that names their hashes."""
    contents = {VALUES: np.ascontiguousarray(array, dtype="<f8"), **(more or {})}
    with MeasuredFolder(root) as folder:
        for name, content in contents.items():
            folder.add(name, content)
        return folder.publish(final, {**described, "shape": list(array.shape)})


class MeasuredFolder:
    """A folder of measured arrays while it is written, one array after the other. A context manager."""

    def __init__(self, root: Path) -> None:
        self._root, self._staging = root, staging_folder(root)
        self._files: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> MeasuredFolder:
        self._folder = self._staging.__enter__()
        self._folder.mkdir()
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        return self._staging.__exit__(*raised)

    def add(self, name: str, content: NDArray[Any]) -> None:
        """Writes one array, which is C-contiguous and little-endian."""
        check_free_space(self._root, content.nbytes)
        with open(self._folder / name, "xb", buffering=0) as file:
            zarr_raw.write_all(file.fileno(), content)
        self._files[name] = (content.nbytes, hash_bytes(content))

    def publish(self, final: Path, described: Mapping[str, Any]) -> Path:
        """Adds the sealed receipt, and moves the folder to its name."""
        receipt = seal({**described, "files": {name: list(file) for name, file in self._files.items()}})
        (self._folder / "receipt.json").write_bytes(receipt)
        files = self._files | {"receipt.json": (len(receipt), hash_bytes(receipt))}
        return publish(self._root, self._folder, final, files)


def merge_statistics(root: Path, keys: Mapping[dt.date, str], config: Pipeline, about: AboutNodes) -> Frozen:
    """Merges the partial statistics of the training dates, in date order, on the frozen node list.

    Memory: one date's partial statistics, the frozen nodes and vocabularies, and the merged statistics, however many
    dates there are.

    Args:
        keys: staged key of each training date that goes in.
        about: the node table; where none lists the nodes, those found over these dates are frozen.

    Raises:
        StoreError: a staged array or partial that does not verify.
        UsageError: more categories than float32 has codes for.
    """
    features, cuts = config.feature_specs(), config.training_cuts or ()

    def receipt(date: dt.date) -> dict[str, Any]:
        return load_receipt(root / "staged" / str(date) / keys[date])

    def partial(date: dt.date) -> PartialStatistics:
        return load_partial(root / "partials" / str(date) / partial_key(keys[date], features, cuts))

    def categories(date: dt.date) -> Mapping[str, Sequence[str]]:
        if cuts:
            return _categories_of(root / "staged" / str(date) / keys[date], features, cuts)
        return receipt(date)["vocabularies"] if categorical(features) else {}

    return merge_dates(sorted(keys), lambda date: receipt(date)["nodes"], partial, categories, config, about)


def merge_dates(
    dates: Sequence[dt.date],
    nodes_of: Callable[[dt.date], Sequence[str]],
    partial: Callable[[dt.date], PartialStatistics],
    categories: Callable[[dt.date], Mapping[str, Sequence[str]]],
    config: Pipeline,
    about: AboutNodes,
) -> Frozen:
    """Merges what is known of the training dates, wherever it lies; as `merge_statistics`."""

    def partials() -> Iterator[tuple[dt.date, PartialStatistics]]:
        for date in dates:
            yield date, partial(date).on_nodes(positions(nodes_of(date), nodes), len(nodes.names))

    nodes = about.nodes or about.placed(sorted_names({name for date in dates for name in nodes_of(date)}))
    vocabularies = _merge_vocabularies(map(categories, dates), config.feature_specs())
    return Frozen(nodes, vocabularies, Statistics.of(list(config.features), partials()))


def _categories_of(folder: Path, features: Sequence[Feature], cuts: Collection[str]) -> dict[str, list[str]]:
    """Returns {place of a categorical feature: categories of a measured date's records in these cuts}.

    Raises:
        StoreError: the staged array does not verify.
    """
    if not categorical(features):
        return {}
    values, receipt = load_arrays(folder)
    values = values[_of_cuts(load_beside(folder), cuts, len(values))]
    named: dict[str, list[str]] = {}
    for place in categorical(features):
        codes, own = values[..., place], receipt["vocabularies"][str(place)]
        named[str(place)] = [own[int(code)] for code in np.unique(codes[~np.isnan(codes)])]
    return named


def _merge_vocabularies(known: Iterable[Mapping[str, Sequence[str]]], features: Sequence[Feature]) -> Vocabularies:
    wanted = categorical(features)
    if not wanted:
        return Vocabularies()
    names_by_feature: dict[int, set[str]] = {feature: set() for feature in wanted}
    for vocabularies in known:
        for feature, names in names_by_feature.items():
            names.update(vocabularies[str(feature)])
    for feature, names in names_by_feature.items():
        if len(names) > MOST_CODES:
            what = f"feature '{wanted[feature]}' has {len(names):,} categories, float32 holds {MOST_CODES:,} codes"
            raise UsageError(what, todo="Leave it out, or write coarser categories into the dumps")
    return Vocabularies({wanted[feature]: sorted_names(names) for feature, names in names_by_feature.items()})


def cut_names(root: Path, keys: Mapping[dt.date, str]) -> set[str]:
    """The names of all cuts of measured dates.

    Raises:
        StoreError: a staged array that does not verify.
    """
    blocks = (load_beside(root / "staged" / str(date) / key)["cut_names"] for date, key in sorted(keys.items()))
    return {name for names in blocks for name in decode_names(names)}


def normalise_date(
    root: Path,
    date: dt.date,
    key: str,
    config: Pipeline,
    target: Normaliser,
    memory_bytes: int,
    old: Part | None = None,
    nodes: tuple[int, int] | None = None,
) -> Normalised:
    """Maps a staged date to the frozen nodes and codes, fills, scales in float64, casts last, and publishes its shard.

    Memory: about four arrays of [T, N, F] float64, of the part's nodes alone where it is one.

    Args:
        memory_bytes: what this process may hold.
        old: what is committed of these nodes.
        nodes: those of the part; None: all nodes of the date.

    Raises:
        StoreError: the staged array does not verify. ResourceError: the grid does not fit.
        DumpError: a value that its transform or float32 cannot take.
    """
    folder = root / "staged" / str(date) / key
    known = load_receipt(folder)
    day, target = config.day(date, known["shape"][0]), target.reaching(known["nodes"])
    first, last = nodes or (0, len(target.nodes.names))
    refuse_grid(memory_bytes, day, config, last - first)
    place = positions(known["nodes"], target.nodes)
    staged = _load_staged(folder, known, day, place, nodes)
    weight = weight_of(staged.values_TNF, staged.rows, config, first_part=first == 0)
    encoded = encode_date(staged, config, target, place, slice(first, last), over=True)
    arrays: dict[str, zarr_raw.Array] = {"values": encoded.values_TNF}
    arrays |= staged.beside or {"time": instants(day)}
    if encoded.observed_TNF is not None:
        arrays["observed"] = encoded.observed_TNF
    shard, folders = publish_shard(root, date, arrays, target.about.of_nodes(first, last), config.store.formats, old)
    entry = Entry(day.start, day.num_steps, (shard,), day.length)
    unknown = Strangers.of(encoded.unknown_nodes, target.nodes.names) if first == 0 else NO_STRANGERS
    whole = (day.num_steps * (last - first),) * len(config.features)
    return Normalised(
        date=date,
        entry=entry,
        folders=folders,
        observed=whole if encoded.observed_TNF is None else cells_by_feature(encoded.observed_TNF),
        weight=weight,
        unknown_nodes=unknown,
        unknown_categories=encoded.unknown_categories,
    )


def _load_staged(folder: Path, known: Receipt, day: Day, place: Integers, nodes: tuple[int, int] | None) -> StagedDate:
    """A staged date; of a part its own columns, and of the first those of nodes that have no place beside them.

    Args:
        known: its receipt.
        place: of the date's nodes on the frozen list.
    """
    if nodes is None:
        values, receipt = load_arrays(folder, known)
        columns = None
    else:
        wanted = (place >= nodes[0]) & (place < nodes[1]) | ((place < 0) & (nodes[0] == 0))
        columns = np.flatnonzero(wanted) if wanted.any() else np.arange(len(place))[:1]
        values, receipt = load_columns(folder, columns, known)
    return StagedDate(
        day=day,
        values_TNF=values,
        nodes=tuple(receipt["nodes"]),
        vocabularies=receipt.get("vocabularies", {}),
        rows=receipt["rows"],
        beside={} if day.step else load_beside(folder),
        columns=columns,
    )
