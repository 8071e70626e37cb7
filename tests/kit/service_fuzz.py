"""Requests made by schemathesis of the service's own OpenAPI, valid and not, to a server whose jobs only pose as trainings.

    python -m tests.kit.service_fuzz 50000

A posing job takes its place in the table as a process does, tells some epochs, obeys pause and stop, and ends in a state
that is drawn, or that it is named after: so that every route meets jobs in every state. An answer of 500 or more is a
fault, and so is a server that
is gone.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from dateshard.service.forecasts.forecast_process import answer_all
from dateshard.service.forecasts.warm_forecasts import WarmForecasts
from dateshard.service.jobs.job_states import AT_REST
from dateshard.service.jobs.job_table import JobTable
from dateshard.service.jobs.process_identity import identity_of
from dateshard.service.jobs.service_folder import ServiceFolder
from tests.kit.serving import Server, service_world

SCRIPT = "import sys; from tests.kit.service_fuzz import serve_posing; serve_posing(sys.argv[1:])"
HOSTILE = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a" * 5000,
    "-1",
    "深度学习",
    "%F0%9F%92%A9",
    "';--",
    "*",
]


class Posing(threading.Thread):
    """A thread that poses as the process of a job."""

    def __init__(self, folder: ServiceFolder, job: str, attempt: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.job, self.attempt = folder, job, attempt
        self.start()

    def poll(self) -> int | None:
        return None if self.is_alive() else 0

    def run(self) -> None:
        table = JobTable.open(self.folder.path)
        identity = identity_of(os.getpid())
        assert identity is not None
        job = table.claim(self.job, self.attempt, identity)
        if job is not None:
            self._pose(table, job)
        table.database.close()

    def _pose(self, table: JobTable, job: Any) -> None:
        table.run(job, {"run": job.id, "total_epochs": 9})
        figures = {"train_loss": 0.1, "train_accuracy": 0.5, "val_loss": None, "val_accuracy": 1.0}
        epochs = random.randint(1, 5) if job.name not in (*AT_REST, "running") else 3
        for epoch in range(1, epochs):
            metrics = {"epoch": epoch, **figures, "learning_rate": 0.1, "time_per_epoch": 0.1}
            best = {"loss": 0.1, "accuracy": 1.0}
            progress = {"current_epoch": epoch, "total_epochs": 9, "training_state": "running"}
            table.tell(job.id, "progress", {"progress": {**progress, "latest_metrics": metrics, "best_metrics": best}})
            time.sleep(0.01)
        ends = ["completed", "early_stopped", "failed", "interrupted"]
        while True:
            asked = {"pausing": "paused", "stopping": "stopped"}.get(table.state(job.id))
            if asked or job.name != "running":
                break
            time.sleep(0.02)
        table.settle(job, asked or (job.name if job.name in AT_REST else random.choice(ends)))


def serve_posing(words: list[str]) -> None:
    """`dateshard serve` whose jobs pose."""
    from dateshard.cli import run
    from dateshard.service.web import serving

    serving.serve.__defaults__ = (Posing,)
    WarmForecasts._begin = _begin_forecasts  # type: ignore[method-assign]
    sys.exit(run(["serve", *words]))


def _begin_forecasts(forecasts: WarmForecasts) -> socket.socket:
    """A thread in place of the process that forecasts: here torch is loaded already."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=answer_all, args=(forecasts.data, theirs), daemon=True).start()
    forecasts._line = ours
    return ours


def fuzz(server: Server, total: int, start: int = 0, say: Callable[[str], object] = lambda _: None) -> Counter[int]:
    """Sends `total` requests and more, spread over the operations; returns how many answers had each status.

    Raises:
        AssertionError: an answer of 500 or more, with the request that led to it.
    """
    schema = schemathesis.openapi.from_dict(requests.get(f"{server.url}/openapi.json", timeout=60).json())
    operations = [result.ok() for result in schema.get_all_operations()]
    session, counts, draw = requests.Session(), Counter[int](), random.Random(start)
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    each = -(-total // (len(operations) * len(modes)))
    known: list[str] = []

    def send(case: Any) -> None:
        if "task_id" in (case.path_parameters or {}) and draw.random() < 0.9:
            if not known or draw.random() < 0.05:
                known[:] = [row["task_id"] for row in server.call("GET", "/jobs?limit=200")["jobs"]]
            case.path_parameters["task_id"] = draw.choice([*known, *known, *known, *HOSTILE])
        headers = {"Authorization": f"Bearer {server.token}"} if draw.random() < 0.95 else {}
        response = case.call(base_url=server.url, session=session, headers=headers, timeout=120)
        counts[response.status_code] += 1
        assert response.status_code < 500, f"{response.status_code} {response.text}\n{case.as_curl_command()}"
        said = (server.folder / "server.err").read_text()
        assert "ASGI" not in said, f"{said}\n{case.as_curl_command()}"
        if response.status_code >= 400:
            assert set(json.loads(response.text)) >= {"type", "title", "status", "detail"}

    for operation in operations:
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)
            test = settings(
                max_examples=each,
                database=None,
                deadline=None,
                derandomize=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(seed(start)(given(case=strategy)(lambda case: send(case))))
            for _ in range(8 - len(server.call("GET", "/jobs?limit=8")["jobs"])):
                server.start()
            before = sum(counts.values())
            try:
                test()
            except (schemathesis.errors.InvalidSchema, Unsatisfiable):  # nothing of it can be wrong
                pass
            say(
                f"{operation.method.upper()} {operation.path} {mode.value}: {sum(counts.values()) - before} {dict(counts)}"
            )
    return counts


def posing_server(folder: Path) -> Server:
    """A server with one dataset and jobs that pose."""
    service_world(folder)
    server = Server(folder, "--max-jobs", "64", script=SCRIPT)
    for _ in range(5):
        server.start()
    return server


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        os.chdir(made)
        posing = posing_server(Path(made))
        begun, sent = time.time(), Counter[int]()
        try:
            rounds = 0
            while sum(sent.values()) < int(sys.argv[1]):
                rounds += 1
                sent += fuzz(posing, 5000, rounds, print)
            print(f"{sum(sent.values()):,} requests in {time.time() - begun:.0f} s: {dict(sorted(sent.items()))}")
        finally:
            posing.close()
