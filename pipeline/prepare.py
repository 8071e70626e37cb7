"""The three acts: measure a date, merge the statistics, normalise a date.

Measuring and normalising run in worker processes: they stage and publish, and return a small receipt. Nothing they
publish counts before the process that holds the lock commits it.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Pipeline
from pipeline.plan import Dump
from pipeline.shares import record_budget
from shardstore.calendar import day_of, instants, parse_step
from shardstore.commit import publish, staging_folder
from shardstore.durable import check_free_space
from shardstore.errors import DumpError, StoreError, UsageError, Where
from shardstore.frozen import Frozen, Nodes, Vocabularies
from shardstore.identity import hash_bytes, hash_file, seal
from shardstore.layouts import grid
from shardstore.layouts.categories import MOST_CODES, own_vocabulary, recode, sorted_names
from shardstore.layouts.encode import encode
from shardstore.layouts.feature import Feature, categorical, with_histogram
from shardstore.manifest import Entry, Manifest, Part
from shardstore.measured import HISTOGRAM, VALUES, load_arrays, load_partial, load_receipt, partial_key
from shardstore.partials import PartialStatistics
from shardstore.scale import Scale
from shardstore.shards import publish_shard
from shardstore.statistics import Statistics
from shardstore.storage import About, zarr_raw
from shardstore.transform import Floats, Integers, transform

if TYPE_CHECKING:
    from pipeline.decode import Decoded

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the parent process needs of a measured date: small, whatever the date's size."""

    date: dt.date
    key: str
    rows: Mapping[str, Any]
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Normalised:
    """Receipt of a normalised date."""

    date: dt.date
    entry: Entry
    folders: tuple[Path, ...]
    unknown_nodes: int = 0  # nodes of the date that training never saw: they have no place in the frozen list
    unknown_categories: Mapping[str, int] = field(default_factory=dict)  # likewise, by feature: they have code 0


@dataclass(frozen=True, slots=True)
class Target:
    """What a date is normalised to: the frozen nodes and vocabularies, and the scale of the frozen statistics.

    Attributes:
        about: what files in other formats than Zarr say of themselves.
    """

    nodes: Nodes
    vocabularies: Vocabularies
    scale: Scale
    about: About

    @staticmethod
    def of(frozen: Frozen, manifest: Manifest) -> Target:
        """The target of a generation; of the manifest its dates do not matter."""
        specs = [(feature.scale, feature.scale_per) for feature in manifest.features]
        scale = frozen.statistics.scale(specs, frozen.nodes.names)
        ids = {"nodes": manifest.nodes, "statistics": manifest.statistics}
        ids |= {"vocabularies": manifest.vocabularies} if manifest.vocabularies else {}
        features, nodes = manifest.features, frozen.nodes.names
        about = About(manifest.dataset, manifest.timezone, manifest.step, features, nodes, ids, scale)
        return Target(frozen.nodes, frozen.vocabularies, scale, about)


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
    from pipeline.decode import decode  # polars takes 0.3 s: what only plans or normalises should not wait for it

    if not dump.files:
        where, todo = Where(str(dump.path), date), "Write the dump again, or remove the folder"
        raise DumpError("the folder holds no file", where=where, todo=todo)
    with staging_folder(root) as spilled:
        budget = record_budget(memory_bytes, date, config, len(table_nodes or ()))
        decoded = decode(dump.files, date, config, table_nodes, budget, spilled)
        values, duplicates = _reduce(decoded, config, dump.path)
    if [hash_file(path)[1] for path in dump.files] != list(dump.hashes):
        raise DumpError(
            "the dump changed while it was read", where=Where(str(dump.path), date), todo="Run the command again"
        )
    rows = {**asdict(decoded.rows), "duplicates": asdict(duplicates) if config.source.duplicates == "last" else None}
    receipt = {"nodes": list(decoded.nodes), "rows": rows, "key": key, **_own_vocabularies(values, decoded)}
    partial = publish_partial(root, date, key, values, config)  # first: a staged date never lacks it after a kill
    staged = _publish_arrays(root, root / "staged" / str(date) / key, values, receipt)
    return Measured(date, key, rows, (staged, partial))


def _reduce(decoded: Decoded, config: Pipeline, path: Path) -> tuple[Floats, grid.Duplicates]:
    """[T, N, F] float64 and what was found of duplicates, stretch by stretch of the date."""
    features, num_nodes = config.feature_specs(), len(decoded.nodes)
    values = np.empty((decoded.day.num_steps, num_nodes, len(features)))
    dropped = conflicting = 0
    for part, records, place_R in decoded.stretches():
        order = grid.arrange(records, part, num_nodes)
        kept, found = grid.keep_last(records, order)
        if place_R is not None and found.dropped:
            raise _repeated(decoded, config, path, int(place_R[np.setdiff1d(order, kept)].min()), found.dropped)
        first = (part.start - decoded.day.start) // part.step
        order = kept if config.source.duplicates == "last" else order
        values[first : first + part.num_steps] = grid.aggregate(records, order, part, num_nodes, features)
        dropped, conflicting = dropped + found.dropped, conflicting + found.conflicting
    return values, grid.Duplicates(dropped, conflicting)


