"""SIGKILL of a preprocess that sends its store to a bucket, and of the server: nothing that was acknowledged is lost."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.bucket_worlds import BELOW, begin, ended, on_disk, reach, seen_elsewhere
from tests.kit.conditional_server import FAR, ConditionalServer
from tests.kit.limits import PATIENCE_SECONDS

pytest.importorskip("obstore")
SPLIT = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03..2024-03-04"}
LATER = dt.date(2024, 3, 4)
Objects = dict[str, bytes]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConditionalServer]:
    with ConditionalServer(tmp_path / "s3") as running:
        reach(monkeypatch, running.environment())
        yield running


class Sending:
    """A generation in the bucket, and a date that the next preprocess adds to it: `old` and `new` are the objects."""

    def __init__(self, world: Any, server: ConditionalServer) -> None:
        self.world, self.server, self.config = world, server, world.config_file()
        dump = world.dump(LATER).read_bytes()
        world.dump(LATER).unlink()
        ended(begin(self.config, "data"))
        self.old = server.objects(BELOW)
        world.dump(LATER).write_bytes(dump)
        shutil.copytree("data", "before")
        server.hold_at(FAR)
        ended(begin(self.config, "data"))
        self.new, self.puts = server.objects(BELOW), server.puts()

    def start_over(self) -> None:
        """Has bucket and machine as they were before the date was added."""
        self.server.restore(BELOW, self.old)
        shutil.rmtree("data")
        shutil.copytree("before", "data")

    def killed_at(self, number: int, *, stored: bool) -> str:
        """Begins the preprocess, and kills it once the server stands at the n-th put; returns what is put there."""
        self.server.hold_at(number, stored=stored)
        process = begin(self.config, "data")
        name = self.server.held()
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        return name

    def goes_on(self, *, committed: bool) -> None:
        """What a reader sees is the old generation or the new one, whole; the same command ends with the same bytes."""
        assert seen_elsewhere().generation == 1 + committed
        assert ("nothing to do" in ended(begin(self.config, "data"))) == committed
        assert self.server.objects(BELOW) == self.new
        assert seen_elsewhere().generation == 2


@pytest.fixture
def sending(make_world: Any, server: ConditionalServer) -> Sending:
    return Sending(make_world(4, split=SPLIT), server)


def test_a_preprocess_killed_at_the_put_of_current_is_before_it_or_after_it(sending: Sending) -> None:
    for stored in (False, True):
        sending.start_over()
        assert sending.killed_at(sending.puts, stored=stored) == f"{BELOW}CURRENT"
        if stored:
            sending.goes_on(committed=True)
        else:  # what was sent before its sender died may still arrive: here it does not
            sending.server.kill()
            sending.server.start()
            sending.goes_on(committed=False)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_a_preprocess_killed_at_any_put_goes_on(sending: Sending, *, stored: bool) -> None:
    for number in range(1, sending.puts):
        sending.start_over()
        assert sending.killed_at(number, stored=stored) != f"{BELOW}CURRENT"
        sending.server.kill()
        sending.server.start()
        sending.goes_on(committed=False)


@pytest.mark.parametrize(
    "place", [-1, pytest.param(2, marks=pytest.mark.slow), pytest.param(-2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("stored", [False, True])
def test_a_server_killed_at_a_put_is_waited_for(sending: Sending, place: int, *, stored: bool) -> None:
    sending.start_over()
    sending.server.hold_at(place % (sending.puts + 1), stored=stored)
    process = begin(sending.config, "data")
    sending.server.held()
    sending.server.kill()
    sending.server.start()
    assert "generation 2" in ended(process)
    assert sending.server.objects(BELOW) == sending.new
    assert seen_elsewhere().generation == 2


@pytest.mark.slow
def test_a_first_preprocess_killed_while_it_sends_has_the_bytes_of_a_disk_at_the_end(
    make_world: Any, server: ConditionalServer
) -> None:
    world = make_world(4, split=SPLIT)
    files, config = on_disk(world), world.config_file()
    for number in (1, 2, 3, 5, 7, 9):  # what was sent is not sent again: all together they are less than the files
        server.hold_at(number)
        process = begin(config, "data")
        server.held()
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        server.go()
    server.hold_at(None)
    assert "generation 1: " in ended(begin(config, "data"))
    assert server.objects(BELOW) == files
