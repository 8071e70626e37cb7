"""Measured arrays lie in staged/<date>/<key>/ and partials/<date>/<key>/.

Each is values.f64 and a sealed receipt.json; of a feature whose scale needs quantiles its partial has a
histogram.i64 too. A date that was measured in parts (`store.nodes_per_part`) has a values-00000.f64 for each.

A damaged folder stays as it is; what mends it is published beside it as <key>-2 and found there.
"""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import copies_of
from dateshard.shardstore.errors import DamagedError, StoreError, Where, refuse_special
from dateshard.shardstore.identity import expected_form, hash_bytes, hash_file, identity, unseal
from dateshard.shardstore.layouts.category_codes import recode
from dateshard.shardstore.layouts.feature import Feature, partial_settings
from dateshard.shardstore.objects.bucket_store import discard, in_use, read_part
from dateshard.shardstore.scaling.histogram import Histogram
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.sources import Sources

VALUES, HISTOGRAM = "values.f64", "histogram.i64"
PART_VALUES = "values-{:05}.f64"  # of a date that was measured in parts, by ranges of its nodes
BESIDE = {"time": ("time.i64", "<i8"), "cuts": ("cuts.i64", "<i8"), "cut_names": ("cut_names.u8", "|u1")}
FILES = {VALUES, HISTOGRAM, *(file for file, _ in BESIDE.values())}
Receipt = dict[str, Any]
Array = TypeVar("Array", bound=NDArray[Any])
Loaded = TypeVar("Loaded")


def partial_key(staged: str, features: Sequence[Feature], cuts: Sequence[str] = ()) -> str:
    """Returns the key of a date's partial statistics, made of the staged array and the settings they depend on.

    Args:
        cuts: names of the training cuts, of whose records alone they are; empty where dates are divided.
    """
    return identity([staged, partial_settings(features), *([list(cuts)] if cuts else [])])


def load_arrays(folder: Path, receipt: Receipt | None = None) -> tuple[Floats, Receipt]:
    """A staged or partial folder's array and receipt, verified; or those of its newest good copy.

    Args:
        receipt: what `load_receipt` gave, where it was asked already.

    Raises:
        DamagedError: naming the file; measuring the date again mends it.
    """
    receipt = receipt or load_receipt(folder)
    if "parts" not in receipt:
        return _first_good(folder, lambda good, own: (_read_values(good, own), own), receipt)
    whole = np.empty(receipt["shape"], dtype="<f8")
    for nodes, values in load_parts(folder):
        whole[:, nodes] = values
    return whole, receipt


def load_parts(folder: Path) -> Iterator[tuple[slice, Floats]]:
    """A staged date's array in the parts that it was measured in, verified: (nodes, [T, n, F]); in one where it has none.

    Memory: one part.

    Raises:
        DamagedError: naming the file; measuring the date again mends it.
    """
    for number, nodes in enumerate(_ranges(load_receipt(folder))):
        yield nodes, _first_good(folder, partial(_part, number=number))


def load_columns(folder: Path, columns: Integers, receipt: Receipt) -> tuple[Floats, Receipt]:
    """A staged date's array of some nodes alone, and its receipt: [T, n, F] in the order of `columns`, which ascend.

    Memory: these, and the largest part in which the date was measured; only parts with such a node are read.

    Args:
        receipt: what `load_receipt` gave.

    Raises:
        DamagedError: naming the file; measuring the date again mends it.
    """
    steps, _, features = receipt["shape"]
    chosen = np.empty((steps, len(columns), features), dtype="<f8")
    for number, nodes in enumerate(_ranges(receipt)):
        here = (columns >= nodes.start) & (columns < nodes.stop)
        if here.any():
            values = _first_good(folder, partial(_part, number=number))
            chosen[:, here] = values[:, columns[here] - nodes.start]
    return chosen, receipt


def value_file(receipt: Receipt, number: int) -> str:
    """The file of a part of a measured array."""
    return PART_VALUES.format(number) if "parts" in receipt else VALUES


def _ranges(receipt: Receipt) -> list[slice]:
    edges = np.cumsum([0, *receipt.get("parts", [receipt["shape"][1]])]).tolist()
    return [slice(low, high) for low, high in pairwise(edges)]


def _part(folder: Path, receipt: Receipt, number: int) -> Floats:
    """A part's array, with the codes of the date's vocabularies in place of its own."""
    steps, _, features = receipt["shape"]
    nodes = _ranges(receipt)[number]
    shape = (steps, nodes.stop - nodes.start, features)
    values = _read(folder, value_file(receipt, number), np.empty(shape, dtype="<f8"), receipt)
    if "parts" in receipt:
        for feature, own in receipt["part_vocabularies"][number].items():
            codes, _ = recode(values[..., int(feature)], own, receipt["vocabularies"][feature])
            values[..., int(feature)] = codes - 1
    return values


