"""The line between the server and the process that forecasts: pairs of byte strings, each behind its length.

A request is the run's name and the body as it came. An answer is what was refused, as JSON, or nothing, and the forecast.
"""

from __future__ import annotations

import socket

LENGTH_BYTES = 4
MOST_BYTES = 1 << 28
Pair = tuple[bytes, bytes]


def send_pair(line: socket.socket, pair: Pair) -> None:
    """Sends both byte strings."""
    line.sendall(b"".join(len(data).to_bytes(LENGTH_BYTES, "big") + data for data in pair))


def receive_pair(line: socket.socket) -> Pair | None:
    """The next two byte strings; None where the other end is closed.

    Raises:
        TimeoutError: none came within the time that the socket waits.
    """
    first = _receive(line)
    second = None if first is None else _receive(line)
    return None if first is None or second is None else (first, second)


def _receive(line: socket.socket) -> bytes | None:
    header = _receive_bytes(line, LENGTH_BYTES)
    size = MOST_BYTES + 1 if header is None else int.from_bytes(header, "big")
    return _receive_bytes(line, size) if size <= MOST_BYTES else None


def _receive_bytes(line: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        if not (piece := line.recv(min(size - len(data), 1 << 20))):
            return None
        data += piece
    return bytes(data)
