"""Jobs in several processes: how the end of one of them is told."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from dateshard.service.jobs.job_group import outcome_of
from dateshard.service.jobs.job_table import JobOrder, JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.jobs.supervisor import launch_process
from dateshard.training.launch import LEFT_ALONE, RankEnd


@pytest.mark.parametrize(
    ("ends", "state", "reason"),
    [
        ([(0, ""), (0, "")], None, ""),
        ([(2, ""), (0, "")], None, ""),  # it said so itself
        ([(LEFT_ALONE, ""), (0, "")], "interrupted", "another of its processes is gone"),
        ([(-signal.SIGKILL, ""), (LEFT_ALONE, "")], "interrupted", "process 0 of 2 was killed by SIGKILL"),
        ([(LEFT_ALONE, ""), (-signal.SIGKILL, "")], "interrupted", "process 1 of 2 was killed by SIGKILL"),
        ([(LEFT_ALONE, ""), (1, "no memory")], "failed", "process 1 of 2: no memory"),
        ([(LEFT_ALONE, ""), (1, "")], "failed", "process 1 of 2: exit code 1"),
        ([(LEFT_ALONE, ""), (None, "")], "interrupted", "another of its processes is gone"),
    ],
)
def test_what_the_first_process_cannot_know_is_told_of_the_job(
    ends: list[tuple[int | None, str]], state: str | None, reason: str
) -> None:
    outcome = outcome_of([RankEnd(*end) for end in ends])
    assert (outcome or (None, ""))[0] == state
    assert reason in (outcome or (None, ""))[1]


def test_the_processes_of_a_job_that_another_attempt_has_end_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are real ones, which have imported nothing before, of a server that torchrun or the like has started."""
    monkeypatch.setenv("RANK", "1")
    folder = ServiceFolder(tmp_path)
    table = JobTable.open(folder.path)
    with table.database.writing():
        task = table.add("job", "n", JobOrder({"devices": 2}, {}, None), tmp_path)
    table.begin(task)
    process = launch_process(folder, task, attempt=7)
    while process.poll() is None:
        time.sleep(0.01)
    assert process.poll() == 0, folder.log(task).read_text()
    assert table.state(task) == "starting"
    assert folder.log(task).read_text() == ""
    table.database.close()
