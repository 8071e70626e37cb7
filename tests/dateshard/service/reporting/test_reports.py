"""Reports are made one at a time by processes of their own; a ticket opens one once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.reporting import report_maker, tickets
from dateshard.service.reporting.report_maker import MOST_WAITING, Report, ReportMaker, Standing
from dateshard.service.reporting.tickets import Tickets

WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('report')"
WAITS = (
    "import sys, pathlib, time\nwhile not pathlib.Path(sys.argv[1]).parent.joinpath('go').exists(): time.sleep(0.01)\n"
    + WRITES
)
FAILS = "import sys; print('Error: the disk is full', file=sys.stderr); sys.exit(28)"


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportMaker]:
    """One whose processes wait for a file `go` beside the report, write it, or fail, by the name of their run."""
    made = ReportMaker(ServiceFolder(tmp_path / "data"))
    made.folder.path.mkdir(parents=True)

    def posing(_: Path, report: Report) -> list[str]:
        path = made.path(report)
        path.parent.mkdir(parents=True, exist_ok=True)
        code = {"waits": WAITS, "fails": FAILS}.get(report.name, WRITES)
        return [sys.executable, "-S", "-c", code, str(path)]

    monkeypatch.setattr(report_maker, "command_of", posing)
    yield made
    made.end()


def wait(maker: ReportMaker, report: Report, state: Standing) -> str:
    while (standing := maker.standing(report)).state != state:
        assert standing.state in ("waiting", "making"), standing
        time.sleep(0.005)
    return standing.reason


def test_reports_are_made_one_after_the_other(maker: ReportMaker) -> None:
    slow, next_one = Report("run", "waits"), Report("data", "rows")
    assert maker.standing(slow).state == "none"
    assert all([maker.make(slow), maker.make(next_one), maker.make(slow)])
    assert [maker.standing(slow).state, maker.standing(next_one).state] == ["making", "waiting"]
    (maker.path(slow).parent / "go").touch()
    wait(maker, slow, "ready")
    wait(maker, next_one, "ready")
    (maker.folder.runs / "waits" / "metrics.jsonl").touch()
    assert maker.standing(slow).state == "old"


def test_a_report_that_fails_says_why_and_can_be_asked_for_again(maker: ReportMaker) -> None:
    report = Report("run", "fails")
    maker.make(report)
    assert wait(maker, report, "failed") == "Error: the disk is full"
    assert maker.make(report)
    assert maker.standing(report).state in ("making", "failed")


def test_not_more_than_some_wait_and_the_end_of_the_server_ends_all(maker: ReportMaker) -> None:
    maker.make(Report("run", "waits"))
    asked = [maker.make(Report("run", f"run{k}")) for k in range(MOST_WAITING + 1)]
    assert asked == [True] * MOST_WAITING + [False]
    maker.end()
    assert maker.standing(Report("run", "waits")).state == "none"
    assert maker.standing(Report("run", "run0")).state == "none"


def test_a_ticket_opens_its_report_once_and_not_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, report, made = 1000.0, Report("run", "a"), Tickets()
    monkeypatch.setattr(tickets.time, "monotonic", lambda: now)
    ticket = made.make(report)
    assert made.take(ticket[:-1]) is None
    assert made.take(ticket) == report
    assert made.take(ticket) is None
    late = made.make(report)
    now += 60.1
    assert made.take(late) is None


def test_tickets_take_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST", 3)
    made = Tickets()
    many = [made.make(Report("run", str(k))) for k in range(5)]
    assert [made.take(ticket) is None for ticket in many] == [True, True, False, False, False]
