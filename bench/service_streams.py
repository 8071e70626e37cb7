"""What 100 slow readers of a job's events cost its training: CPU and wall time of a batch, with them and without, in turns.

    python bench/service_streams.py [--clients 100] [--pairs 20] [--seconds 4] [--control]

One real server and one real job, which trains all the time while clients come and go: a pair is a phase with them and one
without, in either order. The job's process itself notes at every batch how much processor time it has had, so a phase is
measured from batch to batch. The clients take 64 bytes every half a second. The first second of a phase, in which they
connect, is not counted. With `--control` there is, in place of clients, a process that has nothing to do with the service and
works as much as the server would: what it costs is what any work on the other core costs.

Prints the figures of both kinds of phase, and the median and the quarters of the ratio within a pair.
"""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dateshard.service.jobs.database import Database
from dateshard.service.jobs.service_folder import ServiceFolder
from tests.kit.serving import API, Server, serve_forked, service_world

SCRIPT = "import sys; from bench.service_streams import serve_noted; serve_noted(sys.argv[1:])"
NOTE = struct.Struct("qqq")  # batches, processor time and the clock, in ns
BUSY = """
import sys, time
share = float(sys.argv[1])
while True:
    began = time.process_time()
    while time.process_time() - began < 0.01 * share:
        sum(range(200))
    time.sleep(0.01 * (1 - share))
"""


def serve_noted(words: list[str]) -> None:
    """A server whose job notes its processor time at every batch."""
    from dateshard.service.jobs.event_recorder import EventRecorder
    from dateshard.trainer.loop import Stepped

    note = mmap.mmap(os.open("note", os.O_RDWR), NOTE.size)
    record = EventRecorder.watch

    def watch(self: EventRecorder, event: Any) -> None:
        record(self, event)
        if isinstance(event, Stepped):
            NOTE.pack_into(note, 0, event.step, time.process_time_ns(), time.monotonic_ns())

    EventRecorder.watch = watch  # type: ignore[method-assign]
    serve_forked(words)


@dataclass(frozen=True, slots=True)
class Phase:
    """Batches of a phase, and for each in microseconds: processor time of the training, the clock; share of the server."""

    batches: int
    cpu: float
    wall: float
    server: float


class SlowClients:
    """Clients that follow a job from now on and take what comes 64 bytes at a time."""

    def __init__(self, server: Server, task: str, count: int, after: int) -> None:
        head = f"Host: localhost\r\nAuthorization: Bearer {server.token}\r\nLast-Event-ID: {after}"
        text, port = f"GET {API}/stream-progress/{task} HTTP/1.1\r\n{head}\r\n\r\n", int(server.url.rpartition(":")[2])
        self.sockets = []
        for _ in range(count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(text.encode())
            client.setblocking(False)
            self.sockets.append(client)
        self.ending, self.taken = threading.Event(), 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        while not self.ending.wait(0.5):
            for client in self.sockets:
                try:
                    self.taken += len(client.recv(64))
                except BlockingIOError:
                    pass

    def close(self) -> None:
        self.ending.set()
        self.thread.join()
        for client in self.sockets:
            client.close()


class Bench:
    """One server with one job that trains, and phases of it."""

    def __init__(self, server: Server, task: str, clients: int, seconds: float) -> None:
        self.server, self.task, self.clients, self.seconds = server, task, clients, seconds
        self.note = mmap.mmap(os.open("note", os.O_RDONLY), NOTE.size, access=mmap.ACCESS_READ)
        self.database, self.taken = Database(ServiceFolder(server.data).path), 0

    def _now(self) -> tuple[int, int, int]:
        while (seen := NOTE.unpack_from(self.note)) != NOTE.unpack_from(self.note):
            pass
        return seen

    def _server_seconds(self) -> float:
        fields = Path(f"/proc/{self.server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _measure(self) -> Phase:
        time.sleep(1)
        begin, server = self._now(), self._server_seconds()
        time.sleep(self.seconds)
        end, used = self._now(), self._server_seconds() - server
        batches, cpu, wall = (last - first for first, last in zip(begin, end, strict=True))
        return Phase(batches, cpu / batches / 1e3, wall / batches / 1e3, used / wall * 1e9)

    def alone(self) -> Phase:
        """A phase without clients."""
        return self._measure()

    def followed(self) -> Phase:
        """A phase with all clients, who follow what comes and do not read what was."""
        newest = self.database.rows("SELECT max(id) FROM events")[0][0]
        clients = SlowClients(self.server, self.task, self.clients, newest)
        try:
            return self._measure()
        finally:
            clients.close()
            self.taken += clients.taken

    def beside(self, share: float) -> Phase:
        """A phase beside a process that has nothing to do with the service and takes this share of a core."""
        busy = subprocess.Popen([sys.executable, "-c", BUSY, str(share)])
        try:
            return self._measure()
        finally:
            busy.kill()
            busy.wait()


def shown(name: str, phases: list[Phase]) -> str:
    """A row: medians of all phases of a kind."""
    batches, cpu, wall, server = (
        statistics.median(getattr(phase, field) for phase in phases) for field in ("batches", "cpu", "wall", "server")
    )
    return f"| {name} | {batches:,.0f} | {cpu:.1f} | {wall:.1f} | {server:.1%} |"


def ratio(pairs: list[tuple[Phase, Phase]], field: str) -> str:
    """How much more a figure is with than without: the median of all pairs, and the quarters around it."""
    ratios = [getattr(second, field) / getattr(first, field) - 1 for first, second in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"


def main() -> None:
    """Prints both kinds of phase and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--control", type=float, metavar="SHARE", help="beside a process that takes this share of a core"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        os.chdir(made)
        Path("note").write_bytes(bytes(NOTE.size))
        service_world(Path(made), rows=4000)
        server = Server(Path(made), script=SCRIPT)
        task = server.start(epochs=10**6, early_stopping_patience=10**6, batch_size=given.batch_size)
        server.reach(task, 2)
        bench, pairs = Bench(server, task, given.clients, given.seconds), list[tuple[Phase, Phase]]()
        other = bench.followed if given.control is None else lambda: bench.beside(given.control)
        for turn in range(given.pairs):
            first, second = (bench.alone, other) if turn % 2 else (other, bench.alone)
            measured = first(), second()
            pairs.append(measured if turn % 2 else measured[::-1])
        server.close()
        os.chdir("/")
    load, what = os.getloadavg()[0], f"{given.clients} clients" if given.control is None else "control"
    print(
        f"load {load:.1f}; {given.pairs} pairs of {given.seconds:g} s, batches of {given.batch_size}; {bench.taken:,} bytes"
    )
    print("| | batches | CPU us a batch | wall us a batch | CPU of the server |\n|---|---|---|---|---|")
    print(shown("alone", [first for first, _ in pairs]))
    print(shown(what, [second for _, second in pairs]))
    print(f"CPU {ratio(pairs, 'cpu')}, wall {ratio(pairs, 'wall')}")


if __name__ == "__main__":
    main()
