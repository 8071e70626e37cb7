"""The routes of reports: how one stands, having one made, reading it with a token, and opening it once with a ticket."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from dateshard.service.reporting.report_maker import Report
from dateshard.service.web.desk import READ, TRAIN, Desk, ToDesk
from dateshard.service.web.page.dataset_routes import folder_of
from dateshard.service.web.page.page_desk import PageDesk, ToPageDesk
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.training_routes import PREFIX, PROBLEMS

router = APIRouter(tags=["reports"], responses=PROBLEMS)
Kind = Literal["run", "data"]
Name = Annotated[str, PathParameter(pattern=r"^\w[\w.-]{0,63}$", description="the job of a run, or a dataset")]
POLICY = "; ".join(
    (
        "sandbox allow-scripts",  # an origin of its own: whatever a report held, it could not reach the page or its token
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
USED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Used already</title>
<p>This link opened its report once, or is older than a minute. Open the report again from the page of its run.</p></html>"""


class ReportState(BaseModel):
    """How a report stands: `old` can be read, but training or preparing went on since; `reason` says why one failed."""

    success: bool = True
    state: Literal["none", "waiting", "making", "ready", "old", "failed"]
    reason: str = ""


class TicketAnswer(BaseModel):
    """A path that opens a report once, within a minute, without a token."""

    success: bool = True
    path: str


@router.get(f"{PREFIX}/reports/{{kind}}/{{name}}/state", dependencies=[READ])
def report_state(kind: Kind, name: Name, desk: ToDesk, page_desk: ToPageDesk) -> ReportState:
    """How a report stands."""
    return _state(page_desk, _report(desk, kind, name))


def _report(desk: Desk, kind: Kind, name: str) -> Report:
    """A report of what is there.

    Raises:
        NotThereError: there is no such job or dataset.
    """
    if kind == "run":
        return Report(kind, desk.table.job(name).id)
    return Report(kind, folder_of(desk, name).name)


def _state(page_desk: PageDesk, report: Report) -> ReportState:
    standing = page_desk.reports.standing(report)
    return ReportState(state=standing.state, reason=standing.reason)


@router.post(f"{PREFIX}/reports/{{kind}}/{{name}}", status_code=202, dependencies=[TRAIN])
def make_report(kind: Kind, name: Name, desk: ToDesk, page_desk: ToPageDesk) -> ReportState:
    """Has a report made, in a process of its own, one at a time; a run is evaluated for it."""
    report = _report(desk, kind, name)
    if not page_desk.reports.make(report):
        raise ProblemError(429, "many reports wait already", headers={"retry-after": "60"})
    return _state(page_desk, report)


@router.get(f"{PREFIX}/reports/{{kind}}/{{name}}", dependencies=[READ], response_class=HTMLResponse)
def read_report(kind: Kind, name: Name, desk: ToDesk, page_desk: ToPageDesk) -> HTMLResponse:
    """A report that is made: one HTML page that needs nothing else."""
    return _page(page_desk, _report(desk, kind, name))


@router.post(f"{PREFIX}/reports/{{kind}}/{{name}}/ticket", dependencies=[READ])
def ticket(kind: Kind, name: Name, desk: ToDesk, page_desk: ToPageDesk) -> TicketAnswer:
    """A link that a browser can open, without a token in it."""
    report = _report(desk, kind, name)
    _page(page_desk, report)
    return TicketAnswer(path=f"report/{page_desk.tickets.make(report)}")


@router.get("/report/{ticket}", include_in_schema=False)
def open_report(ticket: Annotated[str, PathParameter(max_length=100)], page_desk: ToPageDesk) -> HTMLResponse:
    """The report of a ticket, this once."""
    report = page_desk.tickets.take(ticket)
    if report is None:
        return HTMLResponse(USED, 404)
    return _page(page_desk, report)


def _page(page_desk: PageDesk, report: Report) -> HTMLResponse:
    try:
        data = page_desk.reports.path(report).read_bytes()
    except OSError:
        raise ProblemError(404, f"{report.name} has no report yet; POST makes it") from None
    return HTMLResponse(data, headers={"content-security-policy": POLICY})
