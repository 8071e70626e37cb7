"""Packed bytes under a name that says text, text under one that says packed: what they are, and what to name the file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from dateshard.pipeline.raw.formats import Request, reader_of
from dateshard.shardstore.errors import DumpError

TEXT = b"t,n,v\n2024-03-01 00:00,a,1\n"
WANTED = Request(columns={"t": "text", "n": "text", "v": "number"})


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.csv", data)
    return out.getvalue()


def table(write: str, data: bytes) -> bytes:
    out = io.BytesIO()
    getattr(pl.read_csv(data, schema_overrides={"v": pl.Float64}), write)(out)
    return out.getvalue()


MADE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.Codec("zstd").compress(data).to_pybytes(),
    "zip": zipped,
    "Parquet": lambda data: table("write_parquet", data),
    "Arrow": lambda data: table("write_ipc", data),
    "plain text": lambda data: data,
}
CASES = [
    *[("gzip", "d.csv", "d.csv.gz"), ("bzip2", "d.csv", "d.csv.bz2"), ("xz", "d.TXT", "d.TXT.xz")],
    *[("zstd", "d.jsonl", "d.jsonl.zst"), ("gzip", "d.csv.zst", "d.csv.gz"), ("xz", "d.csv.gz", "d.csv.xz")],
    *[("Parquet", "d.csv", "d.parquet"), ("Arrow", "d.csv", "d.arrow"), ("Arrow", "d.pq", "d.arrow")],
    *[("plain text", f"d.csv.{end}", "d.csv") for end in ("gz", "bz2", "xz", "zst")],
    *[("plain text", "d.parquet", "d.csv"), ("plain text", "d.arrow", "d.csv")],
    *[("zip", "d.csv", ""), ("zip", "d.csv.gz", ""), ("gzip", "d.parquet", "")],
]


@pytest.mark.parametrize(("kind", "name", "right"), CASES, ids=lambda value: value)
def test_a_file_that_is_not_what_its_name_says_is_told_its_name(
    tmp_path: Path, kind: str, name: str, right: str
) -> None:
    path = tmp_path / name
    path.write_bytes(MADE[kind](TEXT))
    with pytest.raises(DumpError) as caught:
        list(reader_of(path, "auto")(path, WANTED))
    assert f"its bytes are {kind}, and its name says " in str(caught.value)
    assert caught.value.todo.endswith(f"rename it to {right}" if right else "Unpack it first")
    if right:
        path.rename(tmp_path / right)
        if "jsonl" not in right:
            (piece,) = reader_of(tmp_path / right, "auto")(tmp_path / right, WANTED)
            assert piece.frame.height == 1


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz", "d.csv.zst", "d.csv.xz", "d.csv.bz2"])
def test_damaged_and_empty_files_are_told_as_before(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for data in (b"", b"\x00\x01\x02" * 30):
        path.write_bytes(data)
        with pytest.raises(DumpError) as caught:
            list(reader_of(path, "auto")(path, WANTED))
        assert "its bytes are" not in str(caught.value)


def test_a_header_that_begins_like_a_packed_file_is_text(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"BZh9,PK,PAR1,t,n,v\n1,2,3,2024-03-01 00:00,a,1\n")
    (piece,) = reader_of(path, "auto")(path, WANTED)
    assert piece.frame["v"].to_list() == [1.0]
