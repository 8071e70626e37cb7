"""A date's arrays on their way to disk and back, in every storage that the dataset wants.

    shards/<date>/<id>/                        Zarr, named by the arrays' content
    <format>/<date>/<key>/<date>.<format>      any other, named by that and by what the file says of itself

The id is that of the canonical buffers, so it is the same in every storage. What other libraries write may differ from
version to version: a committed file that is as its manifest says is kept, and not written again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import content_of, copies_of, first_damaged, publish, staging_folder
from dateshard.shardstore.disk.durable import check_free_space
from dateshard.shardstore.errors import DamagedError, Where
from dateshard.shardstore.identity import hash_bytes, identity
from dateshard.shardstore.manifest import Part, Stored
from dateshard.shardstore.objects.bucket_store import discard, in_use
from dateshard.shardstore.storage import About, Arrays, storage_of, zarr_raw

Files = Mapping[str, tuple[int, str]]


def canonical_files(arrays: Arrays) -> dict[str, tuple[int, str]]:
    """Returns {array: (bytes, xxh3_128)} of the C-contiguous little-endian buffers."""
    buffers = {name: zarr_raw.little_endian(array) for name, array in arrays.items()}
    return {name: (buffer.nbytes, hash_bytes(buffer)) for name, buffer in buffers.items()}


def shard_id(shape: Sequence[int], files: Files) -> str:
    """Returns the id of a shard, made of its content, whatever it is stored as."""
    return identity([[list(shape), "float32"], {name: digest for name, (_, digest) in files.items()}])


def publish_shard(
    root: Path, date: dt.date, arrays: Arrays, about: About, formats: Sequence[str], old: Part | None = None
) -> tuple[Part, tuple[Path, ...]]:
    """Publishes a date's arrays, or a part of them, in every given format; returns the part, and folders to be made durable.

    Args:
        about: of just these nodes.
        old: what is committed of them; a file of it that fits and is whole is kept as it is.

    Raises:
        DamagedError: what was written does not read back. DiskFullError.
    """
    arrays = {name: zarr_raw.little_endian(array) for name, array in arrays.items()}
    check_free_space(root, sum(array.nbytes for array in arrays.values()) * len(formats))
    nodes, folders = (about.begin, about.begin + arrays["values"].shape[1]), list[Path]()
    files = canonical_files(arrays)
    content = name = shard_id(arrays["values"].shape, files)
    written: dict[str, Stored | None] = {}
    for format_name in formats:
        if format_name == "zarr":
            written["zarr"] = None
            if old and _whole_zarr(root, date, old, (content, arrays), about):
                name = old.id
                continue
            folders.append(_publish_zarr(root, root / "shards" / str(date) / content, arrays, about, files))
            name = folders[-1].name
            continue
        key = identity([content, about.to_json(), storage_of(format_name).CODE])
        kept = old.formats.get(format_name) if old else None
        if kept and content_of(kept.folder) == key and intact(root, date, format_name, kept):
            written[format_name] = kept
            continue
        written[format_name], folder = _publish_file(root, date, (format_name, key), arrays, about)
        folders.append(folder)
    return Part(name, nodes, files, dict(sorted(written.items()))), tuple(folders)


def _whole_zarr(root: Path, date: dt.date, old: Part, new: tuple[str, Arrays], about: About) -> bool:
    """Whether the committed folder is as it was, and holds what would be written."""
    content, arrays = new
    if "zarr" not in old.formats or content_of(old.id) != content:
        return False
    folder = root / "shards" / str(date) / old.id
    with in_use(folder):
        return _has_arrays(folder, old, arrays, about)


def _has_arrays(folder: Path, old: Part, arrays: Arrays, about: About) -> bool:
    if first_damaged(folder, {zarr_raw.chunk_file(array): file for array, file in old.files.items()}) is not None:
        return False
    shapes = {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
    try:
        zarr_raw.check_metadata(folder, shapes, [feature.name for feature in about.features])
    except DamagedError:
        return False
    return True


def _publish_zarr(root: Path, final: Path, arrays: Arrays, about: About, files: Files) -> Path:
    with staging_folder(root) as folder:
        hashes = zarr_raw.write(folder, arrays, [feature.name for feature in about.features], files)
        return publish(root, folder, final, hashes)


def _publish_file(
    root: Path, date: dt.date, place: tuple[str, str], arrays: Arrays, about: About
) -> tuple[Stored, Path]:
    """Writes a date's file, after it was decoded again and compared: no library is trusted with the only copy."""
    format_name, key = place
    storage, file = storage_of(format_name), f"{date}.{format_name}"
    data = storage.encode(arrays, about, date)
    if canonical_files(storage.decode(data)) != canonical_files(arrays):
        what = f"as {format_name} the arrays do not come back bit for bit: this version of its library cannot be used"
        raise DamagedError(what, where=Where(date=date), todo="Leave it out of pipeline.store.formats")
    hashes = {file: (data.nbytes, hash_bytes(data))}
    with staging_folder(root) as folder:
        folder.mkdir()
        with open(folder / file, "xb", buffering=0) as opened:
            zarr_raw.write_all(opened.fileno(), np.frombuffer(data, dtype=np.uint8))
        published = publish(root, folder, root / format_name / str(date) / key, hashes)
    return Stored(published.name, *hashes[file]), published


