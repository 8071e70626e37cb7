"""Streams of events: what all of them share, what keeps a quiet line open, and how they are sent."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dateshard.service.jobs.database import Database
from dateshard.service.jobs.job_table import JobOrder, JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.web import streams
from dateshard.service.web.streams import COMMENT, EventStreams
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.page_client import page_client
from tests.kit.serving import API


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    """A table with one job, which is queued."""
    table = JobTable.open(ServiceFolder(tmp_path / "data").path)
    with table.database.writing():
        table.add("job", "n", JobOrder({}, {}, None), tmp_path)
    yield table
    table.database.close()


def followed(table: JobTable, tmp_path: Path, readers: int, play: Callable[[EventStreams], Any]) -> list[list[bytes]]:
    """What so many readers get of the job, of which `play` is played once all wait for news."""
    seen = JobTable.open(ServiceFolder(tmp_path / "data").path)
    following = EventStreams(seen, readers, lambda: False)

    async def read() -> list[bytes]:
        return [piece async for piece in following.follow("job", 0)]

    async def all_together() -> list[list[bytes]]:
        watching = asyncio.create_task(following.watch())
        reading = [asyncio.create_task(read()) for _ in range(readers)]
        await asyncio.sleep(0.15)
        await asyncio.to_thread(play, following)
        pieces = await asyncio.gather(*reading)
        watching.cancel()
        return pieces

    try:
        return asyncio.run(all_together())
    finally:
        seen.database.close()


def test_readers_at_the_same_place_are_served_by_one_look_at_the_log(
    table: JobTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = list[int](), JobTable.events

    def counted(self: JobTable, job: str, after: int) -> Any:
        looks.append(after)
        return look(self, job, after)

    monkeypatch.setattr(JobTable, "events", counted)
    pieces = followed(table, tmp_path, 50, lambda _: table.ask("job", "pause"))
    assert all(b"".join(piece) == b"".join(pieces[0]) for piece in pieces)
    assert pieces[0][-1].count(b"data: ") == 1
    assert b'"type":"paused"' in pieces[0][-1]
    assert len(looks) < 8, "and not one a reader"


def test_a_quiet_stream_is_kept_open_by_comments_also_when_the_log_cannot_be_looked_at(
    table: JobTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(streams, "ROUSED_SECONDS", 0.02)
    monkeypatch.setattr(streams, "LOOKED_SECONDS", 0.01)

    def play(following: EventStreams) -> None:
        version = following.table.database.version

        def locked() -> int:
            following.table.database.version = version  # type: ignore[method-assign]
            raise sqlite3.OperationalError("database is locked")

        following.table.database.version = locked  # type: ignore[method-assign]
        while following.table.database.version is locked:
            pass
        table.ask("job", "stop")

    (pieces,) = followed(table, tmp_path, 1, play)
    assert COMMENT in pieces
    assert pieces[0].startswith(b"retry: 1000\ndata: {")
    assert b"retry" not in b"".join(pieces[1:])
    assert b'"type":"stopped"' in pieces[-1]


def test_no_silence_lasts_longer_than_is_said_whatever_other_jobs_wake_a_stream(
    table: JobTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, version, tick = [0.0], Database.version, 0.25
    with table.database.writing():
        table.add("other", "n", JobOrder({}, {}, None), tmp_path)

    def looked(self: Database) -> int:  # time goes on with every look
        clock[0] += tick
        if clock[0] in (9.0, 38.0):
            table.tell("other", "progress", {})
        if clock[0] == 100.0:
            table.ask("job", "stop")
        return version(self)

    monkeypatch.setattr(Database, "version", looked)
    monkeypatch.setattr(streams, "LOOKED_SECONDS", 0)
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    seen = JobTable.open(ServiceFolder(tmp_path / "data").path)
    following = EventStreams(seen, 1, lambda: False)

    async def listen() -> list[float]:
        watching = asyncio.create_task(following.watch())
        heard = [clock[0] async for _ in following.follow("job", 0)]
        watching.cancel()
        return heard

    heard = asyncio.run(listen())
    seen.database.close()
    assert heard[-1] >= 100
    assert max(after - before for before, after in pairwise(heard)) <= streams.QUIET_SECONDS + 2 * tick


def test_a_stream_ends_with_the_server_also_when_the_log_cannot_be_looked_at(
    table: JobTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[bool]()

    def locked(_: Database) -> int:
        asked.append(True)
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Database, "version", locked)
    following = EventStreams(table, 1, lambda: bool(asked))

    async def listen() -> list[bytes]:
        watching = asyncio.create_task(following.watch())
        async with asyncio.timeout(PATIENCE_SECONDS):
            pieces = [piece async for piece in following.follow("job", 0)]
        watching.cancel()
        return pieces

    assert asyncio.run(listen())[-1] == streams.CLOSING


def test_a_stream_is_held_back_by_no_cache_and_no_proxy(table: JobTable, tmp_path: Path) -> None:
    table.ask("job", "stop")
    client = page_client(tmp_path)
    headers = client.get(f"{API}/stream-progress/job", headers=client.bearer("read")).headers
    client.close()
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
