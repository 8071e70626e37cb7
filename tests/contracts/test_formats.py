"""What every raw format must do. For one of your own: subclass `FormatContract` and say how its files are written."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from dateshard.pipeline.raw import formats
from dateshard.pipeline.raw.formats import Kind, Request, RowBlock, reader_of
from dateshard.shardstore.errors import DumpError

KINDS: dict[str, Kind] = {"time": "time", "node": "text", "speed": "number", "count": "number"}
ROWS = 500


def frame(rows: int = ROWS) -> pl.DataFrame:
    generator = np.random.default_rng(3)
    speed = [None if generator.random() < 0.1 else float(x) for x in generator.normal(60, 12, rows)]
    return pl.DataFrame(
        {
            "other": ["x"] * rows,
            "count": [int(x) for x in generator.integers(0, 1 << 40, rows)],
            "time": [f"2024-03-01T{k // 60 % 24:02d}:{k % 60:02d}:00Z" for k in range(rows)],
            "node": [None if k % 50 == 7 else f"nœud {k % 7}" for k in range(rows)],
            "speed": speed,
        }
    )


class FormatContract:
    """Subclasses set `suffix`, `first_row` and `write`; `chosen` if the suffix does not say the format."""

    suffix: ClassVar[str]
    chosen: ClassVar[str] = "auto"
    first_row: ClassVar[int] = 1

    def write(self, table: pl.DataFrame, path: Path) -> None:
        raise NotImplementedError

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / f"dump{self.suffix}"
        self.write(frame(), path)
        return path

    def pieces(self, path: Path, **more: Any) -> list[RowBlock]:
        request = Request(columns=more.pop("kinds", KINDS), **more)
        return list(reader_of(path, self.chosen)(path, request))

    def joined(self, path: Path, **more: Any) -> pl.DataFrame:
        return pl.concat([piece.frame for piece in self.pieces(path, **more)])

    def test_rows_come_in_file_order_with_their_numbers_and_types(self, path: Path) -> None:
        expected = frame()
        found = self.joined(path)
        assert set(found.columns) == set(KINDS)
        assert found["speed"].dtype == found["count"].dtype == pl.Float64
        assert found["speed"].equals(expected["speed"])  # every bit of every number
        assert found["count"].to_list() == [float(x) for x in expected["count"]]
        assert found["node"].dtype == pl.String
        assert found["node"].equals(expected["node"])
        assert found["time"].cast(pl.String).to_list() == expected["time"].to_list()
        rows = np.concatenate([piece.row_R for piece in self.pieces(path)])
        assert rows.tolist() == list(range(self.first_row, self.first_row + ROWS))
        assert all(piece.path == path and not piece.bad for piece in self.pieces(path))

    def test_small_pieces_hold_the_same_rows(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = self.joined(path)
        for module in (formats, *self._modules()):
            for name, value in (("BLOCK_BYTES", 700), ("BATCH_ROWS", 33)):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, value)
        assert len(self.pieces(path)) > 5
        assert self.joined(path).equals(whole)

    def _modules(self) -> Iterator[Any]:
        from dateshard.pipeline.raw.formats import columnar, text

        return iter((columnar, text))

    def test_a_missing_column_is_named_with_what_is_like_it(self, path: Path) -> None:
        kinds: dict[str, Kind] = {**KINDS, "sped": "number"}
        with pytest.raises(DumpError, match=r"column 'sped': there is no column 'sped'; did you mean 'speed'\?"):
            self.pieces(path, kinds=kinds)

    def test_other_columns_are_read_as_numbers_by_a_pattern(self, tmp_path: Path) -> None:
        path = tmp_path / f"wide{self.suffix}"
        self.write(pl.DataFrame({"time": ["a", "b"], "s1": [1.0, None], "s2": [3, 4], "note": ["x", "y"]}), path)
        found = self.joined(path, kinds={"time": "time"}, others="s*")
        assert found.columns == ["time", "s1", "s2"]
        assert found["s2"].to_list() == [3.0, 4.0]

    def test_texts_that_are_no_numbers_are_told_apart_from_missing_ones(self, tmp_path: Path) -> None:
        path = tmp_path / f"texts{self.suffix}"
        texts = ["1.5", "fast", None, "-2e3", "nan", "inf", " 7 ", "1,5"]
        columns = {"time": ["t"] * 8, "node": ["n"] * 8, "speed": texts, "count": list(range(8))}
        self.write(pl.DataFrame(columns), path)
        (piece,) = self.pieces(path)
        assert piece.bad["speed"].to_list() == [None, "fast", None, None, None, None, None, "1,5"]
        values = piece.frame["speed"].to_list()
        assert values[:4] == [1.5, None, None, -2000.0]
        assert np.isnan(values[4])
        assert (values[5], values[6]) == (np.inf, 7.0)
        assert "count" not in piece.bad

    def test_a_file_without_a_row_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / f"none{self.suffix}"
        self.write(frame().head(0), path)
        with pytest.raises(DumpError):
            self.pieces(path)
        path.write_bytes(b"")
        with pytest.raises(DumpError):
            self.pieces(path)
        with pytest.raises(DumpError, match="cannot be read"):
            self.pieces(tmp_path / f"absent{self.suffix}")

    def test_a_file_cut_anywhere_is_refused_or_gives_whole_rows(self, path: Path) -> None:
        data, whole = path.read_bytes(), self.joined(path)
        for length in range(0, len(data) - 1, max(1, len(data) // 150)):
            path.write_bytes(data[:length])
            found = self._read_or_refused(path)
            if found is not None:
                assert found.equals(whole[: len(found)])
                assert data[length - 1 : length] == b"\n"

    def test_no_damage_ends_in_anything_but_an_error_of_ours(self, path: Path) -> None:
        data, chance, refused = path.read_bytes(), np.random.default_rng(5), 0
        for _ in range(150):
            changed = bytearray(data)
            for at in chance.integers(0, len(data), 3):
                changed[int(at)] ^= 1 << int(chance.integers(0, 8))
            path.write_bytes(changed)
            refused += self._read_or_refused(path) is None
        assert refused > 0, "no damage was ever noticed"

    def _read_or_refused(self, path: Path) -> pl.DataFrame | None:
        """The rows, or None after one sentence that names the file."""
        try:
            return self.joined(path)
        except DumpError as error:
            message = str(error)
        assert str(path) in message
        assert "\n" not in message
        return None


class TestCsv(FormatContract):
    suffix, first_row = ".csv", 2

    def write(self, table: pl.DataFrame, path: Path) -> None:
        table.write_csv(path)


class TestQuotedCsv(FormatContract):
    suffix, first_row = ".csv", 2

    def write(self, table: pl.DataFrame, path: Path) -> None:
        table.write_csv(path, quote_style="non_numeric")


class TestGzip(FormatContract):
    suffix, first_row = ".csv.gz", 2

    def write(self, table: pl.DataFrame, path: Path) -> None:
        path.write_bytes(gzip.compress(table.write_csv().encode(), mtime=0))


class TestZstd(FormatContract):
    suffix, first_row = ".csv.zst", 2

    def write(self, table: pl.DataFrame, path: Path) -> None:
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(table.write_csv().encode())


class TestXz(FormatContract):
    suffix, first_row = ".txt.xz", 2

    def write(self, table: pl.DataFrame, path: Path) -> None:
        path.write_bytes(lzma.compress(table.write_csv().encode(), preset=0))


class TestBzip2(FormatContract):
    suffix, first_row = ".csv.bz2", 2

    def write(self, table: pl.DataFrame, path: Path) -> None:
        path.write_bytes(bz2.compress(table.write_csv().encode(), 1))


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".bz2": bz2.compress,
}


def rows_of(path: Path) -> pl.DataFrame:
    return pl.concat([piece.frame for piece in reader_of(path, "auto")(path, Request(columns=KINDS))])


@pytest.mark.parametrize("packing", PACK)
def test_every_text_may_be_packed_in_every_way_in_one_stream_or_several(tmp_path: Path, packing: str) -> None:
    table = frame(40)
    for text in (".csv", ".txt", ".tsv", ".jsonl", ".ndjson"):
        data = (table.write_ndjson() if "json" in text else table.write_csv()).encode()
        path = tmp_path / f"dump{text}{packing}"
        path.write_bytes(PACK[packing](data))
        whole = rows_of(path)
        assert whole["speed"].equals(table["speed"])
        path.write_bytes(PACK[packing](data[:700]) + PACK[packing](data[700:]))  # as parallel packers write
        assert rows_of(path).equals(whole)


@pytest.mark.parametrize("packing", PACK)
def test_a_damaged_stream_after_the_first_is_never_taken_for_padding(tmp_path: Path, packing: str) -> None:
    path, data = tmp_path / f"dump.csv{packing}", frame(40).write_csv().encode()
    end = data.index(b"\n", 700) + 1  # the rows of the first stream are whole
    first, second = PACK[packing](data[:end]), PACK[packing](data[end:])
    for damaged in (b"?" + second[1:], second[:1] + b"?" + second[2:], second[:-1], b"no stream"):
        path.write_bytes(first + damaged)
        with pytest.raises(DumpError, match="the compressed file is damaged or cut"):
            rows_of(path)


class TestJsonLines(FormatContract):
    suffix = ".jsonl"

    def write(self, table: pl.DataFrame, path: Path) -> None:
        table.write_ndjson(path)


class TestParquet(FormatContract):
    suffix = ".parquet"

    def write(self, table: pl.DataFrame, path: Path) -> None:
        table.write_parquet(path, row_group_size=64)


class TestArrow(FormatContract):
    suffix = ".arrow"

    def write(self, table: pl.DataFrame, path: Path) -> None:
        table.write_ipc(path, record_batch_size=64)


class TestArrowStream(FormatContract):
    suffix = ".arrows"
    chosen = "arrow"

    def write(self, table: pl.DataFrame, path: Path) -> None:
        with pa.ipc.new_stream(path, table.to_arrow().schema) as writer:
            for part in table.iter_slices(64):
                writer.write_table(part.to_arrow())
            if not len(table):
                writer.write_table(table.to_arrow())


class TestDotted(TestCsv):
    """A function of one's own goes through the same doors."""

    suffix, chosen = ".dat", "dateshard.pipeline.raw.formats.csv:read"
