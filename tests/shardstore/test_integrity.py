"""One flipped bit in any kind of file: refused before use, the file named, and the command that is printed mends it."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.cli import run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DamagedError, NotThereError, StoreError
from dateshard.shardstore.identity import seal
from dateshard.shardstore.measured import load_arrays

FIRST, LAST = dt.date(2024, 3, 1), dt.date(2024, 3, 6)


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Six dates, prepared; some cells are missing, so that every date has a mask."""
    made = make_world(6, missing=0.5, split={"train": "..2024-03-04", "validation": "2024-03-05.."})
    made.prepare()
    return made


def flip(path: Path, bit: int | None = None) -> None:
    """Flips one bit in the middle of a file, or the given one."""
    data = bytearray(path.read_bytes())
    bit = len(data) * 4 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(data)


def shard_file(world: Any, date: dt.date, name: str) -> Path:
    part = world.open().manifest.dates[date].parts[0]
    return world.store / "shards" / str(date) / part.id / name


def read_all(dataset: Dataset, date: dt.date, array: str = "values") -> np.ndarray:
    shape = (dataset.manifest.dates[date].num_steps, dataset.manifest.num_nodes, len(dataset.features))
    if array == "values":
        out = np.full(shape, 7, np.float32)
        dataset.read(date, slice(None), out)
        return out
    mask = np.zeros(shape, bool)
    dataset.read_observed(date, slice(None), mask)
    return mask


def obey(world: Any, message: str) -> None:
    """Runs the command that a message names."""
    match = re.search(r"Run in a shell: dateshard (preprocess.*?) -c CONFIG(.*)", message)
    assert match, message
    words = [*match[1].split(), *[word for word in match[2].split() if word.startswith("--")]]
    assert run([*words, "--workers", "1", "-c", str(world.config_file())]) == 0


def everything_verifies(world: Any) -> Dataset:
    dataset: Dataset = world.open()
    assert [str(error) for _, error in dataset.verify(full=True) if error] == []
    assert run(["verify", "-c", str(world.config_file())]) == 0
    return dataset


