"""Traces are known by their header, read in one pass, and every row that cannot be used is counted by its reason."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest

from dateshard.requests.trace import MOST_TOKENS, read_trace
from dateshard.requests.trace_dumps import MINUTE, minutes_of, parts_of
from dateshard.shardstore.errors import DateshardError

BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
ROWS = ("5,ChatGPT,472,18,490,Conversation log", "45,ChatGPT,1087,230,1317,Conversation log")


def written(folder: Path, *lines: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("newer", ["", ",Session ID,Elapsed time"])
def test_burstgpt_is_known_by_its_header_and_counts_seconds_from_a_stored_origin(tmp_path: Path, newer: str) -> None:
    rows = [row + (",s1,2.5" if newer else "") for row in ROWS]
    trace = read_trace(written(tmp_path, BURSTGPT + newer, *rows))
    assert (trace.format, trace.scale.origin) == ("BurstGPT", dt.date(2001, 1, 1))
    assert [trace.scale.written(time) for time in trace.time_R.tolist()] == [5.0, 45.0]
    assert (trace.input_R.tolist(), trace.output_R.tolist()) == ([472, 1087], [18, 230])


def test_azure_has_instants_with_seven_decimals(tmp_path: Path) -> None:
    rows = ("2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.0319600,3180,8")
    trace = read_trace(written(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens", *rows))
    assert np.diff(trace.time_R).tolist() == [52_000_000]
    assert trace.scale.written(int(trace.time_R[0])) == dt.datetime(2023, 11, 16, 18, 17, 3, 979960, dt.UTC)


def test_mooncake_counts_milliseconds(tmp_path: Path) -> None:
    rows = [
        json.dumps({"timestamp": at, "input_length": 7, "output_length": 9, "hash_ids": [1, 2]}) for at in (0, 3000)
    ]
    trace = read_trace(written(tmp_path, *rows, name="trace.jsonl"))
    assert trace.format == "Mooncake"
    assert np.diff(trace.time_R).tolist() == [3 * 10**9]
    assert trace.scale.written(int(trace.time_R[1])) == 3000.0


def test_other_columns_are_named_by_a_mapping_and_large_numbers_count_from_1970(tmp_path: Path) -> None:
    path = written(tmp_path, "at,prompt,completion", "1700000000.5,10,20")
    columns = {"time": "at", "input": "prompt", "output": "completion"}
    trace = read_trace(path, columns=columns)
    assert (trace.time_R.tolist(), trace.scale.origin) == ([1_700_000_000_500_000_000], None)
    assert trace.scale.written(int(trace.time_R[0])) == 1700000000.5
    assert read_trace(path, columns=columns, unit="ms").time_R.tolist() != trace.time_R.tolist()


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_known_by_the_header(tmp_path: Path, mark: str) -> None:
    lines = [line.replace(",", mark) for line in (BURSTGPT, *ROWS)]
    trace = read_trace(written(tmp_path, *lines))
    assert (trace.format, trace.input_R.tolist()) == ("BurstGPT", [472, 1087])


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    bad = (",,7,8,,", "50,,x,8,,", "51,,-7,8,,", f"52,,{MOST_TOKENS + 1},8,,", "53,,0,8,,", "54,,8,0,,", "55,,1.5,2,,")
    trace = read_trace(written(tmp_path, BURSTGPT, *ROWS, *bad))
    assert trace.counts.dropped == {
        "no readable time": 1,
        "no readable tokens": 2,
        "negative tokens": 1,
        "more than 10,000,000 tokens": 1,
        "no input tokens": 1,
        "failed (no output tokens)": 1,
    }
    assert (trace.counts.raw, trace.counts.kept) == (9, 2)


def test_rows_of_another_number_of_fields_are_counted_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, BURSTGPT, ROWS[0], "40,,9", ROWS[1])
    for num_rows in (None, 3):
        trace = read_trace(path, num_rows=num_rows)
        assert trace.counts.dropped == {"another number of fields than the header": 1}
        assert (trace.counts.raw, trace.counts.kept, trace.counts.unsorted) == (3, 2, 0)
    assert read_trace(path, num_rows=2).counts.kept == 1


def test_a_sample_is_the_newest_consecutive_records_before_cleaning(tmp_path: Path) -> None:
    rows = [f"{at},m,{at + 1},{0 if at == 7 else 5},," for at in range(10)]
    trace = read_trace(written(tmp_path, BURSTGPT, *rows), sample_size=4)
    assert (trace.counts.raw, trace.counts.sampled, trace.counts.kept) == (10, 4, 3)
    assert trace.sample.input_R.tolist() == [7, 9, 10]
    assert len(trace) == 9, "what came before serves the minutes"


def test_unsorted_rows_are_sorted_and_tied_ones_keep_their_order(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, BURSTGPT, "9,m,1,1,,", "3,m,2,1,,", "3,m,3,1,,", "3,m,4,1,,"))
    assert trace.input_R.tolist() == [2, 3, 4, 1]
    assert (trace.counts.unsorted, trace.counts.tied) == (1, 2)


def test_no_part_and_no_minute_crosses_a_hole(tmp_path: Path) -> None:
    times = [*range(0, 600, 10), *range(90_000, 90_600, 10)]
    trace = read_trace(written(tmp_path, BURSTGPT, *(f"{at},m,1,2,," for at in times)))
    assert trace.hole_starts().tolist() == [60]
    parts = parts_of(trace)
    assert parts[59] != parts[60]
    assert {part.partition(".")[2] for part in parts} == {"train", "validation", "test"}
    minutes = minutes_of(trace)
    begin = (minutes.time_M - trace.scale.start) // MINUTE
    assert begin.tolist() == [*range(1, 9), *range(1501, 1509)]
    assert set(minutes.values_M3[:, 0].tolist()) == {6}


def test_a_minute_without_a_request_is_a_zero(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, BURSTGPT, *(f"{at},m,3,2,," for at in (0, 70, 200, 290))))
    assert minutes_of(trace).values_M3.tolist() == [[1, 3, 2], [0, 0, 0], [1, 3, 2]]


@pytest.mark.parametrize(
    ("lines", "asked", "words"),
    [
        (("Timestamp,Request token,Response tokens", "1,2,3"), {}, "'Request tokens'; did you mean 'Request token'?"),
        (("Timestamp,Prompt tokens,Response tokens", "1,2,3"), {}, "'Request tokens'; it has Prompt tokens"),
        (("a,b", "1,2"), {}, "--columns time=T,input=I,output=O"),
        (
            ("a,b,c", "1,2,3"),
            {"columns": {"time": "a", "input": "b", "output": "d"}},
            "no column 'd'; it has a, b, c",
        ),
        (("a,b,c", "1,2,3"), {"columns": {"time": "a", "inputs": "b", "output": "c"}}, "'input' is wrong"),
        ((BURSTGPT, "x,m,1,2,,"), {}, "none of its 1 row can be used: 1 no readable time"),
        ((BURSTGPT, *ROWS), {"sample_size": 0}, "a sample of 0 records is none"),
        ((BURSTGPT, *ROWS), {"unit": "h"}, "no unit of time 'h'"),
        ((BURSTGPT,), {}, "a header but no row"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    tmp_path: Path, lines: tuple[str, ...], asked: dict[str, object], words: str
) -> None:
    with pytest.raises(DateshardError) as refused:
        read_trace(written(tmp_path, *lines), **asked)  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DateshardError, match="there is no such file"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(DateshardError, match="no format is known by its suffix"):
        read_trace(written(tmp_path, "x", name="trace.bin"))