def load_beside(folder: Path) -> dict[str, NDArray[Any]]:
    """What a staged date keeps beside its values, {name: array}, verified; {} of a grid.

    Raises:
        DamagedError: naming the file; measuring the date again mends it.
    """

    def read(good: Path, receipt: Receipt) -> dict[str, NDArray[Any]]:
        there = {name: form for name, form in BESIDE.items() if form[0] in receipt["files"]}
        return {
            name: _read(good, file, np.empty(receipt["files"][file][0] // np.dtype(kind).itemsize, kind), receipt)
            for name, (file, kind) in there.items()
        }

    return _first_good(folder, read)


def _read_values(folder: Path, receipt: Receipt) -> Floats:
    return _read(folder, VALUES, np.empty(receipt["shape"], dtype="<f8"), receipt)


def _read(folder: Path, name: str, values: Array, receipt: Receipt) -> Array:
    """Reads a file by hand into `values`, for np.fromfile gives back whatever lay in memory where a read fails.

    What is hashed is what was read: the file is read once, and may change afterwards.

    Raises:
        DamagedError: it is not what was measured.
    """
    path = folder / name
    try:
        refuse_special(path)
        with open(path, "rb", buffering=0) as file:
            view = values.reshape(-1).data.cast("B")
            while view and (count := file.readinto(view)):
                view = view[count:]
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from None
    if view or [size, hash_bytes(values)] != receipt["files"][name]:
        raise _damaged(path, "size or hash is not what was measured")
    return values


def load_partial(folder: Path) -> PartialStatistics:
    """A date's partial statistics, verified like arrays.

    Raises:
        DamagedError: naming the file; measuring the date again mends it.
    """

    def read(good: Path, receipt: Receipt) -> PartialStatistics:
        moments = _read_values(good, receipt)
        if HISTOGRAM not in receipt["files"]:
            return PartialStatistics(moments)
        rows = _read(good, HISTOGRAM, np.empty(receipt["files"][HISTOGRAM][0], np.uint8), receipt)
        with expected_form(str(good / HISTOGRAM)):
            return PartialStatistics(moments, Histogram.from_bytes(rows.data))

    return _first_good(folder, read)


def load_receipt(folder: Path) -> Receipt:
    """A folder's sealed receipt alone, without its array.

    Raises:
        DamagedError: neither it nor one of a copy is good.
    """
    try:
        return _receipt(folder)
    except DamagedError:
        return _first_good(folder, _verified)


def _first_good(folder: Path, read: Callable[[Path, Receipt], Loaded], receipt: Receipt | None = None) -> Loaded:
    """What `read` makes of a folder that is as its receipt says: of the newest copy, else of the folder itself.

    Args:
        receipt: the folder's, where it is known.
    """
    with in_use(folder):
        for copy in copies_of(folder):
            with suppress(DamagedError):
                return read(copy, _receipt(copy))
        return read(folder, receipt or _receipt(folder))


def _verified(folder: Path, receipt: Receipt) -> Receipt:
    for name, expected in receipt["files"].items():
        path = folder / name
        try:
            actual = hash_file(path)
        except OSError as error:
            raise _damaged(path, f"cannot be read: {error.strerror}") from None
        if [*actual] != expected:
            raise _damaged(path, "size or hash is not what was measured")
    return receipt


def _receipt(folder: Path) -> Receipt:
    path = folder / "receipt.json"
    try:
        receipt: Receipt = unseal(read_part(path), str(path))
        with expected_form(str(path)):
            names = [value_file(receipt, number) for number in range(len(_ranges(receipt)))]
            sizes = [receipt["files"][name][0] for name in names]
            if not set(receipt["files"]) <= {*FILES, *names} or sum(sizes) != 8 * math.prod(receipt["shape"]):
                raise ValueError(sizes)
            if path.parents[2].name == "staged":  # partial statistics have no names of their own
                _refuse_other_nodes(receipt)
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from None
    except DamagedError as error:
        raise _damaged(path, error.what) from None
    return receipt


def _refuse_other_nodes(receipt: Receipt) -> None:
    nodes = receipt["nodes"]
    if len(nodes) != receipt["shape"][1] or not {*map(type, nodes)} <= {str}:
        raise ValueError(nodes)
    _ = dict(receipt["rows"])


def _damaged(path: Path, what: str) -> DamagedError:
    date = path.parents[1].name
    return DamagedError(
        f"the measured array is missing or damaged: {what}",
        where=Where(file=str(path)),
        todo=to_run("preprocess", date, "--force", config=True),
    )


def verify_measured(
    root: Path,
    sources: Sources,
    features: Sequence[Feature],
    dates: Sequence[dt.date] | None = None,
    cuts: Sequence[str] = (),
) -> Iterator[tuple[str, StoreError | None]]:
    """Hashes the measured arrays that a sources file names, of all dates or those given; yields (name, error or None).

    Partial statistics are looked at where they are: only training dates need theirs under the present settings.
    """
    chosen = None if dates is None else set(dates)
    for date, row in sorted(sources.dates.items()):
        if not row.staged or (chosen is not None and date not in chosen):
            continue
        names = [f"staged/{date}/{row.staged}", f"partials/{date}/{partial_key(row.staged, features, cuts)}"]
        for name in names:
            discard(root / name)
            with in_use(root / name):
                if name.startswith("partials") and not ((root / name).exists() or copies_of(root / name)):
                    continue
                try:
                    _first_good(root / name, _verified)
                except DamagedError as error:
                    yield name, _with_dump(error, Path(row.dump.path))
                else:
                    yield name, None


def _with_dump(error: DamagedError, dump: Path) -> DamagedError:
    """Only the dump mends what was measured of it."""
    todo = error.todo if dump.is_file() else f"Put {dump} back. {error.todo}"
    return DamagedError(error.what, where=error.where, todo=todo)
