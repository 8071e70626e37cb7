"""The line between the server and the process that forecasts: JSON documents, each behind its length."""

from __future__ import annotations

import socket
from typing import Any

from pydantic_core import from_json, to_json

LENGTH_BYTES = 4
MOST_BYTES = 1 << 28


def send_frame(line: socket.socket, document: Any) -> None:
    """Sends one document. Numbers that JSON has no word for become null."""
    data = to_json(document, inf_nan_mode="null")
    line.sendall(len(data).to_bytes(LENGTH_BYTES, "big") + data)


def receive_frame(line: socket.socket) -> Any:
    """The next document; None where the other end is closed.

    Raises:
        TimeoutError: none came within the time that the socket waits.
    """
    header = _receive(line, LENGTH_BYTES)
    if header is None:
        return None
    size = int.from_bytes(header, "big")
    data = _receive(line, size) if size <= MOST_BYTES else None
    return None if data is None else from_json(data)


def _receive(line: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        if not (piece := line.recv(min(size - len(data), 1 << 20))):
            return None
        data += piece
    return bytes(data)
