"""The storage contract: what we write, zarr-python and xarray read alike."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from shardstore.dataset import Dataset
from shardstore.errors import DamagedError
from shardstore.storage import zarr_raw

DST = dt.date(2013, 3, 10)
ZERO, EMPTY = dt.date(2013, 3, 11), dt.date(2013, 3, 12)


@pytest.fixture
def dataset(make_world: Callable[..., Any]) -> Dataset:
    """Ordinary dates, one of 23 hours, one whose every value is 0 once scaled, one without any value."""
    world = make_world(6, first="2013-03-08", zone="America/New_York", missing=0.5, split={"train": "..2013-03-10"})
    features = world.tree["pipeline"]["features"]
    features["speed"] |= {"scale": "none"}
    features["volume"] = {"column": "vehicles", "aggregate": "last", "scale": "none"}
    world.rows[ZERO] = [(t, node, 0.0, 0.0) for t, node, _, _ in world.rows[ZERO]]
    world.write(ZERO)
    lines = [line.rsplit(",", 2)[0] + ",,\n" for line in world.dump(EMPTY).read_text().splitlines()[1:]]
    world.dump(EMPTY).write_text("time,node,speed,vehicles\n" + "".join(lines))
    world.prepare()
    return world.open()


def folders(dataset: Dataset) -> dict[dt.date, Path]:
    entries = dataset.manifest.dates
    return {date: dataset.root / "shards" / str(date) / entry.parts[0].id for date, entry in entries.items()}


def read(dataset: Dataset, date: dt.date, name: str) -> np.ndarray:
    found = dataset.map(date, name)
    assert found is not None
    return np.asarray(found)


def test_every_shard_opens_with_zarr_python_and_gives_the_same_values(dataset: Dataset) -> None:
    for date, folder in folders(dataset).items():
        group = zarr.open_group(str(folder), mode="r")
        day = dataset.manifest.day(date)
        for name in ("values", "observed"):
            array = group[name]
            assert isinstance(array, zarr.Array)
            ours = read(dataset, date, name)
            assert array.dtype == ours.dtype
            assert np.asarray(array[...]).tobytes() == ours.tobytes()
            assert array.metadata.dimension_names == ("time", "node", "feature")
            assert array.attrs["features"] == ["speed", "volume"]
        assert np.asarray(group["time"][...]).tolist() == [day.start + k * day.step for k in range(day.num_steps)]
    assert dataset.manifest.dates[DST].num_steps == 23


def test_every_shard_opens_with_xarray_labelled_and_with_decoded_times(dataset: Dataset) -> None:
    for date, folder in folders(dataset).items():
        with xarray.open_zarr(str(folder), consolidated=False) as labelled:
            assert labelled["values"].dims == ("time", "node", "feature")
            assert labelled["observed"].dtype == bool
            assert labelled["values"].values.tobytes() == read(dataset, date, "values").tobytes()
            assert labelled["time"].dtype == np.dtype("datetime64[ns]")
            day = dataset.manifest.day(date)
            assert labelled["time"].values.astype("int64").tolist() == list(range(day.start, day.end, day.step))
            assert labelled["values"].sel(time=labelled["time"][3]).shape == (3, 2)


def test_a_date_of_zeros_and_a_date_without_values_are_written_as_real_chunks(dataset: Dataset) -> None:
    for date, size in ((ZERO, 24 * 3 * 2), (EMPTY, 24 * 3 * 2)):
        for name, width in (("values", 4), ("observed", 1)):
            path = folders(dataset)[date] / zarr_raw.chunk_file(name)
            assert path.stat().st_size == size * width
    assert not read(dataset, ZERO, "values").any()
    assert read(dataset, ZERO, "observed").any()
    assert not read(dataset, EMPTY, "values").any()
    assert not read(dataset, EMPTY, "observed").any()


def test_the_chunk_file_is_the_raw_buffer(dataset: Dataset) -> None:
    for date, folder in folders(dataset).items():
        raw = np.fromfile(folder / "values" / "0.0.0", dtype="<f4").reshape(-1, 3, 2)
        assert np.array_equal(raw, read(dataset, date, "values"))
        out = np.empty((5, 3, 2), np.float32)
        dataset.read(date, slice(7, 12), out)
        assert np.array_equal(out, raw[7:12])


def test_verify_in_full_compares_with_zarr_python_and_finds_nothing(dataset: Dataset) -> None:
    assert [error for _, error in dataset.verify(full=True) if error] == []


def test_without_a_mask_everything_reads_as_observed(make_world: Callable[..., Any]) -> None:
    world = make_world(2, missing=0.0)
    world.tree["pipeline"]["features"] = {"volume": {"column": "vehicles", "aggregate": "sum"}}
    world.prepare()
    dataset = world.open()
    for day in dataset.days:
        assert not dataset.has_mask(day.date)
        out = np.zeros((24, 3, 1), bool)
        dataset.read_observed(day.date, slice(0, 24), out)
        assert out.all()
        assert dataset.map(day.date, "observed") is None
        assert set(zarr.open_group(str(folders(dataset)[day.date]), mode="r").array_keys()) == {"values", "time"}


@pytest.mark.parametrize("file", ["zarr.json", "values/zarr.json", "time/zarr.json", "observed/zarr.json"])
def test_damaged_metadata_is_found_by_verify(dataset: Dataset, file: str) -> None:
    date, folder = next(iter(folders(dataset).items()))
    path = folder / file
    path.chmod(0o644)
    good = path.read_bytes()
    described = json.loads(good)
    described["zarr_format"] = 2
    for content in (b"", good[:-9], json.dumps(described).encode()):
        path.write_bytes(content)
        errors = {name: error for name, error in dataset.verify() if error}
        assert list(errors) == [str(date)]
        assert isinstance(errors[str(date)], DamagedError)
        assert str(path) in str(errors[str(date)])
        assert f"dateshard preprocess {date} --force" in str(errors[str(date)])


@pytest.mark.parametrize("shape", [(1, 1, 1), (86_400, 1, 2), (3, 1000, 1)])
def test_any_shape_goes_through_a_folder_unchanged(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values.flat[0] = -0.0
    arrays = {"values": values, "time": np.arange(shape[0], dtype=np.int64) * 10**9, "observed": values > 0}
    names = [f"特徴 {k}" for k in range(shape[2])]
    files = zarr_raw.write(tmp_path / "shard", arrays, names)
    assert {str(path.relative_to(tmp_path / "shard")) for path in tmp_path.rglob("*") if path.is_file()} == set(files)
    group = zarr.open_group(str(tmp_path / "shard"), mode="r")
    for name, array in arrays.items():
        assert np.asarray(group[name][...]).tobytes() == array.tobytes()
    assert group["values"].attrs["features"] == names


def test_big_endian_and_strided_arrays_are_stored_little_endian_and_in_order(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    strided = np.asfortranarray(values).astype(">f4")
    zarr_raw.write(tmp_path / "shard", {"values": strided}, ["a", "b"])
    assert (tmp_path / "shard" / "values" / "0.0.0").read_bytes() == values.astype("<f4").tobytes()
