"""The storage contract: every storage gives the same arrays back; what we write, other libraries read alike.

For a storage of your own: a row in `dateshard.shardstore.storage.STORAGES`, and a subclass of `StorageContract` that names it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray
import zarr

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.layouts.events import decode_names, encode_names
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.manifest import Part
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.storage import About, Arrays, storage_of, zarr_raw
from dateshard.shardstore.storage.shards import publish_shard

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


def about(shape: tuple[int, ...], names: list[str]) -> About:
    """What a file says of itself; the scale is another one for each cell of [N, F]."""
    cells = np.arange(shape[1] * shape[2], dtype=float).reshape(shape[1:])
    scale = Scale(pivot_NF=cells, delta_NF=cells / 3, spread_NF=1 + cells / 7, mean_NF=cells, empty_NF=cells)
    features = tuple(Feature(name=name, scale_per="node" if k % 2 else "feature") for k, name in enumerate(names))
    ids = {"nodes": "1", "statistics": "2"}
    return About(
        dataset="trial",
        timezone="UTC",
        step=10**9,
        features=features,
        nodes=tuple(f"nœud {k}" for k in range(shape[1])),
        ids=ids,
        scale=scale,
    )


SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 16777215.0, 1 / 3]


class StorageContract:
    """Subclasses name their `format`, which `pipeline.store.formats` and `STORAGES` know."""

    format: ClassVar[str]

    def publish(self, root: Path, arrays: Arrays, names: list[str], old: Part | None = None) -> Part:
        part, _ = publish_shard(root, DST, arrays, about(arrays["values"].shape, names), [self.format], old)
        return part

    def read(self, root: Path, part: Part, arrays: Arrays) -> dict[str, np.ndarray]:
        """All arrays, straight from the committed file."""
        (stored,) = part.formats.values()
        assert stored is not None
        path = root / self.format / str(DST) / stored.folder / f"{DST}.{self.format}"
        return dict(storage_of(self.format).decode(memoryview(path.read_bytes())))

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "staging").mkdir()
        return tmp_path

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("shape", [(1, 1, 1), (86_400, 1, 2), (3, 1000, 3), (23, 4, 2)])
    def test_any_arrays_come_back_bit_for_bit(self, root: Path, shape: tuple[int, int, int], masked: bool) -> None:
        generator = np.random.default_rng(0)
        values = generator.standard_normal(shape).astype(np.float32)
        column = values[..., -1].ravel()
        column[: len(SPECIAL)] = SPECIAL[: len(column)]
        values[..., -1] = column.reshape(shape[:2])
        arrays = {"values": values, "time": np.arange(shape[0], dtype=np.int64) * 10**9 - 5}
        arrays |= {"observed": generator.random(shape) > 0.5} if masked else {}
        part = self.publish(root, arrays, [f"特徴 {k}" for k in range(shape[2])])
        found = self.read(root, part, arrays)
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes(), name

    @pytest.mark.parametrize("names", [("a",), ("ärger", 'quote "', "new\nline", "")])
    def test_cuts_come_back_bit_for_bit(self, root: Path, names: tuple[str, ...]) -> None:
        starts = np.arange(len(names), dtype=np.int64) * 3
        count = 3 * len(names)
        time = np.concatenate([np.arange(3) * 10**9 for _ in names])  # another cut begins anew
        values = np.random.default_rng(1).standard_normal((count, 1, 2)).astype(np.float32)
        arrays = {"values": values, "time": time, "cuts": starts, "cut_names": encode_names(names)}
        part = self.publish(root, arrays, ["x", "y"])
        found = self.read(root, part, arrays)
        assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in arrays.items()}
        assert decode_names(found["cut_names"]) == list(names)

    @pytest.mark.parametrize("value", [0.0, -0.0, 5.0])
    def test_a_date_of_one_value_is_no_date_without_any(self, root: Path, value: float) -> None:
        arrays = {
            "values": np.full((24, 3, 2), value, np.float32),
            "time": np.arange(24),
            "observed": np.zeros((24, 3, 2), bool),
        }
        part = self.publish(root, arrays, ["a", "b"])
        found = self.read(root, part, arrays)
        assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in arrays.items()}

    def test_big_endian_and_strided_arrays_come_back_in_order(self, root: Path) -> None:
        values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
        part = self.publish(root, {"values": np.asfortranarray(values).astype(">f4"), "time": np.arange(4)}, ["a", "b"])
        arrays = {"values": values, "time": np.arange(4)}
        assert self.read(root, part, arrays)["values"].tobytes() == values.tobytes()

    def test_the_id_is_that_of_the_content_whatever_it_is_stored_as(self, root: Path) -> None:
        arrays = {"values": np.ones((4, 3, 2), np.float32), "time": np.arange(4)}
        here = self.publish(root, arrays, ["a", "b"])
        zarr_part, _ = publish_shard(root, DST, arrays, about((4, 3, 2), ["a", "b"]), ["zarr"])
        assert (here.id, here.files) == (zarr_part.id, zarr_part.files)

    def test_writing_the_same_again_writes_nothing(self, root: Path) -> None:
        arrays = {"values": np.ones((4, 3, 2), np.float32), "time": np.arange(4)}
        first = self.publish(root, arrays, ["a", "b"])
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
        assert self.publish(root, arrays, ["a", "b"], first) == first
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before

    def test_a_dataset_in_it_reads_as_one_in_zarr(self, make_world: Callable[..., Any]) -> None:
        world = make_world(4, missing=0.5, zone="America/New_York", first="2013-03-08")
        world.prepare()
        plain = world.open()
        world.tree["pipeline"]["store"] = {"formats": [self.format]}
        world.prepare(force=True)
        stored = world.open()
        assert [error for _, error in stored.verify(full=True) if error] == []
        for day in plain.days:
            assert stored.manifest.dates[day.date].parts[0].id == plain.manifest.dates[day.date].parts[0].id
            for name in ("values", "observed"):
                assert read(stored, day.date, name).tobytes() == read(plain, day.date, name).tobytes()
            there, here = stored.arrays(day.date), plain.arrays(day.date)
            assert {n: a.tobytes() for n, a in there.items()} == {n: a.tobytes() for n, a in here.items()}
            out = np.empty((5, 3, 2), np.float32)
            stored.read(day.date, slice(7, 12), out)
            assert out.tobytes() == read(plain, day.date, "values")[7:12].tobytes()


class TestZarr(StorageContract):
    format = "zarr"

    def read(self, root: Path, part: Part, arrays: Arrays) -> dict[str, np.ndarray]:
        group = zarr.open_group(str(root / "shards" / str(DST) / part.id), mode="r")
        return {name: np.asarray(group[name]) for name in group.array_keys()}


class TestParquet(StorageContract):
    format = "parquet"

    @pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all" * 9])
    def test_what_is_no_file_of_a_date_is_refused_as_such(self, damage: bytes) -> None:
        with pytest.raises(ValueError, match="no Parquet file of a date"):
            storage_of("parquet").decode(memoryview(damage))


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
            assert labelled["values"].attrs["features"] == ["speed", "volume"]
            assert labelled["time"].encoding["units"] == "nanoseconds since 1970-01-01"
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
