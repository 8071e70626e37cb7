"""A shard as a Zarr v3 group whose every array is one uncompressed chunk: the chunk file is the raw buffer.

The metadata is written here, straight from the Zarr v3 specification, and not through zarr-python: its writer leaves
out a chunk that equals the fill value, which reads back as zeros, and costs 5 ms an array. zarr-python and xarray read
the result (`tests/contracts`), and `verify --full` compares them with our own reader.

    <folder>/zarr.json   values/zarr.json  values/0.0.0   time/zarr.json  time/0   [observed/zarr.json  observed/0.0.0]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.disk.durable import begin_writing
from dateshard.shardstore.errors import DamagedError, Where
from dateshard.shardstore.identity import hash_bytes

Array = NDArray[Any]
CELLS = ("time", "node", "feature")
DIMENSIONS = {
    "values": CELLS,
    "observed": CELLS,
    "time": ("time",),
    "cuts": ("cut",),
    "cut_names": ("cut_names_byte",),
}
ZARR_TYPES = {"<f4": "float32", "<i8": "int64", "|b1": "bool", "|u1": "uint8"}
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
ABOUT_CUTS = {"cuts": {"of": "rows at which a piece begins"}, "cut_names": {"of": "a JSON list in UTF-8"}}
TIME_ATTRIBUTES = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}


def chunk_file(name: str) -> str:
    """Path of an array's only chunk inside the group: `values/0.0.0`, `time/0`."""
    return f"{name}/" + ".".join("0" * len(DIMENSIONS[name]))


def metadata(name: str, shape: Sequence[int], dtype: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The zarr.json of one array: one chunk, little-endian bytes, no compressor, flat chunk keys."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": ZARR_TYPES[dtype],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
        "fill_value": False if dtype == "|b1" else 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": dict(attributes),
        "dimension_names": list(DIMENSIONS[name]),
        "storage_transformers": [],
    }


def little_endian(array: Array) -> Array:
    """C-contiguous, little-endian, in the type that is stored."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def write(
    folder: Path,
    arrays: Mapping[str, Array],
    feature_names: Sequence[str],
    hashes: Mapping[str, tuple[int, str]] | None = None,
) -> dict[str, tuple[int, str]]:
    """Writes the group into a new folder and returns {path in it: (bytes, xxh3_128)} of every file.

    The hashes are taken of the memory that was computed; publishing compares them with what the files hold.

    Args:
        hashes: {array: (bytes, xxh3_128)} of that memory, where it was hashed already.
    """
    folder.mkdir()
    files = {"zarr.json": _write_bytes(folder / "zarr.json", _formatted(GROUP))}
    for name, given in arrays.items():
        array = little_endian(given)
        (folder / name).mkdir()
        described = _described(name, array.shape, array.dtype.str, tuple(feature_names))
        files[f"{name}/zarr.json"] = _write_bytes(folder / name / "zarr.json", described)
        with open(folder / chunk_file(name), "xb", buffering=0) as file:
            write_all(file.fileno(), array)
        files[chunk_file(name)] = hashes[name] if hashes else (array.nbytes, hash_bytes(array))
    return files


@lru_cache(maxsize=16)  # most dates of a dataset have one shape, and indented JSON is made in Python
def _described(name: str, shape: tuple[int, ...], dtype: str, feature_names: tuple[str, ...]) -> bytes:
    return _formatted(metadata(name, shape, dtype, attributes_of(name, feature_names)))


def write_all(descriptor: int, array: Array) -> None:
    """Plain writes until all of the buffer is out (a writable map would end in SIGBUS on a full disk).

    The disk begins at once: a commit waits for what is left."""
    view = array.data.cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
    begin_writing(descriptor)


def attributes_of(name: str, feature_names: Sequence[str]) -> dict[str, Any]:
    """What a labelled reader needs: feature names, or the units of time."""
    if name == "time":
        return TIME_ATTRIBUTES
    return {"features": list(feature_names)} if DIMENSIONS[name] == CELLS else ABOUT_CUTS[name]


def check_metadata(folder: Path, shapes: Mapping[str, tuple[Sequence[int], str]], feature_names: Sequence[str]) -> None:
    """Compares the group's zarr.json and each array's with what the manifest says of them.

    Raises:
        DamagedError: naming the file and the key that differs.
    """
    expected = {
        f"{name}/zarr.json": metadata(name, shape, dtype, attributes_of(name, feature_names))
        for name, (shape, dtype) in shapes.items()
    }
    for name, described in {"zarr.json": GROUP, **expected}.items():
        path = folder / name
        try:
            data = path.read_bytes()
            stored = json.loads(data)
        except (OSError, ValueError, RecursionError):
            raise DamagedError("the metadata cannot be read", where=Where(file=str(path))) from None
        if data == _formatted(described):
            continue
        for key in sorted(described):
            if not isinstance(stored, dict) or stored.get(key) != described[key]:
                raise DamagedError(f"'{key}' is not what was committed", where=Where(file=str(path)))
        raise DamagedError("not byte for byte what was committed", where=Where(file=str(path)))


def _write_bytes(path: Path, data: bytes) -> tuple[int, str]:
    with open(path, "xb") as file:
        file.write(data)
    return len(data), hash_bytes(data)


def _formatted(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
