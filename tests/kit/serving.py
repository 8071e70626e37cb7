"""A training service in a process of its own, whose jobs are forked from a warm one; and a client of it.

    server = Server(folder, "--output-root", "/models=models")      -> listens on a free port of 127.0.0.1
    task = server.start(epochs=3)
    server.wait(task, "completed")

The server is a real process: it is killed by real signals, and so are its jobs. `launch_process` is replaced by a helper
that forks before the server has threads; `Server(..., forked=False)` is the command itself.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from dateshard.service.jobs.database import Database
from dateshard.service.jobs.job_process import run_job
from dateshard.service.jobs.process_identity import ProcessIdentity, identity_of, is_alive
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.tokens import Tokens
from dateshard.training import launch
from tests.conftest import World, command, environment
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.zygote import Forked

API = "/api/v1/epoch-training"
SCRIPT = "import sys; from tests.kit.serving import serve_forked; serve_forked(sys.argv[1:])"
KINDS = "abc"


class ForkedJob:
    """The process of a job as the supervisor asks of it: how it ended is not known."""

    def __init__(self, identity: ProcessIdentity | None) -> None:
        self.identity = identity

    def poll(self) -> int | None:
        return None if self.identity and is_alive(self.identity) else 0


class Forker:
    """A process that forks another for each line it is sent, and ends when nobody can send one any more."""

    def __init__(self) -> None:
        (self.orders, self.ordering), (self.answers, self.answering) = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.close(self.ordering)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
            for line in os.fdopen(self.orders, "rb"):
                pid = os.fork()
                if pid == 0:
                    self._become_job(*json.loads(line))
                os.write(self.answering, f"{pid}\n".encode())
            os._exit(0)
        os.close(self.orders)
        self.lines = os.fdopen(self.answers, "rb")

    def launch(self, folder: ServiceFolder, job: str, attempt: int) -> ForkedJob:
        """In place of `launch_process`."""
        os.write(self.ordering, json.dumps([str(folder.data), job, attempt]).encode() + b"\n")
        return ForkedJob(identity_of(int(self.lines.readline())))

    @staticmethod
    def _become_job(data: str, job: str, attempt: int) -> None:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            log = ServiceFolder(Path(data)).log(job)
            log.parent.mkdir(exist_ok=True)
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            _hold_epochs(Path(data))
            launch._start = lambda _, *place: ForkedRank(partial(run_job, Path(data), job, attempt), *place)  # type: ignore[assignment]
            code = run_job(Path(data), job, attempt)
        finally:
            os._exit(code)


class ForkedRank:
    """One of the processes of a job, forked in place of `launch._start`, with what of `subprocess.Popen` is asked of it."""

    def __init__(self, run: Callable[[], int], rank: int, count: int, folder: Path) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            launch._end_with_parent()
            os.environ.update(launch.place_of(rank, count, folder))
            if rank:
                log = os.open(launch.log_of(rank, folder), os.O_WRONLY | os.O_CREAT)
                os.dup2(log, 1)
                os.dup2(log, 2)
            code = 1
            try:
                code = run()
            finally:
                os._exit(code)

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int | None:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _hold_epochs(data: Path) -> None:
    """Lets the job of this process wait after an epoch for as long as `Server.hold` says."""
    from dateshard.service.jobs.event_recorder import EventRecorder
    from dateshard.trainer.loop import EpochDone

    record = EventRecorder.watch

    def watch(self: EventRecorder, event: Any) -> None:
        record(self, event)
        while isinstance(event, EpochDone) and event.epoch + 1 >= held_from(data / f"hold-{self.job.id}"):
            time.sleep(0.01)

    EventRecorder.watch = watch  # type: ignore[method-assign]


def held_from(mark: Path) -> float:
    """The epoch from which a job is held; none where its mark is gone, also between two looks at it."""
    try:
        return int(mark.read_text() or 0)
    except FileNotFoundError:
        return math.inf


def serve_forked(words: list[str]) -> None:
    """The server itself, in a process that was forked by the tests' zygote: `dateshard serve` with forked jobs."""
    forker = Forker()
    from dateshard.cli import run
    from dateshard.service.web import serving

    serving.serve.__defaults__ = (forker.launch,)
    sys.exit(run(["serve", *words]))