@pytest.mark.parametrize("array", ["values", "observed"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_flipped_bit_in_a_shard_is_refused_before_anything_of_it_is_used(world: Any, array: str, place: str) -> None:
    before = {date: read_all(world.open(), date, array) for date in (FIRST, LAST)}
    path = shard_file(world, FIRST, f"{array}/0.0.0")
    flip(path, {"first": 0, "middle": None, "last": path.stat().st_size * 8 - 1}[place])
    dataset = world.open()  # opening reads nothing per date
    out = np.full((1, 3, 2), 7, np.float32 if array == "values" else bool)
    read = dataset.read if array == "values" else dataset.read_observed
    with pytest.raises(DamagedError) as caught:
        read(FIRST, slice(3, 4), out)
    assert str(path) in str(caught.value)
    assert (out == np.full_like(out, 7)).all()
    with pytest.raises(DamagedError, match="nothing of it was used"):
        dataset.map(FIRST, array)
    assert [name for name, error in dataset.verify() if error] == [str(FIRST)]
    assert np.array_equal(read_all(dataset, LAST, array), before[LAST])  # the others go on
    obey(world, str(caught.value))
    mended = everything_verifies(world)
    assert np.array_equal(read_all(mended, FIRST, array), before[FIRST])


def test_a_flipped_bit_in_the_times_is_found_by_verify_and_mended(world: Any) -> None:
    path = shard_file(world, LAST, "time/0")
    flip(path)
    errors = {name: error for name, error in world.open().verify() if error}
    assert list(errors) == [str(LAST)]
    assert str(path) in str(errors[str(LAST)])
    obey(world, str(errors[str(LAST)]))
    everything_verifies(world)


def test_a_shard_file_that_is_cut_longer_or_gone_is_refused(world: Any) -> None:
    path = shard_file(world, FIRST, "values/0.0.0")
    good = path.read_bytes()
    path.chmod(0o644)
    for content in (good[:-4], good + b"\0\0\0\0", b"", b"\0" * len(good)):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="size or hash"):
            read_all(world.open(), FIRST)
    path.unlink()
    with pytest.raises(DamagedError, match="cannot be opened: No such file") as caught:
        read_all(world.open(), FIRST)
    obey(world, str(caught.value))
    everything_verifies(world)


def test_damage_after_the_first_touch_is_found_at_the_next(world: Any) -> None:
    dataset = world.open()
    read_all(dataset, FIRST)
    flip(shard_file(world, FIRST, "values/0.0.0"))
    with pytest.raises(DamagedError):
        read_all(dataset, FIRST)


def test_a_damaged_shard_whose_dump_is_gone_is_mended_from_what_was_measured(world: Any) -> None:
    before = read_all(world.open(), FIRST)
    flip(shard_file(world, FIRST, "values/0.0.0"))
    world.dump(FIRST).unlink()
    with pytest.raises(DamagedError) as caught:
        read_all(world.open(), FIRST)
    obey(world, str(caught.value))
    assert np.array_equal(read_all(everything_verifies(world), FIRST), before)


@pytest.mark.parametrize("kind", ["nodes/*/nodes.json", "statistics/*/statistics.json", "statistics/*/moments.f64"])
@pytest.mark.parametrize("also_changed", [False, True])
def test_a_flipped_bit_in_what_is_frozen_is_refused_and_mended(world: Any, kind: str, also_changed: bool) -> None:
    before = world.open().scale
    (path,) = world.store.glob(kind)
    flip(path)
    dataset = world.open()
    with pytest.raises(DamagedError) as caught:
        _ = dataset.nodes if "nodes" in kind else dataset.scale
    assert str(path) in str(caught.value)
    label = "/".join(path.parts[-3:-1])
    assert [name for name, error in dataset.verify() if error] == [label]
    if also_changed:  # the repair must not stumble over what it mends
        world.rows[FIRST] = world.rows[FIRST][:-5]
        world.write(FIRST)
    obey(world, str(caught.value))
    mended = everything_verifies(world)
    assert mended.nodes.names == ("n0", "n1", "n2")
    if not also_changed:
        assert mended.scale.delta_NF.tobytes() == before.delta_NF.tobytes()


def test_frozen_files_that_are_gone_are_refused_and_mended(world: Any) -> None:
    for kind in ("nodes", "statistics"):
        shutil.rmtree(next((world.store / kind).iterdir()))
    dataset = world.open()
    with pytest.raises(StoreError, match=r"nodes.json: cannot be read"):
        _ = dataset.nodes
    with pytest.raises(StoreError, match=r"statistics.json: cannot be read") as caught:
        _ = dataset.statistics
    obey(world, str(caught.value))
    everything_verifies(world)


@pytest.mark.parametrize("bit", [0, None, -9])
@pytest.mark.parametrize("file", ["CURRENT", "manifests/g00000001.json"])
def test_a_flipped_bit_in_current_or_its_manifest_is_refused_at_opening(world: Any, file: str, bit: int | None) -> None:
    path = world.store / file
    before = world.open().manifest
    flip(path, bit if bit != -9 else path.stat().st_size * 8 - 16)
    with pytest.raises(DamagedError) as caught:
        world.open()
    assert str(path) in str(caught.value)
    assert run(["verify", "-c", str(world.config_file())]) == 4
    obey(world, str(caught.value))
    assert everything_verifies(world).manifest == before
    assert world.prepare().measured == 0


def test_a_damaged_manifest_falls_back_to_the_one_before_and_prepares_what_that_lacks(world: Any) -> None:
    world.rows[LAST] = world.rows[LAST][3:]
    world.write(LAST)
    assert world.prepare().generation == 2
    after = world.open().manifest
    flip(world.store / "manifests" / "g00000002.json")
    with pytest.raises(DamagedError) as caught:
        world.open()
    assert world.open(1).generation == 1  # the older one is as good as ever
    obey(world, str(caught.value))
    mended = everything_verifies(world)
    assert (mended.generation, mended.manifest) == (3, after)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]\n",
        b'{"format": 2',
        b'{"format": 1, "name": "dateshard"}\n',
        b'{"fprmat": 1, "name": "dateshard"}\n',
        b"\xff",
    ],
)
def test_a_damaged_format_file_is_refused_and_written_anew(world: Any, content: bytes) -> None:
    (world.store / "FORMAT").write_bytes(content)
    with pytest.raises(DamagedError, match="FORMAT") as caught:
        world.open()
    obey(world, str(caught.value))
    everything_verifies(world)


