"""Mutated raw files through `decode`: what may come out is an account of all rows, or one sentence that names the file.

A mutant is a function of its seed and number: `python bench/raw_fuzz.py 1 --seed S --first N` plays one again.
"""

from __future__ import annotations

import datetime as dt
import gzip
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.decode import decode
from dateshard.pipeline.raw.formats import text
from dateshard.shardstore.errors import DumpError
from tests.kit.raw_kinds import KINDS, Kind, frame
from tests.kit.raw_oracle import Content, UndefinedError, UnreadableError, content

DATE = dt.date(2024, 3, 1)
HANG_SECONDS = 5.0
Random = np.random.Generator
Mutate = Callable[[bytes, Random], bytes]

BYTES = [
    *(
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b'"',
        b'""',
        b"'",
        b",",
        b",,",
        b";",
        b"\t",
        b" ",
        b"\\",
        b"\xff",
        b"\xc3",
    ),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\x1a", b"\x80", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"\xc2\xa0", b"#"),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"\\u0000",
        b"\\ud800",
        b"-",
        b"+",
        b".",
        b"e",
        b"null",
        b"true",
        b"NaN",
        b'"speed":1,',
    ),
]
FIELDS = [
    *("", " ", "nan", "NaN", "inf", "-inf", "Infinity", "null", "None", "NA", "true", "1e400", "-1e400", "1e-400", "1_000"),
    *("0x10", "+3", " 3 ", "3 ", "٣", "1,5", "1.2.3", "--1", "1e", ".5", "3.", "007", "-0", "9007199254740993", "1" * 40),
    *("9223372036854775808", "1.7976931348623157e308", "5e-324", "0.1", "x" * 300, '"', '""', '"a', 'a"b', "a\"b\"c", "é", "🚗"),
    *("2024-03-01T12:00:00Z", "2024-03-01T12:00:00", "2024-03-01 12:00:00Z", "2024-03-01T12:00Z", "2024-03-01T12:00:60Z"),
    *("2024-02-29T23:59:59.999999999Z", "2024-03-02T00:00:00Z", "2024-02-30T00:00:00Z", "2024-03-01T24:00:00Z", "20240301"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1677-09-21T00:12:44Z", "2262-04-11T23:47:17Z", "-2024-03-01T00:00:00Z"),
    *("2608-09-20T04:34:33.709551616Z", "1439-08-12T05:25:26.290448384Z", "2024-03-01T12:00:00+01:00", "1709294400"),
    *("2024-03-01T12:00:00+24:00", "2024-03-01T12:00:00.1234567891Z", "2024-03-01T12:00:00−01:00", "2024-3-1T12:00:00Z"),
]  # fmt: skip


def _position(data: bytes, random: Random) -> int:
    return int(random.integers(len(data) + 1))


def flip(data: bytes, random: Random) -> bytes:
    """One to four bits."""
    changed = bytearray(data)
    for at in random.integers(0, max(len(data), 1), int(random.integers(1, 5))) if data else ():
        changed[int(at)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def delete(data: bytes, random: Random) -> bytes:
    """Up to 40 bytes, or up to a half."""
    at, most = _position(data, random), 40 if random.random() < 0.8 else len(data) // 2
    return data[:at] + data[at + int(random.integers(1, most + 2)) :]


def insert(data: bytes, random: Random) -> bytes:
    """One of the bytes that mean something, once or a few times."""
    for _ in range(int(random.integers(1, 4))):
        at = _position(data, random)
        data = data[:at] + BYTES[int(random.integers(len(BYTES)))] + data[at:]
    return data


def overwrite(data: bytes, random: Random) -> bytes:
    """Random bytes in the place of others."""
    at, length = _position(data, random), int(random.integers(1, 17))
    return data[:at] + random.bytes(length) + data[at + length :]


def cut(data: bytes, random: Random) -> bytes:
    """Only the first bytes."""
    return data[: _position(data, random)]


def lines(data: bytes, random: Random) -> bytes:
    """A line twice, two in each other's place, one away, or a blank one."""
    found, how = data.split(b"\n"), int(random.integers(4))
    a, b = (int(x) for x in random.integers(0, len(found), 2))
    if how == 0:
        found.insert(a, found[b])
    elif how == 1:
        found[a], found[b] = found[b], found[a]
    elif how == 2:
        del found[a]
    else:
        found.insert(a, [b"", b"\r", b"   ", b",,,,,", b"{}"][int(random.integers(5))])
    return b"\n".join(found)


def fields(data: bytes, random: Random) -> bytes:
    """Values between two separators replaced by numbers, times and texts that readers differ about."""
    separator = b";" if data.count(b";") > data.count(b",") else b","
    for _ in range(int(random.integers(1, 4))):
        found = data.split(b"\n")
        row = int(random.integers(len(found)))
        cells = found[row].split(separator)
        cell, value = int(random.integers(len(cells))), FIELDS[int(random.integers(len(FIELDS)))].encode()
        if b":" in cells[cell] and data[:1] == b"{":
            key = cells[cell].split(b":")[0]
            quoted = random.random() < 0.5
            value = key + b":" + (b'"' + value.replace(b'"', b'\\"') + b'"' if quoted else value)
            value += b"}" if cells[cell].endswith(b"}") else b""
        cells[cell] = value
        found[row] = separator.join(cells)
        data = b"\n".join(found)
    return data


def recode(data: bytes, random: Random) -> bytes:
    """A part of the file in another encoding."""
    a, b = sorted((_position(data, random), _position(data, random)))
    encoding = ["utf-16-le", "latin-1", "gb18030", "utf-16"][int(random.integers(4))]
    return data[:a] + data[a:b].decode(errors="replace").encode(encoding, errors="replace") + data[b:]


BINARY: tuple[Mutate, ...] = (flip, flip, delete, insert, overwrite, cut)
TEXTUAL: tuple[Mutate, ...] = (flip, delete, insert, insert, cut, lines, fields, fields, fields, recode)


@dataclass
class Tally:
    """Outcomes of one format; `wrong` tells each one that should not be."""

    mutants: int = 0
    refused: int = 0
    same: int = 0
    changed: int = 0
    rejected: int = 0
    wrong: list[str] = field(default_factory=list)


class Fuzz:
    """Plays mutants of all formats in a folder of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.originals = {name: kind.write(frame()) for name, kind in KINDS.items()}
        self.clean = {
            name: self._read(kind, self._packed(kind, self.originals[name]), {}) for name, kind in KINDS.items()
        }

    def play(self, number: int, tallies: dict[str, Tally]) -> None:
        """One mutant; which one is decided by the seed and its number."""
        random = np.random.default_rng([self.seed, number])
        kind = list(KINDS.values())[int(random.integers(len(KINDS)))]
        data, loose = self._mutant(kind, random)
        tally = tallies.setdefault(kind.name, Tally())
        tally.mutants += 1
        try:
            settings = {"max_bad_fraction": float(random.choice([0, 0.5, 1])), "faults": {"bad_number": loose}}
            with no_hang():
                outcome = self._read(kind, data, settings)
            self._count(kind, data, outcome, loose, tally)
            if kind.textual and random.random() < 0.3:
                with small_pieces():
                    again = self._read(kind, data, settings)
                assert _alike(again, outcome), f"in small pieces {again}, else {outcome}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            tally.wrong.append(f"seed {self.seed} number {number}, {kind.name}: {type(error).__name__}: {error}")

    def _mutant(self, kind: Kind, random: Random) -> tuple[bytes, str]:
        data, loose = self.originals[kind.name], str(random.choice(["refuse", "null"]))
        outside = kind.packed is not None and random.random() < 0.5
        mutations = TEXTUAL if kind.textual and not outside else BINARY
        data = self._packed(kind, data) if outside else data
        for _ in range(int(random.integers(1, 4))):
            data = mutations[int(random.integers(len(mutations)))](data, random)
        return data if outside else self._packed(kind, data), loose

    def _packed(self, kind: Kind, data: bytes) -> bytes:
        return kind.packed(data) if kind.packed else data

    def _read(self, kind: Kind, data: bytes, settings: dict[str, Any]) -> Content | str:
        """What `decode` makes of a file, or its sentence."""
        path = self.folder / f"dump.{kind.suffix}"
        path.write_bytes(data)
        try:
            decoded = decode([path], DATE, _config(kind, settings), None, 1 << 30, self.folder / "spilled")
        except DumpError as error:
            message = str(error)
            assert str(path) in message, message
            assert "\n" not in message, message
            assert len(message) < 1000, message
            return message
        rows = decoded.rows
        assert rows.read == rows.accepted + sum(rows.rejected.values()), rows
        [(day, records)] = decoded.stretches()
        values = [list(map(repr, column.tolist())) for column in records.values if column is not None]
        names = [decoded.nodes[node] for node in records.node_R.tolist()]
        found = Counter(zip(records.time_R.tolist(), names, *values, strict=True))
        if kind.name != "csv wide":
            assert found.total() == rows.accepted
        assert all(day.start <= instant < day.end for instant in records.time_R.tolist())
        return Content(found, sum(rows.rejected.values()))

    def _count(self, kind: Kind, data: bytes, outcome: Content | str, loose: str, tally: Tally) -> None:
        if isinstance(outcome, str):
            tally.refused += 1
            return
        clean = self.clean[kind.name]
        assert isinstance(clean, Content), clean
        tally.same, tally.changed = tally.same + (outcome == clean), tally.changed + (outcome != clean)
        tally.rejected += outcome.rejected > 0
        expected = _expected(kind, data, loose)
        assert expected is None or expected == outcome, f"{outcome} is not {expected}"


def _config(kind: Kind, settings: dict[str, Any]) -> Pipeline:
    who = {} if "wide" in kind.source else {"node": "node"}
    features: dict[str, Any] = (
        {"speed": {}} if "wide" in kind.source else {"speed": {}, "vehicles": {"aggregate": "sum"}}
    )
    source = {"path": "raw/{date}", "time": "time", **who, **kind.source, **settings}
    return Pipeline.model_validate({"source": source, "step": "1h", "features": features})


def _expected(kind: Kind, data: bytes, loose: str) -> Content | None:
    """What the file says by another reader; None where there is none, or readers may differ."""
    if kind.rows is None:
        return None
    if kind.suffix.endswith("gz"):
        data = gzip.decompress(data)
    elif kind.packed:
        with pa.input_stream(pa.py_buffer(data), compression="zstd") as stream:
            data = stream.read()
    try:
        return content(kind.rows(data), DATE, loose)
    except UndefinedError:
        return None
    except UnreadableError as error:
        raise AssertionError(f"taken, but not readable: {error}") from None


def _alike(one: Content | str, other: Content | str) -> bool:
    """Equal, or refused both: which of several faults is met first depends on the pieces."""
    return one == other or (isinstance(one, str) and isinstance(other, str))


@contextmanager
def small_pieces() -> Iterator[None]:
    """Blocks of a few rows."""
    before, text.BLOCK_BYTES = text.BLOCK_BYTES, 300
    try:
        yield
    finally:
        text.BLOCK_BYTES = before


@contextmanager
def no_hang() -> Iterator[None]:
    """TimeoutError after HANG_SECONDS."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer in {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def rounds(folder: Path, seed: int, numbers: range) -> dict[str, Tally]:
    """Outcomes by format of the mutants with these numbers."""
    fuzz, tallies = Fuzz(folder, seed), dict[str, Tally]()
    for number in numbers:
        fuzz.play(number, tallies)
    return dict(sorted(tallies.items()))
