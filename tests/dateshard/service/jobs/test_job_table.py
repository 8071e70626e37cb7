"""The table of jobs, its moves and its supervisor, with processes that are played."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dateshard.service.jobs.database import Database
from dateshard.service.jobs.job_states import ACTIVE, AT_REST, MOVES, STATES, IllegalMoveError, moved
from dateshard.service.jobs.job_table import JobOrder, JobTable
from dateshard.service.jobs.process_identity import ProcessIdentity, identity_of, is_alive
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.jobs.supervisor import Supervisor
from dateshard.service.tokens import Tokens
from dateshard.shardstore.errors import NotThereError

ORDER = JobOrder({"name": "深度", "epochs": 3, "dataset": "d", "model_type": "mlp"}, {}, None)


@pytest.fixture
def folder(tmp_path: Path) -> ServiceFolder:
    return ServiceFolder(tmp_path)


@pytest.fixture
def table(folder: ServiceFolder) -> Iterator[JobTable]:
    table = JobTable.open(folder.path)
    yield table
    table.database.close()


def add(table: JobTable, folder: ServiceFolder, name: str = "job") -> str:
    with table.database.writing():
        return table.add(name, "n", ORDER, folder.runs)


class Played:
    """A process that ends when the test says so."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


class Launcher:
    """Remembers what was to be launched."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.process = Played()

    def __call__(self, _: ServiceFolder, job: str, attempt: int) -> Played:
        self.begun.append((job, attempt))
        return self.process


def types(table: JobTable, job: str) -> list[str]:
    return [event.type for event in table.events(job, 0)[0]]


ELSEWHERE = """
import sys
from pathlib import Path
from dateshard.service.jobs.database import Database
from dateshard.service.tokens import Tokens
database = Database(Path(sys.argv[1]))
Tokens(database).make("read", sys.argv[2])
database.close()
"""


def test_what_another_process_writes_is_seen_however_often_the_database_is_opened(tmp_path: Path) -> None:
    """Closing a file lets go of all locks that the process has on it: another one would take the log of writes away."""
    database = Database(tmp_path)
    for number in range(3):
        subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), str(number)], check=True)
        assert [row.name for row in Tokens(database).all()] == list(map(str, range(number + 1)))
        Database(tmp_path).close()
    database.close()


def test_every_state_allows_exactly_the_moves_of_the_diagram() -> None:
    allowed = {state: {act for act in MOVES if state in MOVES[act]} for state in STATES}
    assert allowed == {
        "queued": {"pause", "stop"},
        "starting": {"pause", "stop"},
        "running": {"pause", "stop"},
        "pausing": {"stop"},
        "stopping": set(),
        "paused": {"resume", "stop", "delete"},
        "stopped": {"resume", "delete"},
        "interrupted": {"resume", "stop", "delete"},
        "failed": {"resume", "delete"},
        "completed": {"delete"},
        "early_stopped": {"delete"},
    }
    for state, acts in allowed.items():
        for act in MOVES.keys() - acts:
            with pytest.raises(IllegalMoveError, match=f"job is {state}; {act} is for"):
                moved("job", act, state)
    assert set(ACTIVE) | set(AT_REST) | {"queued"} == set(STATES)


def test_an_id_that_a_job_or_a_run_has_gets_a_number(table: JobTable, folder: ServiceFolder) -> None:
    (folder.runs / "job_3").mkdir(parents=True)
    assert [add(table, folder) for _ in range(3)] == ["job", "job_2", "job_4"]


def test_a_process_that_was_replaced_cannot_take_the_job(table: JobTable, folder: ServiceFolder) -> None:
    job, me = add(table, folder), identity_of(os.getpid())
    assert me is not None
    begun = table.begin(job)
    assert begun is not None
    table.requeue(begun)
    assert table.state(job) == "queued"
    assert table.claim(job, begun.attempt, me) is None
    again = table.begin(job)
    assert again is not None
    assert table.claim(job, begun.attempt, me) is None
    taken = table.claim(job, again.attempt, me)
    assert taken is not None
    assert taken.process == me
    assert table.claim(job, again.attempt, me) is None
    table.requeue(taken)
    assert table.state(job) == "starting", "it has a process"
    assert table.settle(begun, "failed") is False, "the first process has nothing to say any more"


@pytest.mark.parametrize(("act", "there"), [("pause", "paused"), ("stop", "stopped")])
def test_what_was_asked_of_a_job_before_its_process_came_is_kept(
    table: JobTable, folder: ServiceFolder, act: str, there: str
) -> None:
    job = add(table, folder)
    begun = table.begin(job)
    assert begun is not None
    asked = table.ask(job, act)
    table.run(asked, {})
    assert table.state(job) == asked.state, "the training that begins does not forget it"
    Supervisor(table, folder, 1, Launcher()).look()  # of a server that was started since
    assert table.state(job) == there


def test_only_the_very_process_counts_as_alive() -> None:
    me = identity_of(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(me._replace(started=me.started - 1))
    assert not is_alive(me._replace(boot="another"))
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert identity_of(child.pid) is None, "it has ended, and nobody has looked yet"


def test_a_job_whose_process_is_gone_is_interrupted_and_the_next_one_begins(
    table: JobTable, folder: ServiceFolder
) -> None:
    first, second, launcher = add(table, folder), add(table, folder), Launcher()
    supervisor = Supervisor(table, folder, 1, launcher)
    supervisor.look()
    assert launcher.begun == [(first, 1)]
    table.claim(first, 1, ProcessIdentity(2**22 + 1, 5, "boot"))
    supervisor.look()
    assert table.job(first).state == "starting", "what started it waits for others, and will tell how they ended"
    launcher.process.code = -signal.SIGKILL
    supervisor.look()
    assert (table.job(first).state, "killed by SIGKILL" in table.job(first).reason) == ("interrupted", True)
    assert launcher.begun == [(first, 1), (second, 1)]
    assert types(table, first) == ["queued", "starting", "interrupted"]
    assert types(table, second) == ["queued", "position", "starting"]


def test_a_process_that_does_not_begin_fails_its_job_with_the_last_line_of_its_log(
    table: JobTable, folder: ServiceFolder
) -> None:
    job, launcher = add(table, folder), Launcher()
    supervisor = Supervisor(table, folder, 1, launcher)
    supervisor.look()
    folder.log(job).parent.mkdir(parents=True)
    folder.log(job).write_text("Traceback\nImportError: no torch\n")
    launcher.process.code = 1
    supervisor.look()
    assert table.job(job).state == "failed"
    assert table.job(job).reason == "its process did not begin: ImportError: no torch"


def test_what_cannot_be_written_now_is_tried_again_and_said(table: JobTable, folder: ServiceFolder) -> None:
    supervisor = Supervisor(table, folder, 1, Launcher())
    supervisor.look = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    supervisor.start()
    while not supervisor.failure:
        pass
    assert not supervisor.is_well
    del supervisor.look
    while not supervisor.is_well:
        pass
    supervisor.end()


def test_events_of_batches_are_thinned_and_all_others_stay(
    table: JobTable, folder: ServiceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dateshard.service.jobs.job_table.KEPT_BATCHES", 20)
    job = add(table, folder)
    for number in range(25):
        table.tell(job, "batch", {"step": number})
    table.tell(job, "progress", {})
    table.thin(job)
    assert [row["step"] for row in table.recorded(job, "batch")] == list(range(5, 25))
    assert types(table, job) == ["queued", *["batch"] * 20, "progress"]


def test_events_come_behind_an_id_and_are_over_when_the_job_rests(table: JobTable, folder: ServiceFolder) -> None:
    job = add(table, folder)
    for number in range(5):
        table.tell(job, "batch", {"step": number})
    first, over = table.events(job, 0, most=4)
    assert (len(first), over) == (4, False)
    rest, over = table.events(job, first[-1].id, most=4)
    assert ([event.type for event in rest], over) == (["batch", "batch"], False)
    table.ask(job, "stop")
    last, over = table.events(job, rest[-1].id, most=4)
    assert ([event.type for event in last], over) == (["stopped"], True)
    assert table.events(job, last[-1].id) == ([], True)


def test_a_deleted_job_leaves_nothing_in_the_table(table: JobTable, folder: ServiceFolder) -> None:
    job = add(table, folder)
    table.ask(job, "stop")
    table.delete(job)
    with pytest.raises(NotThereError):
        table.job(job)
    assert table.events(job, 0) == ([], True)


def test_two_processes_write_one_log_in_the_order_of_their_commits(table: JobTable, folder: ServiceFolder) -> None:
    job, other = add(table, folder), JobTable.open(folder.path)
    for number in range(20):
        (table if number % 2 else other).tell(job, "batch", {"step": number})
    events, _ = table.events(job, 0)
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert [row["step"] for row in table.recorded(job, "batch")] == list(range(20))
    other.database.close()
