"""What the routes of the page share beside the desk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from dateshard.service.reporting.report_maker import ReportMaker
from dateshard.service.reporting.tickets import Tickets
from dateshard.service.web.desk import Desk


@dataclass(frozen=True, slots=True)
class PageDesk:
    """Reports, and the tickets that open them."""

    reports: ReportMaker
    tickets: Tickets

    @staticmethod
    def beside(desk: Desk) -> PageDesk:
        """Makes that of a server."""
        return PageDesk(ReportMaker(desk.folder, desk.orders.settings), Tickets())


def page_desk_of(request: Request) -> PageDesk:
    """That of the server which a request came to."""
    desk: PageDesk = request.app.state.page_desk
    return desk


ToPageDesk = Annotated[PageDesk, Depends(page_desk_of)]
