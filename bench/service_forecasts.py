"""How long a forecast over the service takes: percentiles of many requests, and the CPU time of both processes for one.

    python bench/service_forecasts.py [--calls 200] [--rounds 3]

A real server and a real process that forecasts, one client, one request at a time, for 30 nodes of 2 inputs and 2 targets
with intervals: 12 + 12 steps, and 168 + 24. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil

from tests.conftest import build_world
from tests.kit.serving import API, Server

JSON = {"Content-Type": "application/json"}
NODES, WINDOWS = 30, ((12, 12), (168, 24))


def served(folder: Path, history: int, horizon: int) -> tuple[Server, str]:
    """A server with one finished job."""
    split = {"train": "..2024-03-20", "validation": "2024-03-21..2024-03-30", "test": "2024-03-31.."}
    window = {"history": history, "horizon": horizon}
    world = build_world(folder, 40, nodes=[f"n{node}" for node in range(NODES)], split=split, window=window)
    world.prepare()
    world.config_file()
    server = Server(folder, "-c", "config.yaml", forked=False)
    task = server.call("POST", "/start", json={"name": "x", "epochs": 1})["task_id"]
    server.wait(task, "completed")
    return server, task


def cpu_seconds(processes: list[psutil.Process]) -> np.ndarray:
    """Processor time of each so far."""
    return np.array([sum(process.cpu_times()[:2]) for process in processes])


def measured(server: Server, task: str, history: int, calls: int) -> tuple[list[float], np.ndarray, int, int]:
    """Milliseconds of each request, those of CPU of the server and of the process that forecasts, bytes in and out."""
    drawn = np.random.default_rng(7)
    values = np.stack([drawn.normal(50, 5, (history, NODES)).round(2), drawn.poisson(9, (history, NODES))], -1)
    asked = {"history": values.tolist(), "until": "2024-03-31T00:00"}
    body = json.dumps(asked, separators=(",", ":")).encode()  # made before: that is the client's own work
    path, times = f"{API}/predict/{task}", []
    for _ in range(20):
        answer = server.answer("POST", path, content=body, headers=JSON)
        assert answer.status_code == 200, answer.text
    parent = psutil.Process(server.process.pid)
    processes = [parent, *(child for child in parent.children() if "forecast_process" in str(child.cmdline()))]
    before = cpu_seconds(processes)
    for _ in range(calls):
        began = time.perf_counter()
        answer = server.answer("POST", path, content=body, headers=JSON)
        times.append((time.perf_counter() - began) * 1e3)
    return times, (cpu_seconds(processes) - before) / calls * 1e3, len(answer.request.content), len(answer.content)


def main() -> None:
    """Prints a row for each size and round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    load = os.getloadavg()[0]
    print(f"{dt.date.today()}, load {load:.1f}: {given.calls} requests a round, ms")
    print(
        "| steps | bytes in | out | p50 | p99 | CPU of the server | of the forecasting process |\n|---|---|---|---|---|---|---|"
    )
    for history, horizon in WINDOWS:
        with tempfile.TemporaryDirectory() as made:
            os.chdir(made)
            server, task = served(Path(made), history, horizon)
            for _ in range(given.rounds):
                times, cpu, sent, got = measured(server, task, history, given.calls)
                middle, most = np.percentile(times, (50, 99))
                print(
                    f"| {history} + {horizon} | {sent:,} | {got:,} | {middle:.1f} | {most:.1f} | {cpu[0]:.2f} | {cpu[1]:.2f} |"
                )
            server.close()
            os.chdir("/")


if __name__ == "__main__":
    main()
