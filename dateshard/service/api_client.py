"""Calls the service from the command line: `DATESHARD_SERVER` says where it is, `DATESHARD_TOKEN` who asks."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dateshard.places import data_folder
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.errors import DateshardError, NotThereError, UsageError, shorten

API = "/api/v1/epoch-training"
SERVER, TOKEN, TOKEN_FILE = "DATESHARD_SERVER", "DATESHARD_TOKEN", "DATESHARD_TOKEN_FILE"
DEFAULT = "http://127.0.0.1:8000"
ANSWER_SECONDS, SILENT_SECONDS = 330.0, 60.0  # a stream that lives says so every 15 s
AGAIN_SECONDS, MOST_TRIES = 1.0, 120
Document = dict[str, Any]


def address_of(host: str, port: int) -> str:
    """The address of a server as a client writes it."""
    named = f"[{host}]" if ":" in host else host
    return urlunsplit(("http", f"{named}:{port}", "", "", ""))


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A client of one server."""

    url: str
    token: str

    @staticmethod
    def of_environment() -> ApiClient:
        """The server and the token that the environment names; on the server's own machine, else, its first token.

        Raises:
            UsageError: no address of a server, or no token.
        """
        url, token = os.environ.get(SERVER, DEFAULT).rstrip("/"), os.environ.get(TOKEN, "").strip()
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UsageError(f"{SERVER}: '{shorten(url)}' is no address", todo=f"Write it like {DEFAULT}")
        file = Path(os.environ.get(TOKEN_FILE, str(data_folder() / "service" / "first_token")))
        if not token and (TOKEN_FILE in os.environ or file.exists()):
            try:
                token = file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"{TOKEN_FILE}: {file} cannot be read: {error}", todo="Name a file with a token"
                ) from None
        if not token:
            made = command("token", "create", "--scope", "train")
            raise UsageError("no token", todo=f"Make one ({made}) and set {TOKEN}, or {TOKEN_FILE} to a file with it")
        if not (token.isascii() and token.isprintable()):
            raise UsageError(f"{TOKEN} holds characters that no token has", todo="Set it to the token alone")
        return ApiClient(url, token)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Document:
        """Sends a request below the API and returns the answer.

        Raises:
            UsageError, NotThereError, DateshardError: what the server refused, in its words; or nobody answers.
        """
        with closing(self._connection(ANSWER_SECONDS)) as connection:
            response = self._send(connection, method, path, body, headers or {})
            return dict(json.loads(response.read()))

    def follow(self, task: str) -> Iterator[Document]:
        """The events of a job until it rests. Where the connection is lost, it goes on behind the last event.

        Raises:
            NotThereError: there is no such job. NoAnswerError: no service answers, or none for `MOST_TRIES` seconds.
        """
        last, tries = "", 0
        while True:
            with closing(self._connection(SILENT_SECONDS)) as connection:
                headers = {"Last-Event-ID": last} if last else {}
                try:
                    response = self._send(connection, "GET", f"/stream-progress/{task}", None, headers)
                except NoAnswerError:
                    tries += 1
                    if not last or tries > MOST_TRIES:
                        raise
                    time.sleep(AGAIN_SECONDS)
                    continue
                if response.status == 204:  # it rests, and all was told
                    return
                tries = 0
                with suppress(OSError, http.client.HTTPException):  # a server that was killed, or a network
                    for number, event in _events(response):
                        last = number or last
                        if number:
                            yield event

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname, "looked at before"
        return kind(parts.hostname, parts.port, timeout=seconds)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        own = {"Authorization": f"Bearer {self.token}", **headers}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            own["Content-Type"] = "application/json"
        try:
            connection.request(method, urlsplit(self.url).path + API + path, data, own)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            todo = f"{to_run('serve')}, or set {SERVER}"
            raise NoAnswerError(f"no service answers at {self.url}: {why}", todo=todo) from None
        if response.status >= 400:
            raise _refused(response.status, response.read())
        return response


class NoAnswerError(DateshardError):
    """No service answers at the address."""

    kind = "no answer"


def _refused(status: int, data: bytes) -> DateshardError:
    """What a server refused, as an error of ours."""
    try:
        problem = json.loads(data)
        lines = [f"{fault['field']}: {fault['message']}" for fault in problem.get("errors", ())]
        text = "; ".join(lines) or str(problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        text = f"the server answers {status}, not in the words of this service"
    kind = {404: NotThereError, 401: UsageError, 403: UsageError, 400: UsageError, 422: UsageError}.get(status)
    return (kind or DateshardError)(text)


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Document]]:
    """Reads server-sent events: (id, data)."""
    number, data = "", ""
    for raw in response:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("id: "):
            number = line.removeprefix("id: ")
        elif line.startswith("data: "):
            data += line.removeprefix("data: ")
        elif not line and data:
            yield number, json.loads(data)
            number, data = "", ""
