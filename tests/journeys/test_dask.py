"""A preprocess on a Dask cluster, with a real scheduler and real workers: the same bytes, whoever dies."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import dateshard.cli
from dateshard.pipeline.execution import measuring
from dateshard.pipeline.workers import dask_client
from dateshard.pipeline.workers.dask_client import Cluster
from dateshard.pipeline.workers.dask_engine import DaskEngine
from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.errors import ResourceError, UsageError
from tests.kit.dask_cluster import (
    POISON,
    ROOT,
    WAITING,
    DaskProcesses,
    fail,
    measure_dying,
    measure_killing_worker,
    touch,
)
from tests.kit.limits import PATIENCE_SECONDS
from tests.pipeline.conftest import tree_of
from tests.test_architecture import FILES

__all__ = ["tree_of"]
WORKERS = ROOT / "pipeline" / "workers"
BAD = dt.date(2024, 3, 5)
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06"}
PREPARE = ("preprocess", "-c", "config.yaml")
WITH_WAIT = """
import sys
sys.path = {path}
from dateshard.pipeline.execution import measuring
from tests.kit.dask_cluster import measure_waiting
measuring.measure_date = measure_waiting
from dateshard.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    with DaskProcesses(tmp_path_factory.mktemp("dask"), 2) as processes:
        processes.wait_for(2)
        yield processes


@pytest.fixture
def world(make_world: Any) -> Any:
    made = make_world(6, split=SPLIT)
    made.config_file()
    return made


def run(*words: str) -> int:
    return dateshard.cli.run([*PREPARE, *words])


def waiting(process: Any) -> tuple[psutil.Process, psutil.Process]:
    """The child that waits in the middle of a date, and the Dask worker that it belongs to."""
    mark = Path(f"child-{WAITING}")
    assert process.until(mark.exists)
    child, worker = map(int, mark.read_text().split())
    return psutil.Process(child), psutil.Process(worker)


def staged(world: Any) -> list[Path]:
    return list((world.store / "staged").glob("*/*"))


def ended(child: psutil.Process) -> bool:
    return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # that nobody asks for


def until_ended(child: psutil.Process) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not ended(child):
        assert time.monotonic() < end, "it runs on"
        time.sleep(0.01)


def launched(launch: Any, dask: DaskProcesses, *words: str) -> Any:
    return launch(
        *PREPARE, "--engine", dask.engine, *words, prefix=("-c", WITH_WAIT.format(path=[str(ROOT), *sys.path]))
    )


@pytest.mark.parametrize("nodes_per_part", [None, 2])
def test_two_dask_workers_two_pool_workers_and_one_process_write_the_same_store(
    world: Any, dask: DaskProcesses, tree_of: Any, capfd: pytest.CaptureFixture[str], nodes_per_part: int | None
) -> None:
    trees = {}
    world.tree["pipeline"]["store"] = {"nodes_per_part": nodes_per_part}
    world.config_file()
    for words in (("--workers", "1"), ("--workers", "2"), ("--engine", dask.engine)):
        assert run(*words) == 0
        assert "6 shards written; 6 dates measured" in capfd.readouterr().out
        trees[words[1]] = tree_of(world.store)
        shutil.rmtree(world.store)
    assert trees["1"] == trees["2"] == trees[dask.engine]
    assert len(trees["1"]) > 50

    world.prepare()
    world.rows[WAITING].pop()
    world.write(WAITING)
    assert run("--engine", dask.engine) == 0
    assert "1 shard written; 1 date measured" in capfd.readouterr().out
    assert list((world.store / "staging").iterdir()) == []


