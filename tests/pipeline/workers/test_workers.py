"""Workers that are killed, raise, run out of memory or are stopped: what becomes of their tasks and of the others."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import active_children, forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest

from dateshard.pipeline.acts import measure_date
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.execution import measuring
from dateshard.pipeline.memory_shares import LEAST_RECORDS, PARENT_BYTES, PROCESS_BYTES, shares
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.pipeline.progress_events import DateAgain, DateFailed, Finished
from dateshard.pipeline.workers.engine import Again, Task
from dateshard.pipeline.workers.pool import Workers
from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.errors import DumpError, ResourceError
from tests.conftest import environment
from tests.kit.chores import die, die_once, double, fault, leave, refuse, run_out, sleep
from tests.kit.limits import PATIENCE_SECONDS

SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06"}
POISON = dt.date(2024, 3, 2)
MIB = 1 << 20


def tasks(count: int, **odd: tuple[Callable[..., Any], tuple[Any, ...]]) -> list[Task]:
    """`count` tasks that double their number; `t3=(function, arguments)` is another third one."""
    return [(k, *odd.get(f"t{k}", (double, (k,)))) for k in range(count)]


def outcomes(workers: Workers, given: list[Task]) -> dict[int, Any]:
    """Last outcome of every label; every label ends exactly once."""
    with workers:
        found = list(workers.run(given))
    ended = [label for label, outcome in found if not isinstance(outcome, Again)]
    assert Counter(ended) == Counter(label for label, *_ in given)
    assert active_children() == []
    return {label: outcome for label, outcome in found if not isinstance(outcome, Again)}


def doubles(count: int, *but: int) -> dict[int, int]:
    return {k: 2 * k for k in range(count) if k not in but}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_every_task_ends_once_whatever_the_number_of_workers(num_workers: int) -> None:
    found = outcomes(Workers(num_workers), tasks(20, t7=(refuse, (7,))))
    error = found.pop(7)
    assert found == doubles(20, 7)
    assert isinstance(error, DumpError)
    assert str(error) == "row 7: no use"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_poison_task_convicts_itself_and_all_others_end_well(how: signal.Signals) -> None:
    found = outcomes(Workers(2), tasks(30, t4=(die, (how,)), t5=(leave, (3,))))
    poison, left = found.pop(4), found.pop(5)
    assert found == doubles(30, 4, 5)
    assert isinstance(poison, ResourceError)
    assert isinstance(left, ResourceError)
    assert f"was killed by {how.name}, and when it ran alone, without any other worker, it was killed by" in str(poison)
    assert "--memory-limit, or run with --workers 1" in str(poison)
    assert left.what.startswith("its worker process ended (exit code 3), and when it ran alone")


def test_a_task_whose_worker_was_killed_by_chance_is_run_again_alone(tmp_path: Path) -> None:
    assert outcomes(Workers(2), tasks(12, t0=(die_once, (tmp_path / "seen", 0)))) == doubles(12)


def test_a_suspect_runs_when_no_other_worker_lives(tmp_path: Path) -> None:
    with Workers(3) as workers:
        seen = []
        for label, outcome in workers.run(tasks(9, t0=(die_once, (tmp_path / "seen", 0)))):
            seen.append((label, isinstance(outcome, Again), len(active_children())))
    assert (0, True) in {(label, again) for label, again, _ in seen}
    assert seen[-1] == (0, False, 1)


def test_memory_that_runs_out_is_tried_again_alone_and_then_a_failure() -> None:
    for num_workers in (1, 2):
        found = outcomes(Workers(num_workers), tasks(6, t2=(run_out, ())))
        error = found.pop(2)
        assert found == doubles(6, 2)
        assert isinstance(error, ResourceError)
        assert "ran out of memory" in error.what


@pytest.mark.parametrize(("kind", "expected"), [("disk", OSError), ("bug", KeyError), ("unsendable", RuntimeError)])
def test_a_fault_of_the_program_ends_the_run_with_the_workers_trace(kind: str, expected: type[Exception]) -> None:
    workers = Workers(2)
    with pytest.raises(expected) as found, workers:
        list(workers.run(tasks(10, t3=(fault, (kind,)))))
    assert "in fault" in "".join([str(found.value), *getattr(found.value, "__notes__", [])])
    assert active_children() == []


def test_workers_that_are_killed_while_idle_are_replaced_and_no_task_is_blamed() -> None:
    with Workers(2) as workers:
        assert dict(workers.run(tasks(8))) == doubles(8)
        idle = [psutil.Process(process.pid) for process in active_children()]
        for process in idle:
            process.kill()
        assert not psutil.wait_procs(idle, timeout=PATIENCE_SECONDS)[1]
        found = list(workers.run(tasks(8)))
    assert {label: outcome for label, outcome in found if not isinstance(outcome, Again)} == doubles(8)


def test_the_process_that_workers_come_from_may_be_killed_too(tmp_path: Path) -> None:
    with Workers(2) as workers:
        results = workers.run(tasks(40, t20=(die_once, (tmp_path / "seen", 20))))
        first = next(results)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        found = [first, *results]
    assert {label: outcome for label, outcome in found if not isinstance(outcome, Again)} == doubles(40)


def test_workers_start_with_one_thread_and_without_what_starts_threads() -> None:
    """Forking a process of several threads may hang; `eval` needs nothing to be imported first."""
    threads = "len(__import__('os').listdir('/proc/self/task'))"
    heavy = "[m for m in ('polars', 'pyarrow', 'torch', 'zarr') if m in __import__('sys').modules]"
    loaded = "'dateshard.pipeline.config' in __import__('sys').modules"
    decoders = "__import__('os').environ['POLARS_MAX_THREADS']"
    collected = "__import__('gc').isenabled() and __import__('gc').get_freeze_count() > 0"
    with Workers(2) as workers:
        results = dict(workers.run([(text, eval, (text,)) for text in (threads, heavy, loaded, decoders, collected)]))
    assert results == {threads: 2, heavy: [], loaded: True, decoders: "1", collected: True}  # 2: one watches the parent
    assert "PYTHONSAFEPATH" not in os.environ


def test_leaving_early_ends_what_still_runs_and_the_next_run_starts_clean() -> None:
    with Workers(2) as workers:
        results = workers.run([(0, double, (0,)), (1, sleep, (60.0,)), (2, sleep, (60.0,))])
        assert next(results) == (0, 0)
        results.close()  # type: ignore[attr-defined]
        assert active_children() == []
        assert dict(workers.run(tasks(5))) == doubles(5)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_stop_ends_within_a_moment_and_leaves_no_process(num_workers: int) -> None:
    stop = Stop()
    asker = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.ask())
    began = time.monotonic()
    try:
        asker.start()
        with pytest.raises(KeyboardInterrupt), Workers(num_workers, stop) as workers:
            list(workers.run([(k, sleep, (2 * PATIENCE_SECONDS,)) for k in range(4)]))
    finally:
        asker.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert active_children() == []
    with pytest.raises(KeyboardInterrupt), Workers(num_workers, stop) as workers:
        list(workers.run(tasks(3)))


def turned(stop: Stop, *, ask: bool) -> None:
    """Work in which a library makes its own error of whatever is raised."""
    with stop.at_once():
        try:
            stop.ask() if ask else run_out()
        except BaseException as error:
            raise ValueError("its own") from error


def test_an_interrupt_that_a_library_turned_into_its_own_error_is_an_interrupt_again() -> None:
    with pytest.raises(KeyboardInterrupt):
        turned(Stop(), ask=True)
    with pytest.raises(ValueError, match="its own"):
        turned(Stop(), ask=False)


def poisonous(root: Path, dump: Any, date: dt.date, *rest: Any) -> Any:
    """`measure_date`, but one date kills its process."""
    if date == POISON:
        die(signal.SIGKILL)
    return measure_date(root, dump, date, *rest)


def test_a_poison_date_fails_all_others_are_committed_and_once_it_works_it_is_merged(
    make_world: Any, tmp_path: Path, tree_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(6, split=SPLIT)
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure_date", poisonous)
        events = list(preprocess("world", world.settings.preparing(), world.store, Wish(), 2))
    assert [event.date for event in events if isinstance(event, DateAgain)] == [POISON]
    (failed,) = (event for event in events if isinstance(event, DateFailed))
    assert (failed.act, failed.date) == ("measure", POISON)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.measured, finished.written, list(finished.failed)) == (5, 5, [POISON])
    manifest = world.open().manifest
    assert (sorted(manifest.dates), manifest.provisional, manifest.failed) == (
        [d for d in sorted(world.rows) if d != POISON],
        (POISON,),
        (POISON,),
    )
    assert list((world.store / "staging").glob("*")) == []

    assert world.prepare(2).measured == 1  # the machine was at fault, not the dump: it is mended as it stands
    assert world.open().manifest.provisional == ()
    mended = tree_of(world.store / "shards")
    world.store.rename(tmp_path / "away")
    world.prepare()
    assert {**tree_of(world.store / "shards"), **mended} == mended


@pytest.mark.parametrize("num_workers", [1, 2])
def test_fail_fast_ends_at_the_first_failure_and_commits_nothing(make_world: Any, num_workers: int) -> None:
    world = make_world(6, split=SPLIT)
    good = world.dump(POISON).read_text()
    world.dump(POISON).write_text("time,node\n")
    options = {"fail_fast": True}
    events = list(preprocess("world", world.settings.preparing(), world.store, Wish(), num_workers, **options))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.cut_short, finished.generation, list(finished.failed)) == (True, None, [POISON])
    assert sum(isinstance(event, DateFailed) for event in events) == 1
    assert not (world.store / "staging").exists() or not list((world.store / "staging").iterdir())
    kept = len(list((world.store / "staged").glob("*/*")))
    assert kept == 1 if num_workers == 1 else kept <= 5  # two at once: the bad one may end first
    world.dump(POISON).write_text(good)
    assert world.prepare().measured == 6 - kept


def test_memory_is_shared_out_and_by_default_no_more_processes_than_it_reaches_for(make_world: Any) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-02"})
    config = world.settings.preparing()
    plan, *_ = look(config, world.store, Wish())
    one = PROCESS_BYTES + LEAST_RECORDS
    dates = ([date.date for date in plan.to_measure], [date.date for date in plan.to_normalise])
    assert shares(*dates, config, 8, 2000 * MIB, 0) == (4, (2000 * MIB - PARENT_BYTES) // 4)  # four dates
    assert shares(*dates, config, 1, 2000 * MIB, 0) == (1, 2000 * MIB)
    assert shares(*dates, config, 3, 300 * MIB, 0)[0] == 3  # as asked for; a date that does not fit says so
    for cores, memory, expected in ((8, 64 * one, 4), (8, PARENT_BYTES + 3 * one, 3), (2, 64 * one, 2), (8, MIB, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sched_getaffinity", lambda _, count=cores: set(range(count)))
            assert shares(*dates, config, None, memory, 0)[0] == expected
    many_nodes = shares(*dates, config, None, PARENT_BYTES + 3 * one, 10**6)
    assert many_nodes == (1, PARENT_BYTES + 3 * one)


def test_a_worker_whose_parent_dies_while_it_starts_says_nothing() -> None:
    code = (
        "import os, time; from multiprocessing import forkserver; from dateshard.pipeline.workers import child_process;"
        "child_process.start_forkserver();"
        "sentinel, theirs = forkserver.connect_to_new_process([]);"
        "os.write(theirs, {half!r}); os.close(theirs);"
        "os.read(sentinel, 8)"  # it has ended
    )
    for half in (b"", pickle.dumps({"name": "x"})[:-4]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(half=half)], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_script_without_a_guard_prepares_with_two_workers_and_runs_once(make_world: Any) -> None:
    world = make_world(4)
    script = world.folder / "mine.py"
    script.write_text(
        "from pathlib import Path\n"
        "from dateshard.settings import load_settings\n"
        "from dateshard.pipeline.execute import preprocess\n"
        "from dateshard.pipeline.planning.plan import Wish\n"
        "print('begins')\n"
        f"settings = load_settings([{str(world.config_file())!r}])\n"
        f"events = list(preprocess('mine', settings.preparing(), Path({str(world.store)!r}), Wish(), 2))\n"
        "print(events[-1].written, events[-1].failed)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment())
    assert (done.stdout, done.stderr) == ("begins\n4 {}\n", "")
