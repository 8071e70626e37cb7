"""Ends this process where it waits for another one of this machine that is gone.

Whoever exchanges tensors notices by the connection, as a rule at once, and then saves and ends. But gloo was seen twice, on
a busy machine, to wait for a process that was killed as this one entered the exchange; its own limit is half an hour. The
kernel tells for certain: it marks a pidfd as readable when its process ends.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dateshard.shardstore.commands import command
from dateshard.trainer.devices.gone import GONE, ProcessGoneError

PARTING_SECONDS = 20.0  # that an exchange may still take once a process is gone: what it sent before may be on its way


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: its number there, and what tells machines and containers apart."""

    pid: int
    machine: str

    @classmethod
    def here(cls) -> Place:
        """That of this process; `machine` is empty where there is no /proc."""
        try:
            machine = (
                f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
            )
        except OSError:
            machine = ""
        return cls(os.getpid(), machine)


class Exchanges:
    """Counts the exchanges of this process, and ends it in one that waits for a process that is gone."""

    def __init__(self) -> None:
        self._count = 0  # odd within an exchange

    @contextmanager
    def within(self) -> Iterator[None]:
        """Counts an exchange, also one that fails."""
        self._count += 1
        try:
            yield
        finally:
            self._count += 1

    def watch(self, places: Sequence[Place]) -> None:
        """Begins to watch, in a thread of its own, over those of these processes that run on this machine."""
        here = Place.here()
        if not here.machine or not hasattr(os, "pidfd_open"):
            return
        ended = select.poll()
        for place in places:
            if place.machine == here.machine and place.pid != here.pid:
                try:
                    watched = os.pidfd_open(place.pid)
                except ProcessLookupError:
                    watched = os.open(os.devnull, os.O_RDONLY)  # it is gone already: as readable as its pidfd would be
                ended.register(watched, select.POLLIN)
        threading.Thread(target=self._end_once_stuck, args=(ended,), name="partners", daemon=True).start()

    def _end_once_stuck(self, ended: select.poll) -> None:
        """Ends the process as SIGKILL would, so nothing is half written: what it did since it last saved is done again."""
        ended.poll()
        while True:
            before = self._count
            time.sleep(PARTING_SECONDS)
            if before % 2 and self._count == before:
                todo = f"Continue it: {command('train', '--resume', 'latest')}"
                os.write(2, f"error: {GONE}, and this one waited for it; it ends as well. {todo}\n".encode())
                os._exit(ProcessGoneError.exit_code)