def test_a_killed_dask_worker_costs_nothing_but_time(
    world: Any, dask: DaskProcesses, launch: Any, committed: Any, content: Any
) -> None:
    process = launched(launch, dask, "--json")
    child, worker = waiting(process)
    worker.kill()
    process.wait()
    document = json.loads(process.out)
    assert (document["failed"], document["measured"], document["dates"]) == ({}, 6, 6)
    assert ended(child)
    found = committed(world)
    world.store.rename(world.folder / "away")
    world.prepare()
    assert found == content(world.open())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_or_killed_preprocess_leaves_no_task_running(
    world: Any, dask: DaskProcesses, launch: Any, how: signal.Signals
) -> None:
    process = launched(launch, dask)
    child, worker = waiting(process)
    process.send(how)
    process.wait(130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert ended(child)
        assert "stopped: what was measured is kept" in process.err
        assert f"--engine {dask.engine}" in process.err
    until_ended(child)
    assert worker.is_running()
    if how == signal.SIGINT:  # nor a process that waits for one
        assert [process for process in worker.children(recursive=True) if process.ppid() != worker.pid] == []
    assert world.prepare().measured <= 6
    assert list((world.store / "staging").iterdir()) == []


def test_bad_dumps_and_dates_that_kill_their_process_are_told_as_by_the_pool(
    world: Any, dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with dask.connect(2) as cluster:
        before = set(cluster.ask("nthreads"))
    world.dump(BAD).write_text(f"time,node,speed,vehicles\n{BAD}T00:00:00+00:00,n1,x,1\n")
    monkeypatch.setattr(measuring, "measure_date", measure_dying)
    lines, again = {}, f"again   {POISON}  its worker process was killed by SIGKILL; it is tried alone at the end"
    for words in (("--workers", "2"), ("--engine", dask.engine)):
        assert run(*words) == 3
        out = capfd.readouterr().out
        assert again in out
        lines[words[0]] = [line for line in out.splitlines() if line.startswith("failed")]
        assert len(world.open().manifest.dates) == 4
        shutil.rmtree(world.store)
    assert lines["--engine"][0] == lines["--workers"][0]
    assert lines["--engine"][0].startswith(f"failed  {BAD}  {world.dump(BAD)}, date {BAD}, row 2")
    here, there = (lines[engine][1].split(". If memory") for engine in ("--workers", "--engine"))
    assert here[0] == there[0]
    assert there[0].startswith(f"failed  {POISON}  its worker process was killed by SIGKILL, and when it ran alone")
    assert "give the workers more (dask worker --memory-limit)" in there[1]
    with dask.connect(2) as cluster:  # no worker of the cluster died of it
        assert set(cluster.ask("nthreads")) == before


@pytest.mark.slow
def test_a_date_that_kills_dask_workers_is_given_up_by_name(
    world: Any, dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "measure_date", measure_killing_worker)
    assert run("--engine", dask.engine) == 3
    out = capfd.readouterr().out
    (failed,) = (line for line in out.splitlines() if line.startswith("failed"))
    assert (
        f"{POISON}  its worker process was lost with 2 workers of the cluster, one after the other, and when" in failed
    )
    assert len(world.open().manifest.dates) == 5
    assert len(Path(f"deaths-{POISON}").read_text()) <= 4
    dask.wait_for(2)


def test_leaving_early_ends_what_still_runs_and_the_next_run_starts_clean(dask: DaskProcesses, tmp_path: Path) -> None:
    with dask.connect(2) as cluster, DaskEngine(cluster, tmp_path, [], most=2) as engine:
        assert engine.num_workers == 2
        results = engine.run([(0, touch, (tmp_path, 0.0)), (1, touch, (tmp_path, 60.0)), (2, touch, (tmp_path, 60.0))])
        assert next(results) == (0, 0.0)
        results.close()  # type: ignore[attr-defined]
        assert dict(engine.run([(k, touch, (tmp_path, 0.0)) for k in range(9)])) == dict.fromkeys(range(9), 0.0)
        for error in (KeyError("a bug"), TimeoutError("the file system does not answer")):
            with pytest.raises(type(error)) as raised:
                list(engine.run([(0, fail, (tmp_path, error))]))
            assert "in fail" in raised.value.__notes__[0]


def test_only_a_lack_of_memory_is_told_with_how_workers_get_more(dask: DaskProcesses, tmp_path: Path) -> None:
    lacks = [ResourceError("too large", todo="Give more with --memory-limit"), ResourceError("no answer", todo="Wait")]
    with dask.connect(2) as cluster, DaskEngine(cluster, tmp_path, []) as engine:
        outcomes = dict(engine.run([(error.what, fail, (tmp_path, error)) for error in lacks]))
    assert "give the workers more (dask worker --memory-limit)" in outcomes["too large"].todo
    assert outcomes["no answer"].todo == "Wait"


def test_workers_that_are_not_as_they_must_be_are_refused_by_name(
    world: Any, dask: DaskProcesses, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, number in (("polars", "9.9.9"), ("pyarrow", "1")):
        (tmp_path / "other" / f"{name}-{number}.dist-info").mkdir(parents=True)
        (tmp_path / "other" / f"{name}-{number}.dist-info" / "METADATA").write_text(
            f"Name: {name}\nVersion: {number}\n"
        )
    reasons = ["has polars 9.9.9 instead of "]
    with dask.connect(2) as cluster, DaskEngine(cluster, tmp_path / "store", []) as engine:
        unfit = [dask.add_worker([tmp_path / "other"])]
        dask.wait_for(3)  # it joined later: it is looked at when it gets its first task
        with pytest.raises(
            UsageError, match=r"worker tcp://127.0.0.1:\d+ has polars 9.9.9 instead of .*, pyarrow 1 instead"
        ):
            list(engine.run([(k, touch, (tmp_path, 0.05)) for k in range(60)]))
    (world.folder / "data").mkdir()
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0:
        for name in ("data", "raw"):  # where such a worker sees another file system
            over = f'mount -t tmpfs none {world.folder / name} && exec "$@"'
            unfit.append(dask.add_worker(prefix=["unshare", "-Urm", "sh", "-c", over, "sh"]))
        reasons.append(f"does not see the folder of the store, {world.store}, as it is")
        reasons.append(f"does not see the dump {world.dump(dt.date(2024, 3, 1))}, or another one")
        dask.wait_for(5)
    assert run("--engine", dask.engine) == 2
    err = capfd.readouterr().err
    assert "the cluster is not fit for this preprocess: worker tcp://127.0.0.1:" in err
    assert [reason for reason in reasons if reason not in err] == []
    assert not list(world.store.glob("staged/*/*"))
    for worker in unfit:
        os.killpg(worker.pid, signal.SIGTERM)
    dask.wait_for(2)


def test_dask_is_imported_only_where_its_engine_is_asked_for() -> None:
    for path in (path for path in FILES if not path.name.startswith("dask_")):
        found = re.search(
            r"^(?:from|import) (?:distributed|dask|dateshard\.pipeline\.workers\.dask_)", path.read_text(), re.M
        )
        assert not found, path
    for name in ("dask_client", "dask_engine", "dask_worker"):
        assert not re.search(r"^(?:from|import) (?:distributed|dask)\b", (WORKERS / f"{name}.py").read_text(), re.M)


def test_engines_that_cannot_be_used_are_refused_with_what_to_do(
    world: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dask_client, "ANSWER_SECONDS", 0.4)
    for engine, code, said in (
        ("spark", 2, "--engine spark: the engines are local, dask:ADDRESS and dask:SCHEDULER_FILE"),
        ("dask:missing.json", 2, "--engine dask:missing.json: there is no such file, and an address is written as"),
        ("dask:127.0.0.1:9", 1, "no Dask scheduler answers at 127.0.0.1:9"),
    ):
        assert run("--engine", engine) == code
        assert said in capfd.readouterr().err
    assert run("--engine", "dask:127.0.0.1:9", "--memory-limit", "4GiB") == 2
    assert "--memory-limit is for processes of this machine" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert run("--engine", "dask:127.0.0.1:9") == 2
    assert "Run: pip install 'dateshard[distributed]'" in capfd.readouterr().err


def test_a_cluster_without_a_worker_is_given_its_time_whenever_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, now = iter([{}, {"a worker": 3}]), time.monotonic
    with monkeypatch.context() as earlier:  # before the dumps were looked at, say
        earlier.setattr(time, "monotonic", lambda: now() - 10 * dask_client.WORKERS_SECONDS)
        cluster = Cluster(SimpleNamespace(status="running", nthreads=lambda: next(counts)), "nowhere", Stop())
    assert cluster.num_threads() == 3


def test_a_scheduler_that_dies_is_told_and_the_rerun_goes_on_from_what_is_there(
    world: Any, dask: DaskProcesses, launch: Any
) -> None:
    """It comes last: the scheduler is that of all tests here."""
    process = launched(launch, dask)
    child, _ = waiting(process)
    assert process.until(lambda: len(staged(world)) == 5)
    dask.scheduler.kill()
    process.wait(1)
    gone = f"the Dask scheduler at {dask.file} is gone, does not answer or has dropped the tasks. What was measured is kept"
    assert gone in process.err
    assert f"preprocess -c config.yaml --engine {dask.engine}" in process.err
    until_ended(child)
    assert len(staged(world)) == 5
    assert world.prepare().measured == 1