def _repeated(decoded: Decoded, config: Pipeline, path: Path, place: int, count: int) -> DumpError:
    file, row = decoded.places.of(place)
    return DumpError(
        f"the row's node and instant come again in a later row ({count:,} such rows)",
        where=Where(str(file), decoded.day.date, config.source.time_columns[-1], row),
        todo="Correct the dump, or set pipeline.source.duplicates to last or keep",
    )


def _own_vocabularies(values_TNF: Floats, decoded: Decoded) -> dict[str, Any]:
    """Changes categorical cells, in place, to codes of the date's own vocabulary; gives {} where no feature is such."""
    found = {}
    for feature, names in decoded.categories.items():
        values_TNF[..., feature], found[str(feature)] = own_vocabulary(values_TNF[..., feature], names)
    return {"vocabularies": {feature: list(names) for feature, names in found.items()}} if found else {}


def publish_partial(root: Path, date: dt.date, key: str, values: Floats, config: Pipeline) -> Path:
    """Takes a staged date's partial statistics (after the transforms) and publishes partials/<date>/<key>/.

    Of a categorical feature they hold the number of observed cells: its codes are the date's own and no quantities.
    """
    refuse_outside(values, date, config)
    features = config.feature_specs()
    cells = transform(values, [feature.transform for feature in features])
    if codes := list(categorical(features)):
        cells = cells.copy()
        cells[..., codes] = np.where(np.isnan(cells[..., codes]), np.nan, 0.0)
    partial = PartialStatistics.of(cells, with_histogram(features))
    more = {HISTOGRAM: partial.histogram.to_bytes()} if partial.histogram.rows_4K.size else {}
    final = root / "partials" / str(date) / partial_key(key, features)
    return _publish_arrays(root, final, partial.moments_6NF, {"id": partial.id}, more)


def refuse_outside(values_TNF: Floats, date: dt.date, config: Pipeline) -> None:
    """Raises:
    DumpError: a value that its feature's transform cannot take, or that float32 cannot hold; names the first.
    """
    for index, (name, feature) in enumerate(config.features.items()):
        low = -1.0 if feature.transform == "log1p" else -math.inf
        column = values_TNF[..., index]
        outside = column[(column <= low) | (np.abs(column) > LARGEST)]
        if outside.size:
            why = "log1p takes values above -1" if outside[0] <= low else "float32 cannot hold it"
            where = Where(date=date, column=config.column_of(name), value=repr(float(outside[0])))
            todo = f"Correct the dump, or pipeline.features.{name}"
            raise DumpError(f"{why} (feature '{name}', {outside.size:,} such)", where=where, todo=todo)


def take_partial(root: Path, date: dt.date, key: str, config: Pipeline) -> Path:
    """Takes a date's partial statistics again from its staged array; the dump is not read.

    Raises:
        StoreError: the staged array does not verify.
    """
    values, _ = load_arrays(root / "staged" / str(date) / key)
    return publish_partial(root, date, key, values, config)


def why_lost(root: Path, date: dt.date, key: str, config: Pipeline) -> StoreError | None:
    """Why a date's measured arrays cannot be merged; partials that were never taken are no damage."""
    partial = root / "partials" / str(date) / partial_key(key, config.feature_specs())
    try:
        load_receipt(root / "staged" / str(date) / key)
        load_partial(partial)
    except StoreError as error:
        return error if partial.exists() else StoreError(error.what)
    return None


def _publish_arrays(
    root: Path, final: Path, array: Floats, described: Mapping[str, Any], more: Mapping[str, bytes] | None = None
) -> Path:
    """A folder with values.f64, `more` files, and a sealed receipt.json that names their hashes."""
    data = np.ascontiguousarray(array, dtype="<f8")
    check_free_space(root, data.nbytes + sum(map(len, (more or {}).values())))
    with staging_folder(root) as folder:
        folder.mkdir()
        with open(folder / VALUES, "xb", buffering=0) as file:
            zarr_raw.write_all(file.fileno(), data)
        files = {VALUES: (data.nbytes, hash_bytes(data))}
        for name, content in (more or {}).items():
            (folder / name).write_bytes(content)
            files[name] = (len(content), hash_bytes(content))
        receipt = seal({**described, "shape": list(data.shape), "files": {k: list(v) for k, v in files.items()}})
        (folder / "receipt.json").write_bytes(receipt)
        files["receipt.json"] = (len(receipt), hash_bytes(receipt))
        return publish(root, folder, final, files)