def test_a_store_of_another_format_is_refused_by_readers_and_writers(world: Any) -> None:
    (world.store / "FORMAT").write_bytes(seal({"format": 2, "name": "dateshard"}))
    for use in (world.open, world.prepare):
        with pytest.raises(StoreError, match="store format 2, this version reads 1"):
            use()


def test_a_flipped_bit_in_the_sources_file_only_costs_work(world: Any) -> None:
    before = world.open().manifest
    path = world.store / "manifests" / "g00000001.sources.json"
    flip(path)
    finished = world.prepare()
    assert (finished.measured, finished.written, finished.failed) == (0, 0, {})
    assert world.open().manifest == before
    assert world.prepare().generation == finished.generation  # and now it is whole again


@pytest.mark.parametrize("file", ["values.f64", "receipt.json"])
@pytest.mark.parametrize("kind", ["staged", "partials"])
def test_a_flipped_bit_in_a_measured_array_is_refused_and_measured_again(world: Any, kind: str, file: str) -> None:
    before = world.open().manifest
    (folder,) = (world.store / kind / str(FIRST)).iterdir()
    flip(folder / file)
    with pytest.raises(StoreError, match="missing or damaged") as caught:
        load_arrays(folder)
    assert str(folder) in str(caught.value)
    assert world.prepare(refit=True).failed == {}
    assert world.open().manifest == before
    features = world.tree["pipeline"]["features"]
    features["speed"]["fill"], features["speed"]["fill_limit"] = "zero", None
    assert world.prepare().measured <= 1
    everything_verifies(world)
    load_arrays(folder)


def test_a_damaged_measured_array_without_its_dump_fails_that_date_alone(world: Any) -> None:
    (folder,) = (world.store / "staged" / str(FIRST)).iterdir()
    flip(folder / "values.f64")
    world.dump(FIRST).unlink()
    world.tree["pipeline"]["features"]["volume"]["fill"] = "none"
    finished = world.prepare()
    assert list(finished.failed) == [FIRST]
    assert "missing or damaged" in str(finished.failed[FIRST])
    assert finished.written == 5


def test_what_was_never_committed_is_not_there(world: Any, tmp_path: Path) -> None:
    with pytest.raises(NotThereError, match="no committed dataset here"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(NotThereError, match="generation 9 is not in the store"):
        world.open(9)
    with pytest.raises(NotThereError, match="2025-01-01: the date is not in this generation"):
        read_all_of_a_missing_date(world.open())


def read_all_of_a_missing_date(dataset: Dataset) -> None:
    dataset.read(dt.date(2025, 1, 1), slice(0, 1), np.empty((1, 3, 2), np.float32))


def test_verify_all_looks_at_every_generation_that_is_kept_and_at_nothing_twice(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert run(["verify", "-c", str(world.config_file()), "--json", *words]) == code
        return json.loads(capsys.readouterr().out)

    old = world.open().manifest
    world.rows[LAST] = [
        (at, node, None if speed is None else speed + 1, more) for at, node, speed, more in world.rows[LAST]
    ]
    world.write(LAST)
    world.prepare()
    now, whole = verify()["checked"], verify("--all")
    assert (whole["checked"], whole["damaged"]) == (
        now + 3,
        [],
    )  # the manifest, its sources, the one shard that is other
    shard = world.store / "shards" / str(LAST) / old.dates[LAST].parts[0].id / "values" / "0.0.0"
    flip(shard)
    for name, damaged in (("manifests/g00000001.sources.json", 2), ("manifests/g00000001.json", 1)):
        flip(world.store / name)
        assert verify()["damaged"] == []
        rows = verify("--all", "--full", code=4)["damaged"]
        assert len(rows) == damaged
        assert name in {row["name"] for row in rows}
        if damaged == 2:
            assert rows[1]["name"] == f"{LAST} (generation 1)"
            assert str(shard.relative_to(world.folder)) in rows[1]["error"]
            assert "nothing makes it again" in rows[1]["error"]
    assert verify("--all", str(FIRST), code=4)["damaged"] == rows
