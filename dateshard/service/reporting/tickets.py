"""Tickets that open one report once, so that a link to it needs no token: a token in an address would be kept in histories."""

from __future__ import annotations

import secrets
import threading
import time

from dateshard.service.reporting.report_maker import Report

LIFE_SECONDS, MOST = 60.0, 1000


class Tickets:
    """The tickets of a server, in memory alone."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Report, float]] = {}
        self._lock = threading.Lock()

    def make(self, report: Report) -> str:
        """Makes a ticket of 256 random bits; where there are too many the oldest is worthless."""
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            self._open[ticket] = (report, time.monotonic() + LIFE_SECONDS)
            while len(self._open) > MOST:
                del self._open[next(iter(self._open))]
        return ticket

    def take(self, ticket: str) -> Report | None:
        """The report of a ticket, which is worthless from now on; None where it is not known, used, or too old."""
        with self._lock:
            report, until = self._open.pop(ticket, (None, 0.0))
        return report if time.monotonic() <= until else None
