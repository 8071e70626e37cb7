"""Defects of the file itself: its bytes, its form, its packing. See `faults.py` for what they give back."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import polars as pl
import pyarrow.parquet as pq

from dateshard.pipeline.synthetic.city import Integers
from dateshard.pipeline.synthetic.faults import Random, Spoiled, choose
from dateshard.pipeline.synthetic.formats import encode, in_text

GZIP_HEADER, GZIP_TRAILER = 10, 8  # bytes


def cut(frame: pl.DataFrame, at: int) -> Spoiled:
    """The first `at` bytes of the CSV. A last row that lacks nothing but its newline is not lost."""
    data = encode(frame)[:at]
    return Spoiled(data, len(frame) - _whole_rows(frame, data))


def _whole_rows(frame: pl.DataFrame, data: bytes) -> int:
    """How many rows of the frame's CSV a beginning of it holds whole."""
    whole = encode(frame)
    complete = data.count(b"\n") + (whole[len(data) : len(data) + 1] == b"\n")
    return max(complete - 1, 0)


def cut_file(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """A CSV that ends at any byte after its header."""
    data = encode(frame)
    return cut(frame, int(random.integers(data.index(b"\n") + 1, len(data))))


def no_final_newline(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """A CSV whose last row has no newline: perhaps whole, perhaps cut."""
    return cut(frame, len(encode(frame)) - 1)


def empty_file(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """No byte at all."""
    return Spoiled(b"", len(frame))


def byte_order_mark(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """UTF-8 with a byte order mark."""
    return Spoiled(b"\xef\xbb\xbf" + encode(frame), 0)


def utf_16(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """UTF-16, little-endian, with a byte order mark."""
    return Spoiled(b"\xff\xfe" + encode(frame).decode().encode("utf-16-le"), 0)


def crlf(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Lines that end with a carriage return and a newline."""
    return Spoiled(encode(frame).replace(b"\n", b"\r\n"), 0)


def semicolons(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Fields apart by semicolons, numbers with a decimal comma."""
    return Spoiled(in_text(frame).write_csv(separator=";", decimal_comma=True).encode(), 0)


def duplicate_column(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Two columns called `speed`, one of them the counts."""
    header, rows = encode(frame).split(b"\n", 1)
    return Spoiled(header.replace(b"vehicles", b"speed") + b"\n" + rows, len(frame))


def _edited(frame: pl.DataFrame, at: Integers, edit: Callable[[bytes], bytes]) -> Spoiled:
    """Changes the lines of some rows, newline excluded."""
    lines = encode(frame).split(b"\n")
    for row in at:
        lines[row + 1] = edit(lines[row + 1])
    return Spoiled(b"\n".join(lines), len(at))


def _in_node(put: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changes the second field of a line: the sensor."""

    def edit(line: bytes) -> bytes:
        time, node, rest = line.split(b",", 2)
        return b",".join([time, put(node), rest])

    return edit


def invalid_utf8(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Sensors with a byte that is no UTF-8."""
    return _edited(frame, choose(frame, random, many), _in_node(lambda node: node + b"\xff"))


def nul_byte(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Sensors with a NUL byte."""
    return _edited(frame, choose(frame, random, many), _in_node(lambda node: node + b"\0"))


def quoted_newline(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Sensors with a newline in quotes: a row of two lines, and none of the node table."""
    return _edited(frame, choose(frame, random, many), _in_node(lambda node: b'"' + node + b'\n"'))


def short_rows(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Rows without their last field."""
    return _edited(frame, choose(frame, random, many), lambda line: line.rsplit(b",", 1)[0])


def long_rows(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Rows with a field more."""
    return _edited(frame, choose(frame, random, many), lambda line: line + b",1")


def truncated_gzip(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """A gzip that ends at any byte of its data; what its beginning still holds is not lost."""
    data = encode(frame, "csv.gz")
    kept = data[: int(random.integers(GZIP_HEADER, len(data) - GZIP_TRAILER))]
    return Spoiled(kept, len(frame) - _whole_rows(frame, zlib.decompressobj(31).decompress(kept)), "csv.gz")


def corrupt_gzip(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """A gzip with a flipped bit in its data."""
    data = bytearray(encode(frame, "csv.gz"))
    _flip(data, int(random.integers(GZIP_HEADER, len(data) - GZIP_TRAILER - 1)), random)
    return Spoiled(bytes(data), len(frame), "csv.gz")


def cut_parquet(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """A Parquet file that ends at any byte: without its footer nothing of it can be read."""
    data = encode(frame, "parquet")
    return Spoiled(data[: int(random.integers(1, len(data)))], len(frame), "parquet")


def flipped_parquet(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """A Parquet file with a flipped bit in a plain page of speeds: one value is wrong, and only the page's checksum tells."""
    buffer = io.BytesIO()
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    pq.write_table(table, buffer, compression="NONE", use_dictionary=False, write_page_checksum=True)
    data = bytearray(buffer.getvalue())
    speeds = pq.ParquetFile(buffer).metadata.row_group(0).column(frame.columns.index("speed"))
    end = speeds.data_page_offset + speeds.total_compressed_size  # the values lie at the end of their only page
    _flip(data, int(random.integers(end - 8 * (len(frame) - frame["speed"].null_count()), end)), random)
    return Spoiled(bytes(data), 1, "parquet")


def _flip(data: bytearray, at: int, random: Random) -> None:
    data[at] ^= 1 << int(random.integers(8))
