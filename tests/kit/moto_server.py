"""moto_server, S3 as its authors know it from AWS, as a process; found on the PATH where somebody installed it."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress

import httpx

from tests.kit.bucket_worlds import BUCKET
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.object_server import free_port

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=tester/20240101/us-east-1/s3/aws4_request"}


class MotoServer:
    """The server with an empty bucket. A context manager; `environment` is what clients need."""

    def __init__(self) -> None:
        program = shutil.which("moto_server")
        assert program, "moto is not installed"
        self.port = free_port()
        words = [program, "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._has_bucket():
            assert self._process.poll() is None, "moto_server ended"
            assert time.monotonic() < end, "no server"
            time.sleep(0.05)

    def _has_bucket(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.put(f"http://127.0.0.1:{self.port}/{BUCKET}", headers=SIGNED).is_success
        return False

    def __enter__(self) -> MotoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def environment(self) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret-of-test",
            "AWS_REGION": "us-east-1",
        }
