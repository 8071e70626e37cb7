"""A small S3 server that honours the conditions of a put, as a process of its own; its objects are files that survive it.

It answers GET (with ranges), HEAD, PUT and the listing of a prefix, and asks nobody who he is. Beside it the tests use the
gateway of JuiceFS, a whole server, which ignores conditions.

At the n-th PUT it can stop: `hold_at` says so, it writes the file `held` and answers once the file `go` is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.object_server import free_port

FAR = 10**6


class ConditionalServer:
    """The server as a process. A context manager; `environment` is what clients need."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "objects").mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Starts it, again where it was killed: it has the objects that it had."""
        words = [sys.executable, "-m", "tests.kit.conditional_server", str(self.folder), str(self.port)]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
        wait_for(self.folder / f"ready-{self.process.pid}")

    def kill(self) -> None:
        """Ends it at once, whatever it is doing."""
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> ConditionalServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client needs to reach it, or the line at another port."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret-of-test",
            "AWS_REGION": "us-east-1",
        }

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What it holds below a prefix, by the rest of the name."""
        names = {unquote(path.name): path for path in (self.folder / "objects").iterdir() if path.suffix != ".tmp"}
        return {name[len(prefix) :]: path.read_bytes() for name, path in names.items() if name.startswith(prefix)}

    def spoil(self, name: str, data: bytes) -> None:
        """Puts other bytes into an object, as a fault of the server would."""
        path = self.folder / "objects" / quote(name, safe="")
        assert path.exists(), name
        path.write_bytes(data)

    def restore(self, prefix: str, objects: dict[str, bytes]) -> None:
        """Makes these all that it holds below a prefix."""
        for name in self.objects(prefix):
            (self.folder / "objects" / quote(prefix + name, safe="")).unlink()
        for name, data in objects.items():
            (self.folder / "objects" / quote(prefix + name, safe="")).write_bytes(data)

    def hold_at(self, number: int | None, *, stored: bool = False) -> None:
        """Has it stop at the n-th PUT from now on, before or after it is stored; None: never."""
        for name in ("held", "go", "hold"):
            (self.folder / name).unlink(missing_ok=True)
        if number is not None:
            (self.folder / "hold").write_text(f"{number} {int(stored)}")

    def puts(self) -> int:
        """How many PUTs came since it was told to stop at one far away."""
        return FAR - int((self.folder / "hold").read_text().split()[0])

    def held(self) -> str:
        """Waits until it stands at that PUT, and returns the object's name."""
        wait_for(self.folder / "held")
        return (self.folder / "held").read_text()

    def go(self) -> None:
        """Has it answer."""
        (self.folder / "go").touch()


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    def _path(self) -> Path:
        return self.folder / "objects" / quote(unquote(urlsplit(self.path).path).lstrip("/"), safe="")

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _facts(self, path: Path, data: bytes) -> dict[str, str]:
        changed = formatdate(path.stat().st_mtime, usegmt=True)
        return {"ETag": _tag(data), "Last_Modified": changed, "Content_Type": "binary/octet-stream"}

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        if "list-type" in asked:
            self._list(urlsplit(self.path).path.strip("/"), asked.get("prefix", [""])[0])
            return
        path = self._path()
        if not path.exists():
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data = path.read_bytes()
        facts = self._facts(path, data)
        if chosen := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            low, high = int(chosen[1]), min(int(chosen[2]), len(data) - 1)
            self._answer(206, data[low : high + 1], Content_Range=f"bytes {low}-{high}/{len(data)}", **facts)
        else:
            self._answer(200, data, **facts)

    def do_HEAD(self) -> None:
        path = self._path()
        if not path.exists():
            self._answer(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        for name, value in self._facts(path, data).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()

    def do_PUT(self) -> None:
        path, data = self._path(), self.rfile.read(int(self.headers["Content-Length"]))
        held = self._turn()
        if held == "before":
            self._stop(path)
        with self.lock:
            there = _tag(path.read_bytes()) if path.exists() else None
            wanted = self.headers.get("If-Match")
            refused = (self.headers.get("If-None-Match") == "*" and there) or (wanted and wanted != there)
            if not refused:
                temporary = path.with_name(f"{path.name}.tmp")
                temporary.write_bytes(data)
                temporary.replace(path)
        if held == "after":
            self._stop(path)
        if refused:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self._answer(200, ETag=_tag(data))

    def _stop(self, path: Path) -> None:
        temporary = self.folder / "held.tmp"
        temporary.write_text(unquote(path.name))
        temporary.replace(self.folder / "held")
        wait_for(self.folder / "go")

    def _turn(self) -> str:
        with self.lock:
            hold = self.folder / "hold"
            if not hold.exists():
                return ""
            number, stored = map(int, hold.read_text().split())
            if number > 1:
                hold.write_text(f"{number - 1} {stored}")
                return ""
            hold.unlink()
            return "after" if stored else "before"

    def _list(self, bucket: str, prefix: str) -> None:
        rows = []
        for path in sorted((self.folder / "objects").iterdir()):
            name = unquote(path.name)
            if path.suffix == ".tmp" or not name.startswith(f"{bucket}/{prefix}"):
                continue
            data = path.read_bytes()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(path.stat().st_mtime))
            key = escape(name[len(bucket) + 1 :])
            facts = f"<LastModified>{when}</LastModified><ETag>{escape(_tag(data))}</ETag><Size>{len(data)}</Size>"
            rows.append(f"<Contents><Key>{key}</Key>{facts}</Contents>")
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        self._answer(200, body.encode(), Content_Type="application/xml")


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


if __name__ == "__main__":
    _Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler)
    (_Handler.folder / f"ready-{os.getpid()}").touch()
    server.serve_forever()
