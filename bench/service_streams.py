"""What 100 slow readers of a job's events cost its training: CPU of the job's process an epoch, with them and without, in turns.

    python bench/service_streams.py [--clients 100] [--turns 60] [--epochs 5]

One real server, one real job. In every second turn the clients are there: each takes 64 bytes every half a second. Prints
the CPU milliseconds of an epoch with them and without, and the median ratio of neighbouring turns.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kit.serving import API, Server, service_world


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, to the nanosecond."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class SlowClients:
    """Clients that follow a job and take what comes 64 bytes at a time."""

    def __init__(self, server: Server, task: str, count: int) -> None:
        port = int(server.url.rpartition(":")[2])
        text = f"GET {API}/stream-progress/{task} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n"
        self.sockets = []
        for _ in range(count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(text.encode())
            client.setblocking(False)
            self.sockets.append(client)
        self.ending, self.taken = False, 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        while not self.ending:
            for client in self.sockets:
                try:
                    self.taken += len(client.recv(64))
                except BlockingIOError:
                    pass
            time.sleep(0.5)

    def close(self) -> None:
        self.ending = True
        self.thread.join()
        for client in self.sockets:
            client.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as made:
        os.chdir(made)
        service_world(Path(made), rows=1600)
        server = Server(Path(made), forked=False)
        task = server.start(epochs=10**6, early_stopping_patience=10**6, batch_size=16)
        server.reach(task, 5)
        pid = server.call("GET", f"/jobs/{task}")["job"]["pid"]
        taken = 0
        results: dict[bool, list[float]] = {True: [], False: []}
        with server.following(task) as events:
            epochs = (event["progress"]["current_epoch"] for event in events if event["type"] == "progress")
            for turn in range(given.turns):
                there = turn % 2 == 1
                clients = SlowClients(server, task, given.clients) if there else None
                begin = next(epochs)
                first = cpu_seconds(pid)
                last = begin
                while last < begin + given.epochs:
                    last = next(epochs)
                results[there].append((cpu_seconds(pid) - first) / (last - begin) * 1e3)
                if clients:
                    clients.close()
                    taken += clients.taken
        server.call("POST", f"/stop/{task}")
        server.wait(task, "stopped")
        server.close()
    ratios = [after / before for before, after in zip(results[False], results[True], strict=True)]
    free, followed, more = (statistics.median(row) for row in (results[False], results[True], ratios))
    print(f"{given.clients} slow clients took {taken:,} bytes: {followed:.2f} ms of CPU an epoch, {free:.2f} without")
    spread = statistics.quantiles(ratios, n=4)
    print(
        f"a turn with them over the one before it: {more - 1:+.1%} (quarters {spread[0] - 1:+.1%} to {spread[2] - 1:+.1%})"
    )


if __name__ == "__main__":
    main()
