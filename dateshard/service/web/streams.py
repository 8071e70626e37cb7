"""Server-sent events of a job: each event of its log once, in order, from any of its ids on.

A stream holds a cursor and no queue: a slow reader costs what is on its way to it, and training never waits for one. Streams
at the same place share what was read and written for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from fastapi.sse import format_sse_event

from dateshard.service.jobs.job_table import JobTable
from dateshard.service.web.problems import ProblemError

LOOKED_SECONDS = 0.1  # between two looks at the log
QUIET_SECONDS = 15.0  # the longest silence: a comment shows before that the line still stands
ROUSED_SECONDS = 5.0  # after which streams are woken without news
COMMENT = b": still here\n\n"
RETRY = b"retry: 1000\n"  # milliseconds; a line of the first event
MOST_ID = (1 << 63) - 1
MOST_SHARED = 64  # pieces of logs that are kept until the next news
CLOSING = format_sse_event(data_str='{"type":"server-closing"}')


@dataclass(frozen=True, slots=True)
class LogPiece:
    """The events behind one id as they are sent, the id of the last, and whether there will be no more."""

    data: bytes
    last: int
    over: bool


class EventStreams:
    """All streams of a server: one task looks whether there is news, and wakes them.

    Args:
        table: with a connection of its own, which never waits for a thread that writes, and to which all commits are news.
        most: streams at one time.
    """

    def __init__(self, table: JobTable, most: int, ending: Callable[[], bool]) -> None:
        self.table, self.most, self.ending = table, most, ending
        self.open = 0
        self._news = asyncio.Event()
        self._shared: dict[tuple[str, int], LogPiece] = {}

    async def watch(self) -> None:
        """Looks for news until it is cancelled, and wakes quiet streams now and then."""
        seen, woken = -1, time.monotonic()
        while True:
            now, moment = seen, time.monotonic()
            with suppress(sqlite3.Error):  # locked for long: the next look may succeed
                now = self.table.database.version()
            if now != seen or self.ending() or moment > woken + ROUSED_SECONDS:
                seen, woken = now, moment
                self._shared.clear()
                self._news.set()
                self._news = asyncio.Event()
            await asyncio.sleep(LOOKED_SECONDS)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds one of the places for streams.

        Raises:
            ProblemError: all are taken.
        """
        if self.open >= self.most:
            raise ProblemError(429, f"all {self.most} streams of this server are taken", headers={"retry-after": "5"})
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def follow(self, job: str, after: int) -> AsyncIterator[bytes]:
        """The events of a job behind an id, as they are sent, until the job rests or the server ends."""
        start, sent = RETRY, time.monotonic()
        while True:
            news = self._news  # before looking: what comes after it wakes
            piece = self._piece(job, after)
            if piece.data or time.monotonic() > sent + QUIET_SECONDS - ROUSED_SECONDS:
                yield start + piece.data if piece.data else COMMENT
                start, after, sent = b"" if piece.data else start, piece.last, time.monotonic()
            if piece.over:
                return
            if self.ending():
                yield CLOSING
                return
            if not piece.data:
                await news.wait()

    def _piece(self, job: str, after: int) -> LogPiece:
        """The events behind an id; read once for all streams that stand there."""
        if (shared := self._shared.get((job, after))) is None:
            events, over = self.table.events(job, after)
            data = b"".join(format_sse_event(data_str=event.data, id=str(event.id)) for event in events)
            shared = LogPiece(data, events[-1].id if events else after, over)
            if len(self._shared) >= MOST_SHARED:
                self._shared.clear()
            self._shared[job, after] = shared
        return shared


def cursor(last_event_id: str | None) -> int:
    """The id that a client saw last; 0 of one that saw nothing.

    Raises:
        ProblemError: it is none of our ids.
    """
    if last_event_id is None or last_event_id == "":
        return 0
    if not (last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id[:20]) <= MOST_ID):
        raise ProblemError(400, "Last-Event-ID is the id of an event, a whole number")
    return min(int(last_event_id[:20]), MOST_ID)
