"""Server-sent events of a job: each event of its log once, in order, from any of its ids on.

A stream holds a cursor and no queue: a slow reader costs what is on its way to it, and training never waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

from fastapi.sse import ServerSentEvent

from dateshard.service.jobs.job_table import JobTable
from dateshard.service.web.problems import ProblemError

LOOKED_SECONDS = 0.1  # between two looks at the log
RETRY_MILLISECONDS = 1000
MOST_ID = (1 << 63) - 1
CLOSING = '{"type":"server-closing"}'


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

    async def watch(self) -> None:
        """Looks for news until it is cancelled."""
        seen = -1
        while True:
            if (now := self.table.database.version()) != seen or self.ending():
                seen = now
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

    async def follow(self, job: str, after: int) -> AsyncIterator[ServerSentEvent]:
        """The events of a job behind an id, until the job rests or the server ends."""
        retry: int | None = RETRY_MILLISECONDS
        while True:
            news = self._news  # before looking: what comes after it wakes
            events, over = self.table.events(job, after)
            for event in events:
                after = event.id
                yield ServerSentEvent(raw_data=event.data, id=str(event.id), retry=retry)
                retry = None
            if over:
                return
            if self.ending():
                yield ServerSentEvent(raw_data=CLOSING)
                return
            if not events:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), 1.0)


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