def stored_path(root: Path, date: dt.date, format_name: str, stored: Stored) -> Path:
    """A date's file in a storage beside Zarr."""
    return root / format_name / str(date) / stored.folder / f"{date}.{format_name}"


def intact(root: Path, date: dt.date, format_name: str, stored: Stored) -> bool:
    """Whether a date's file is there as it was committed."""
    path = stored_path(root, date, format_name, stored)
    with in_use(path.parent):
        return first_damaged(path.parent, {path.name: (stored.size, stored.hash)}) is None


def load_stored(root: Path, date: dt.date, shard: Part) -> dict[str, NDArray[Any]]:
    """A date's arrays out of a storage beside Zarr: the first of its files, or of their mended copies, that is whole.

    Memory: the file, and about twice the arrays.

    Raises:
        DamagedError: naming the first damaged file; none is as committed.
    """
    damage: DamagedError | None = None
    for format_name, stored in shard.formats.items():
        if stored is None:
            continue
        path = stored_path(root, date, format_name, stored)
        for candidate in _candidates(path):
            try:
                return _load(candidate, format_name, (stored.size, stored.hash), shard)
            except DamagedError as error:
                damage = damage or error
    assert damage is not None, "a date is stored as something"
    raise damage


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    yield from (copy / path.name for copy in copies_of(path.parent))
    if discard(path.parent):
        yield path


def verify_stored(root: Path, date: dt.date, shard: Part, *, full: bool) -> None:
    """Hashes a date's files beside Zarr; with `full` also compares their arrays with the committed ones.

    Raises:
        DamagedError: naming the file.
    """
    for format_name, stored in shard.formats.items():
        if stored is None:
            continue
        path, expected = stored_path(root, date, format_name, stored), (stored.size, stored.hash)
        _load(path, format_name, expected, shard) if full else _read(path, expected)


def _load(path: Path, format_name: str, expected: tuple[int, str], shard: Part) -> dict[str, NDArray[Any]]:
    data = _read(path, expected)
    try:
        arrays = storage_of(format_name).decode(memoryview(data))
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if canonical_files(arrays) != dict(shard.files):
        raise _damaged(path, "its arrays are not those that were committed")
    return arrays


def _read(path: Path, expected: tuple[int, str]) -> bytes:
    try:
        with in_use(path.parent):
            data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"a committed file cannot be read: {error.strerror}") from None
    if (len(data), hash_bytes(data)) != tuple(expected):
        raise _damaged(path, "size or hash is not what was committed; nothing of it was used")
    return data


def _damaged(path: Path, what: str) -> DamagedError:
    date = path.parents[1].name
    return DamagedError(
        what,
        where=Where(file=str(path), date=dt.date.fromisoformat(date)),
        todo=to_run("preprocess", date, "--force", config=True),
    )
