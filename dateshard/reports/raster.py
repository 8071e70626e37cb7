"""Heat maps as small paletted PNGs, and the colours of everything that goes from little to much.

The scale is viridis (Smith and van der Walt, 2015, CC0) between twelve of its points: even for the eye, readable by
colour-blind people and in grey.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.scaling.transform import Floats

_POINTS = [
    "440154",
    "482173",
    "433e85",
    "38598c",
    "2d708e",
    "25858e",
    "1e9b8a",
    "2ab07f",
    "52c569",
    "86d549",
    "c2df23",
    "fde725",
]
SHADES = 255  # colour 255 is transparent: there is no value
_KNOWN = np.asarray([[int(point[k : k + 2], 16) for k in (0, 2, 4)] for point in _POINTS], dtype=float)
PALETTE = np.stack(
    [np.interp(np.linspace(0, 1, SHADES), np.linspace(0, 1, len(_KNOWN)), _KNOWN[:, k]) for k in range(3)], axis=1
)
PALETTE_U8: NDArray[np.uint8] = np.rint(PALETTE).astype(np.uint8)


def shades(values: Floats, low: float, high: float) -> NDArray[np.uint8]:
    """Places in the palette, any shape; NaN is transparent. Where low equals high everything is the middle shade."""
    width = high - low
    share = (values - low) / width if width > 0 else np.where(np.isnan(values), np.nan, 0.5)
    bounded = np.clip(np.nan_to_num(share), 0.0, 1.0)
    return np.where(np.isnan(share), SHADES, np.rint(bounded * (SHADES - 1))).astype(np.uint8)


def colour(value: float, low: float, high: float) -> str:
    """Returns the colour of a value, such as `#21918c`, or `none` for NaN."""
    shade = int(shades(np.asarray(value, dtype=float), low, high))
    return "none" if shade == SHADES else "#" + bytes(PALETTE_U8[shade]).hex()


def picture(shades_RC: NDArray[np.uint8]) -> str:
    """A data URI of rows x columns pixels."""
    rows, columns = shades_RC.shape
    raw = np.concatenate([np.zeros((rows, 1), dtype=np.uint8), shades_RC], axis=1).tobytes()
    colours = PALETTE_U8.tobytes() + b"\0\0\0"
    chunks = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", colours),
        _chunk(b"tRNS", b"\xff" * SHADES + b"\0"),
        _chunk(b"IDAT", zlib.compress(raw, 9)),
        _chunk(b"IEND", b""),
    ]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def ramp() -> str:
    """The scale itself, for legends."""
    return picture(np.arange(SHADES, dtype=np.uint8)[None])