def merge_statistics(root: Path, keys: Mapping[dt.date, str], config: Pipeline, table: Nodes | None) -> Frozen:
    """Merges the partial statistics of the training dates, in date order, on the frozen node list.

    Memory: one date's partial statistics, the frozen nodes and vocabularies, and the merged statistics, however many
    dates there are.

    Args:
        keys: staged key of each training date that goes in.
        table: the node table; None freezes the nodes found over these dates.

    Raises:
        StoreError: a staged array or partial that does not verify.
        UsageError: more categories than float32 has codes for.
    """
    features, dates = config.feature_specs(), sorted(keys)

    def receipt(date: dt.date) -> dict[str, Any]:
        return load_receipt(root / "staged" / str(date) / keys[date])

    def partials() -> Iterator[tuple[dt.date, PartialStatistics]]:
        for date in dates:
            partial = load_partial(root / "partials" / str(date) / partial_key(keys[date], features))
            yield date, partial.on_nodes(positions(receipt(date)["nodes"], nodes), len(nodes.names))

    nodes = table or Nodes.plain({name for date in dates for name in receipt(date)["nodes"]})
    vocabularies = _merge_vocabularies((receipt(date) for date in dates), features)
    return Frozen(nodes, vocabularies, Statistics.of(list(config.features), partials()))


def _merge_vocabularies(receipts: Iterable[Mapping[str, Any]], features: Sequence[Feature]) -> Vocabularies:
    wanted = categorical(features)
    if not wanted:
        return Vocabularies()
    found: dict[int, set[str]] = {feature: set() for feature in wanted}
    for receipt in receipts:
        for feature, names in found.items():
            names.update(receipt["vocabularies"][str(feature)])
    for feature, names in found.items():
        if len(names) > MOST_CODES:
            what = f"feature '{wanted[feature]}' has {len(names):,} categories, float32 holds {MOST_CODES:,} codes"
            raise UsageError(what, todo="Leave it out, or write coarser categories into the dumps")
    return Vocabularies({wanted[feature]: sorted_names(names) for feature, names in found.items()})


def positions(names: Sequence[str], nodes: Nodes) -> Integers:
    """Where each of a date's nodes stands in the frozen list, -1 for one that training never saw."""
    place = {name: index for index, name in enumerate(nodes.names)}
    return np.asarray([place.get(name, -1) for name in names], dtype=np.int64)


def normalise_date(
    root: Path, date: dt.date, key: str, config: Pipeline, target: Target, old: Part | None = None
) -> Normalised:
    """Maps a staged date to the frozen nodes and codes, fills, scales in float64, casts last, and publishes its shard.

    Memory: about four arrays of [T, N, F] float64.

    Args:
        old: what is committed of the date.

    Raises:
        StoreError: the staged array does not verify.
        DumpError: a value that its transform or float32 cannot take.
    """
    values, receipt = load_arrays(root / "staged" / str(date) / key)
    refuse_outside(values, date, config)
    features, nodes = config.feature_specs(), target.nodes
    unknown = _recode(values, receipt, target.vocabularies, features)
    place = positions(receipt["nodes"], nodes)
    encoded, observed = encode(grid.on_nodes(values, place, len(nodes.names)), features, target.scale)
    _refuse_infinite(encoded, date, config)
    day = day_of(date, config.source.timezone, parse_step(config.step))
    arrays: dict[str, zarr_raw.Array] = {"values": encoded, "time": instants(day)}
    if observed is not None:
        arrays["observed"] = observed
    part, folders = publish_shard(root, date, arrays, target.about, config.store.formats, old)
    return Normalised(date, Entry(day.start, day.num_steps, (part,)), folders, int((place < 0).sum()), unknown)


def _recode(
    values_TNF: Floats, receipt: Mapping[str, Any], vocabularies: Vocabularies, features: Sequence[Feature]
) -> dict[str, int]:
    """Changes a date's own codes to frozen ones, in place; gives the number of unseen categories by feature."""
    unknown: dict[str, int] = {}
    for feature, name in categorical(features).items():
        own, frozen = receipt["vocabularies"][str(feature)], vocabularies.names[name]
        values_TNF[..., feature], count = recode(values_TNF[..., feature], own, frozen)
        unknown |= {name: count} if count else {}
    return unknown


def _refuse_infinite(encoded_TNF: NDArray[np.float32], date: dt.date, config: Pipeline) -> None:
    if np.isfinite(encoded_TNF).all():
        return
    index = int(np.flatnonzero(~np.isfinite(encoded_TNF).all(axis=(0, 1)))[0])
    name = list(config.features)[index]
    raise DumpError(
        f"a value lies so far from the training values that float32 cannot hold it scaled (feature '{name}')",
        where=Where(date=date, column=config.column_of(name)),
        todo=f"Correct the dump, or set pipeline.features.{name}.range or clip",
    )