class Server:
    """A running service and a client with a token of scope train."""

    def __init__(self, folder: Path, *options: str, forked: bool = True, script: str = SCRIPT) -> None:
        self.folder, self.options, self.forked, self.script = folder, options, forked, script
        self.data = folder / "data"
        database = Database(ServiceFolder(self.data).path)
        _, self.token = Tokens(database).make("train")
        _, self.reading = Tokens(database).make("read")
        database.close()
        self.client = httpx.Client(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_keepalive_connections=0))
        self.begin()

    def begin(self) -> None:
        """Starts it, also again after it was killed."""
        words = ["--port", "0", *self.options]
        out, err = self.folder / "server.out", self.folder / "server.err"
        out.unlink(missing_ok=True)
        if self.forked:
            self.process: Any = Forked(words, self.folder, self.script, (out, err))
        else:
            with open(out, "wb") as shown, open(err, "wb") as said:
                self.process = subprocess.Popen(
                    command("serve", *words), cwd=self.folder, env=environment(), stdout=shown, stderr=said
                )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (match := re.search(r"http:\S+:(\d+)", out.read_text() if out.exists() else "")):
            assert self.process.poll() is None, err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.url = match[0]
        self.answer("GET", "/healthz", tries=200)

    def answer(
        self, method: str, path: str, tries: int = 1, token: str | None = None, **options: Any
    ) -> httpx.Response:
        """Sends a request with the token, or with another."""
        headers = {"Authorization": f"Bearer {token or self.token}", **options.pop("headers", {})}
        for _ in range(tries - 1):
            with suppress(httpx.TransportError):
                return self.client.request(method, self.url + path, headers=headers, **options)
            time.sleep(0.01)
        return self.client.request(method, self.url + path, headers=headers, **options)

    def call(self, method: str, path: str, code: int = 200, **options: Any) -> Any:
        """Sends a request below the API and returns the JSON of the answer, whose status must be `code`."""
        answer = self.answer(method, API + path, **options)
        assert answer.status_code == code, answer.text
        return answer.json()

    def start(self, code: int = 200, **body: Any) -> Any:
        """Starts a job; returns its id, or the problem where `code` is none of success."""
        answer = self.call("POST", "/start", code, json=asked(**body))
        return answer["task_id"] if code == 200 else answer

    def state(self, task: str) -> str:
        return str(self.call("GET", f"/progress/{task}")["progress"]["training_state"])

    def wait(self, task: str, *states: str) -> str:
        """Waits until the job is in one of these states."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (state := self.state(task)) not in states:
            assert time.monotonic() < deadline, (state, self.call("GET", f"/logs/{task}")["text"])
            assert state not in ("failed", "interrupted", "completed"), self.call("GET", f"/jobs/{task}")
            time.sleep(0.02)
        return state

    def reach(self, task: str, epoch: int) -> None:
        """Waits until that epoch has ended."""
        while self.call("GET", f"/progress/{task}")["progress"]["current_epoch"] < epoch:
            assert self.state(task) in ("queued", "starting", "running"), self.call("GET", f"/logs/{task}")["text"]
            time.sleep(0.01)

    @contextmanager
    def following(self, task: str, after: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a stream as they come; each has its `id`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        headers |= {} if after is None else {"Last-Event-ID": str(after)}
        with self.client.stream("GET", f"{self.url}{API}/stream-progress/{task}", headers=headers) as response:
            assert response.status_code in (200, 204), response.read()
            yield parsed(response.iter_lines())

    def events(self, task: str, after: int | None = None) -> list[dict[str, Any]]:
        """All events until the stream ends."""
        with self.following(task, after) as events:
            return list(events)

    def hold(self, task: str, epoch: int) -> None:
        """Lets a job wait after this epoch, or the next that it ends, and returns once it has ended that one."""
        (self.data / f"hold-{task}").write_text(str(epoch))
        self.reach(task, epoch)

    def release(self, task: str) -> None:
        """Lets a job go on that was held."""
        (self.data / f"hold-{task}").unlink()

    def kill(self) -> None:
        """SIGKILL of the server; its jobs live."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends the server, and then every job that still runs."""
        if self.process.poll() is None:
            for row in self.answer("GET", f"{API}/jobs").json()["jobs"]:
                if row["pid"] is not None:
                    with suppress(ProcessLookupError):
                        os.kill(row["pid"], signal.SIGKILL)
        self.kill()
        self.client.close()


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Reads server-sent events."""
    event: dict[str, Any] = {}
    for line in lines:
        if line.startswith("data: "):
            event |= json.loads(line.removeprefix("data: "))
        elif line.startswith("id: "):
            event["id"] = int(line.removeprefix("id: "))
        elif not line and event:
            yield event
            event = {}


def asked(**body: Any) -> dict[str, Any]:
    """A small body of a start."""
    columns = {"feature_columns": ["feature1", "feature2", "feature3"], "target_column": "target"}
    return {"name": "深度学习模型训练", "epochs": 3, "batch_size": 16, "hidden_units": [4], **columns, **body}


def service_world(folder: Path, rows: int = 96) -> World:
    """A prepared table with three features and a categorical target, in `folder`."""
    generator, lines = random.Random(5), ["feature1,feature2,feature3,target"]
    for _ in range(rows):
        figures = [generator.gauss(0, 1) for _ in range(3)]
        lines.append(",".join([*(f"{figure:.3f}" for figure in figures), KINDS[sum(f > 0 for f in figures[:2])]]))
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    tree = {
        "dataset": "rows",
        "pipeline": {
            "layout": "table",
            "source": {"path": str(folder / "rows.csv")},
            "features": {"feature1": {}, "feature2": {}, "feature3": {}, "target": {"categorical": True}},
        },
    }
    world = World(folder, tree)
    world.prepare()
    return world


@contextmanager
def serving(folder: Path, *options: str, **how: Any) -> Iterator[Server]:
    """A server of `service_world` in `folder`, which is the working folder meanwhile. No request may lead to a traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        service_world(folder)
        with closing(Server(folder, *options, **how)) as server:
            yield server
        assert "ASGI" not in (folder / "server.err").read_text(), "a request led to a traceback"
