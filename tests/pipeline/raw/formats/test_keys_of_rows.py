"""Keys of JSON Lines that not every row has: a row that lacks one misses its value, wherever the row stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from dateshard.pipeline.raw.formats import Request, json_lines, text
from dateshard.pipeline.raw.formats.json_lines import read
from dateshard.shardstore.errors import DumpError
from dateshard.shardstore.identity import ReadHash, hash_file

PLAIN = '{"n": "a", "u": "temp"}\n'


def frame_of(path: Path, request: Request) -> pl.DataFrame:
    return pl.concat([block.frame for block in read(path, request)])


@pytest.mark.parametrize("chunk", [64, 4 << 20])
@pytest.mark.parametrize("key", ["temp", "t\\u0065mp"])
def test_a_key_that_only_later_rows_have_is_missing_in_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, chunk: int
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", chunk)
    path, hashes = tmp_path / "x.jsonl", dict[Path, ReadHash]()
    path.write_text(20 * PLAIN + f'{{"n": "b", "{key}": 1.5}}\n' + PLAIN)
    request = Request(columns={"n": "text", "temp": "number"}, hashes=hashes)
    assert frame_of(path, request)["temp"].to_list() == [*[None] * 20, 1.5, None]
    assert hashes[path].of(path) == hash_file(path)[1]


def test_a_key_that_no_row_has_is_no_column(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(3 * PLAIN + '{"n": "b", "u": {"temp": 1}}\n')
    with pytest.raises(DumpError, match="there is no column 'temp'"):
        frame_of(path, Request(columns={"n": "text", "temp": "number"}))


def test_the_nodes_of_a_wide_dump_are_those_of_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"t": "x", "m1": 1}\n{"t": "x", "m2": 2, "other": 3}\n')
    frame = frame_of(path, Request(columns={"t": "text"}, others="m*"))
    assert frame.to_dict(as_series=False) == {"t": ["x", "x"], "m1": [1.0, None], "m2": [None, 2.0]}


def test_a_file_whose_first_row_has_all_wanted_keys_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads = tmp_path / "x.jsonl", list[Path]()
    path.write_text(3 * PLAIN)

    def once_more(path: Path, plain: Request) -> Iterator[bytes]:
        reads.append(path)
        return text.blocks(path, plain)

    monkeypatch.setattr(json_lines, "blocks", once_more)
    assert len(frame_of(path, Request(columns={"n": "text"}))) == 3
    assert reads == [path]
