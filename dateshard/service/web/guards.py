"""What stands before every route: names of hosts, origins, the size and kind of bodies, readers that take too long."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dateshard.service.web.problems import ProblemError, answer

MOST_BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0  # in which a body must have come
SEND_SECONDS = 30.0  # in which a reader must have taken the next piece of an answer
LOCAL = ("localhost",)
ALWAYS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}
PLAIN_POLICY = b"default-src 'none'; frame-ancestors 'none'"  # of all that sets no policy of its own
UNSTORED = b"no-store"


class Guard:
    """An ASGI middleware. A request that it refuses reaches no route, and its token is not looked at.

    Args:
        hosts: names beside `localhost` and plain addresses that the server may be called by. A page of another site whose
            name was made to lead here (DNS rebinding) calls it by that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app, self.hosts = app, {*LOCAL, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_within(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        try:
            self._refuse(Headers(scope=scope), scope["method"])
            body = await _read(receive)
        except ProblemError as error:
            await answer(error)(scope, receive, send_within)
            return
        await self.app(scope, _given_again(body, receive), send_within)

    def _refuse(self, headers: Headers, method: str) -> None:
        host = headers.get("host", "")
        if not self._is_known(host):
            raise ProblemError(421, "this server is not called by that name (--allowed-host adds one)")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise ProblemError(403, "a page of another origin may not call this server")
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method not in ("GET", "HEAD") and has_body and kind != "application/json":
            raise ProblemError(415, "a body is application/json")

    def _is_known(self, host: str) -> bool:
        """Tells whether a Host header names this server: by a plain address, which no other name can lead to, or a name."""
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _add_headers(message: Message) -> None:
    headers = message.setdefault("headers", [])
    named = {name.lower() for name, _ in headers}
    more = {**ALWAYS, b"content-security-policy": PLAIN_POLICY, b"cache-control": UNSTORED}
    headers += [(name, value) for name, value in more.items() if name not in named]


async def _read(receive: Receive) -> bytes:
    """The body of a request, counted while it comes.

    Raises:
        ProblemError: it is larger than `MOST_BODY_BYTES`, or comes too slowly.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":  # the client is gone
                    break
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MOST_BODY_BYTES:
                    raise ProblemError(413, f"a body has at most {MOST_BODY_BYTES:,} bytes")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise ProblemError(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    return b"".join(parts)


def _given_again(body: bytes, receive: Receive) -> Receive:
    """A receiver that gives the body that was read, and then what comes of the connection."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
