"""Asks the process that forecasts, and starts it where it is not there. The server itself never imports torch."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from dateshard.service.forecasts.frames import Pair, receive_pair, send_pair
from dateshard.shardstore.errors import ResourceError

MOST_WAITING = 16  # each has a thread of the server
ANSWER_SECONDS = 300.0  # the first answer loads torch and the model, and may make its intervals


class RefusedForecastError(Exception):
    """A request that the process could not follow.

    Attributes:
        kind: of our own errors; `fields` where `faults` has what pydantic says of the body.
    """

    def __init__(self, kind: str, error: str, faults: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(error)
        self.kind, self.faults = kind, faults


class WarmForecasts:
    """The process of one server that forecasts; one request at a time.

    Args:
        data: the data folder. log: takes what the process prints.
    """

    def __init__(self, data: Path, log: Path) -> None:
        self.data, self.log = data, log
        self._lock, self._places = threading.Lock(), threading.BoundedSemaphore(MOST_WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def ask(self, run: str, body: bytes) -> bytes:
        """The answer to a `PredictBody`, which is passed on as it came; the answer is JSON, and is not looked into either.

        Raises:
            RefusedForecastError: the body, or the run, cannot be used.
            ResourceError: too many wait already, the process died of the request, or takes longer than `ANSWER_SECONDS`.
        """
        if not self._places.acquire(blocking=False):
            raise ResourceError(f"{MOST_WAITING} requests wait for a forecast already", todo="Ask again in a moment")
        try:
            refused, forecast = self._ask((run.encode(), body))
        finally:
            self._places.release()
        if refused:
            raise RefusedForecastError(**from_json(refused))
        return forecast

    def _ask(self, asked: Pair) -> Pair:
        with self._lock:
            for _ in range(2):  # it may have ended, unasked for long
                line = self._line or self._begin()
                try:
                    send_pair(line, asked)
                    answer = receive_pair(line)
                except TimeoutError:
                    self._end()
                    raise ResourceError(f"no forecast came within {ANSWER_SECONDS:g} s") from None
                except OSError:
                    answer = None
                if answer is not None:
                    return answer
                self._end()
        raise ResourceError("the process that forecasts ended in the middle; the service's log forecasts.log says why")

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with theirs, open(self.log, "ab") as out:
            words = ["-m", "dateshard.service.forecasts.forecast_process", str(self.data), str(theirs.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.settimeout(ANSWER_SECONDS)
        self._line = ours
        return ours

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None
