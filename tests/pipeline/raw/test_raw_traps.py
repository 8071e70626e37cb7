"""Traps of raw files, one by one: what was once misread, or taken in silence, is refused or read right for ever."""

from __future__ import annotations

import datetime as dt
import decimal
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.decode import decode
from dateshard.pipeline.raw.formats import text
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import DumpError

DATE = dt.date(2024, 3, 1)
HEADER = "time,node,speed,vehicles\n"
NO_TIME = "not a time (ISO 8601 like the first of its file, unambiguous in its zone)"
Got = tuple[RowCounts, list[str], list[str], list[list[float]]]  # account, clock times, nodes, values by feature
Read = Callable[..., Got]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """read(text or bytes, suffix, **source) -> (rows, HH:MM:SS of each record, its node, values by feature)."""

    def from_bytes(data: str | bytes, suffix: str = "csv", **source: Any) -> Got:
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        given = {"path": "{date}", "time": "time", "node": "node", "max_bad_fraction": 0.9, **source}
        features = {"speed": {}, "volume": {"column": "vehicles", "aggregate": "sum"}}
        config = Pipeline.model_validate({"source": given, "step": "1h", "features": features})
        decoded = decode([path], DATE, config, None, 1 << 30, tmp_path / "spilled")
        [(_, records)] = decoded.stretches()
        clock = [str(np.datetime64(int(at), "ns"))[11:].removesuffix(".000000000") for at in records.time_R]
        values = [column.tolist() for column in records.values if column is not None]
        return decoded.rows, clock, [decoded.nodes[node] for node in records.node_R.tolist()], values

    return from_bytes


def rows(*lines: str) -> str:
    return HEADER + "".join(line + "\n" for line in lines)


def good(hour: int, node: str = "n0") -> str:
    return f"2024-03-01T{hour:02d}:00:00Z,{node},1,1"


def refusal(read: Read, data: str | bytes, suffix: str = "csv", **source: Any) -> str:
    """The one line with which a dump is refused."""
    with pytest.raises(DumpError) as caught:
        read(data, suffix, **source)
    (line,) = str(caught.value).split("\n")
    return line


TIMES = {  # the first time of a file -> others that are read, and others that are none
    "2024-03-01T05:00:00Z": (
        ["2024-03-01T06:00:00+00:00", "2024-03-01T06:00:00+0000", "2024-03-01T06:00:00+00", "2024-03-01T06:00:00.000Z"],
        [
            "2024-03-01T06:00:00",
            "2024-03-01 06:00:00Z",
            "2024-03-01T06:00Z",
            "2024-03-01T06:00:60Z",
            "2024-03-01T06:00:00z",
        ],
    ),
    "2024-03-01T05:00:00+00:00": (
        ["2024-03-01T07:30:00+01:30", "2024-03-01T06:00:00Z"],
        ["2024-03-01T06:00:00−05:00", "+2024-03-01T06:00:00Z", "2024-3-1T06:00:00Z", "2024-03-01T6:00:00Z"],
    ),
    "2024-03-01T05:00:00": (
        ["2024-03-01T06:00:00", "2024-03-01T06:00:00.0"],
        ["2024-03-01T06:00:00Z", "2024-03-01T06:00:00+01:00", " 2024-03-01T06:00:00", "2024-03-01T 6:00:00"],
    ),
    "2024-03-01 05:00": (["2024-03-01 06:00"], ["2024-03-01T06:00", "2024-03-01 06:00:00", "2024-03-01 24:00"]),
    "2024-03-01T05:00:00.5Z": (
        ["2024-03-01T06:00:00Z", "2024-03-01T06:00:00.000000000Z"],
        ["2024-03-01T06:00:00.Z", "2024-03-01T06:00:00.0000000000Z", '"2024-03-01T06:00:00,5Z"'],
    ),
}
BEYOND = [
    "2608-09-20T04:34:33.709551616",
    "1439-08-12T05:25:26.290448384",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59",
]


@pytest.mark.parametrize("first", TIMES)
@pytest.mark.parametrize("block", [text.BLOCK_BYTES, 64])
def test_the_first_time_of_a_file_says_how_all_are_written(
    read: Read, monkeypatch: pytest.MonkeyPatch, first: str, block: int
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    alike, others = TIMES[first]
    lines = [f"{at},n{k},1,1" for k, at in enumerate([first, *alike, *others, *BEYOND])]
    account, clock, nodes, _ = read(rows(*lines))
    assert nodes == [f"n{k}" for k in range(len(alike) + 1)]
    assert set(clock[1:]) == {"06:00:00"}
    assert account.rejected == {NO_TIME: len(others) + len(BEYOND)}
    assert read(rows(*lines[1 : len(alike) + 1], lines[0]))[0].accepted == len(alike) + 1


@pytest.mark.parametrize("at", BEYOND)
def test_a_year_that_int64_cannot_hold_never_comes_round_as_another(read: Read, at: str) -> None:
    fraction = "%.f" if "." in at else ""
    for zone, timezone in (("+0000", "UTC"), ("", "UTC"), ("", "America/New_York")):
        form = f"%Y-%m-%dT%H:%M:%S{fraction}" + ("%z" if zone else "")
        good_time = "2024-03-01T05:00:00" + (".0" if fraction else "")
        lines = rows(f"{good_time}{zone},n0,1,1", f"{at}{zone},n1,1,1")
        assert read(lines, time_format=form, timezone=timezone)[0].accepted == 1
    whole = dt.datetime.fromisoformat(at[:19]).replace(tzinfo=dt.UTC)
    seconds = (whole - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(seconds=1)
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6)):
        for zone in (None, "UTC"):
            times = pa.array([1709269200 * factor, seconds * factor], pa.timestamp(unit, zone))
            assert read(parquet(time=times), "parquet")[0].accepted == 1
    lines = rows("1709269200,n0,1,1", f"{1709269200 + 2**64 // 10**9},n1,1,1", f"{2**63},n1,1,1", f"{10**40},n1,1,1")
    assert read(lines, time_format="s")[0].accepted == 1


def parquet(**columns: Any) -> bytes:
    count = len(next(iter(columns.values())))
    full = {
        "time": ["2024-03-01T05:00:00Z"] * count,
        "node": ["n"] * count,
        "speed": [1.0] * count,
        "vehicles": [1] * count,
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(full | columns), buffer, row_group_size=1)
    return buffer.getvalue()


def test_a_column_of_times_without_one_is_told_as_such(read: Read) -> None:
    assert f"row 2, column 'time', value '': the row is {NO_TIME} (2 rows are rejected of 2)" in refusal(
        read, rows(",a,1,1", ",b,1,1")
    )
    assert f"row 1, column 'time', value '': the row is {NO_TIME}" in refusal(
        read, parquet(time=pa.nulls(2)), "parquet"
    )


NUMBERS = {
    **dict.fromkeys(
        ["1_000", "0x10", "٣", "1e", "--1", "+-1", "1 2", "1d5", "true", "NA", "∞", "1e5.5", "+ 3", "1/2"], "bad"
    ),
    **dict.fromkeys(["inf", "-Infinity", "1e400", "1" * 400], "infinite"),
    **dict.fromkeys(["nan", "-NaN", "", " ", "\t", '" "'], float("nan")),
    **{"1e5": 1e5, "+3": 3.0, " 3 ": 3.0, "3.": 3.0, ".5": 0.5, "007": 7.0, "-0": 0.0, "1E+5": 1e5, '"1.5"': 1.5},
    **{"9007199254740993": 2.0**53, "0.1": 0.1, "5e-324": 5e-324, "1e-400": 0.0, "3\u00a0": 3.0, "\x0b3": 3.0},
    "-0.0": 0.0,
}


@pytest.mark.parametrize("spelling", NUMBERS)
def test_a_number_is_the_same_whatever_stands_in_other_rows(read: Read, spelling: str) -> None:
    expected, one, last = NUMBERS[spelling], f"2024-03-01T05:00:00Z,n0,{spelling},1", good(8, "last")
    broken = ["2024-03-01T06:00:00Z,n1,broken,1", "2024-03-01T06:00:00Z,n1,1,broken"]
    for others in ([], [good(6, "n1")], broken[:1], broken[1:], broken):
        for lines in ([one, *others, last], [*others, last, one]):
            account, _, nodes, values = read(rows(*lines))
            assert account.read == account.accepted + sum(account.rejected.values()) == len(lines)
            assert ("n0" in nodes) != isinstance(expected, str)
            if "n0" in nodes:
                assert repr(values[0][nodes.index("n0")]) == repr(expected)
            else:
                also_broken = sum("broken" in other for other in others) if expected == "bad" else 0
                assert account.rejected[{"bad": "not a number", "infinite": "not finite"}[expected]] == 1 + also_broken


@pytest.mark.parametrize("at", ["24:00:00", "05:60:00", "05:00:60", "05:00:61", "29:59:59", "99:99:99"])
def test_a_time_that_no_clock_shows_is_none_among_times_of_one_width(read: Read, at: str) -> None:
    """They are taken apart digit by digit, all at once."""
    account, clock, nodes, _ = read(rows(good(5), f"2024-03-01T{at}Z,n1,1,1", good(6, "n2")))
    assert (account.rejected, nodes, clock) == ({NO_TIME: 1}, ["n0", "n2"], ["05:00:00", "06:00:00"])


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6)])
def test_a_count_that_goes_round_in_nanoseconds_is_no_instant(read: Read, unit: str, factor: int) -> None:
    known = 1709269200 * factor
    once_round = known + 2**64 // (10**9 // factor)
    account, _, nodes, _ = read(rows(f"{known},n0,1,1", f"{once_round},n1,1,1"), time_format=unit)
    assert (account.accepted, nodes) == (1, ["n0"])


def test_a_byte_order_mark_is_one_at_the_beginning_of_a_file_only(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a file is cut into blocks: here before the mark, which is part of a node's name."""
    mark, block = "\ufeff", 64
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    head = HEADER + "2024-03-01T05:00:00Z,"
    first = head + "n" * (2 * block - len(head + ",1,1\n2024-03-01T05:00:00Z,")) + ",1,1\n2024-03-01T05:00:00Z,"
    assert len(first) == 2 * block
    nodes = read(mark + first[:-3].replace("nnn", "", 1) + first[-3:] + f"{mark}n1,1,1\n")[2]
    assert nodes[-1] == f"{mark}n1"


def test_what_stands_for_a_missing_value_is_declared(read: Read) -> None:
    spellings = {"": np.nan, "-": np.nan, "k.A.": np.nan, "0": 0.0, "k.A": "bad"}
    lines = [f"2024-03-01T05:00:00Z,n{k},{spelling},1" for k, spelling in enumerate(spellings)]
    account, _, _, values = read(rows(*lines), csv={"missing": ["", "-", "k.A."]})
    np.testing.assert_array_equal(values[0], [value for value in spellings.values() if value != "bad"])
    assert account.rejected == {"not a number": 1}


def test_where_decimal_commas_are_declared_a_point_makes_no_number(read: Read) -> None:
    """`1.234` might be a thousand."""
    spellings = {"1,5": 1.5, "-2,25e1": -22.5, "1.5": "bad", "1.234,5": "bad", "1,234.5": "bad", "7": 7.0}
    lines = [f"2024-03-01T05:00:00Z;n{k};{spelling};1" for k, spelling in enumerate(spellings)]
    text_ = "time;node;speed;vehicles\n" + "".join(line + "\n" for line in lines)
    account, _, _, values = read(text_, csv={"separator": ";", "decimal": ","})
    assert values[0] == [value for value in spellings.values() if value != "bad"]
    assert account.rejected == {"not a number": 3}


THOUSANDS: list[tuple[dict[str, str], dict[str, float | str]]] = [  # a dialect, {what is written: what is read}
    (
        {"thousands": ","},
        {"1,234.5": 1234.5, " -1,234,567 ": -1234567, "12.5": 12.5, "999": 999, "+1,000": 1000}
        | dict.fromkeys(["1,23.5", "1234,567", "1.234,5", "1,234,56", "1,234.", ",123", "1 234"], "bad"),
    ),
    (
        {"decimal": ",", "thousands": "."},
        {"1.234,5": 1234.5, "1.234": 1234, "0,5": 0.5, "7": 7.0}
        | dict.fromkeys(["1.5", "1,234.5", "1.23,4", "12.34"], "bad"),
    ),
    ({"thousands": " "}, {"1 234.5": 1234.5, "1\u00a0234": 1234, "1\u202f234": 1234, "1 2": "bad", "1,234": "bad"}),
    ({"thousands": "'"}, {"1'234.5": 1234.5, "1\u2019234": 1234, "1'23": "bad"}),
]


@pytest.mark.parametrize(("dialect", "spellings"), THOUSANDS, ids=str)
def test_a_mark_between_thousands_is_taken_out_of_whole_numbers_alone(
    read: Read, dialect: dict[str, str], spellings: dict[str, float | str]
) -> None:
    lines = [f"2024-03-01T05:00:00Z;n{k:02};{spelling};1" for k, spelling in enumerate(spellings)]
    text_ = "time;node;speed;vehicles\n" + "".join(line + "\n" for line in lines)
    account, _, _, values = read(text_, csv={"separator": ";", **dialect})
    numbers = [value for value in spellings.values() if value != "bad"]
    assert values[0] == numbers
    assert account.rejected == {"not a number": len(spellings) - len(numbers)}


@pytest.mark.parametrize(
    ("dialect", "why"),
    [
        ({"thousands": "."}, "another character than decimal and quote"),
        ({"thousands": "'", "quote": "'"}, "another character than decimal and quote"),
        ({"thousands": ",", "quote": None}, "numbers that are quoted"),
        ({"thousands": "_"}, "Input should be"),
    ],
)
def test_a_mark_between_thousands_that_cannot_be_told_is_refused(dialect: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Csv.model_validate(dialect)
    assert Csv(thousands=",").thousands == ","


BROKEN_CSV = [  # (rows, each between < and >, where a column that nobody reads may stand; the sentence)
    ("<{a}>\n<2024-03-01T05:00:00Z,n0,1>\n<{a},1>\n", "row 3: the row has {three} fields, the header {four}"),
    ("<{a}>\n<{a},x>\n", "row 3: the row has {five} fields, the header {four}"),
    ("\n\n\n", "a header but no row"),
    ("\r\n\r\n", "a header but no row"),
    ("<{a}>\n\n\n<noon,n0,1,1>\n\n", "row 5, column 'time', value 'noon'"),
    ('<{a}>\n<2024-03-01T05:00:00Z,"a\n\nb",1,1>\n\n<noon,n0,1,1>\n', "row 5, column 'time', value 'noon'"),
    ("<{a}>\n   \n<{a}>\n", "row 3: the row has 1 fields, the header {four}"),
    ("<,,,>\n<,,,>\n", "row 2, column 'time', value ''"),
    ('<{a}>\n<{b},a"b,1,1>\n<{a}>\n<{b},c"d,1,1>\n', "row 3: a quote inside an unquoted field"),
    ('<{a}>\n<{a}>\n<{b},"a"b,1,1>\n', "row 4: text after a closing quote"),
    ('<{a}>\n<{b}, "a,b",1,1>\n', "row 3: a quote inside an unquoted field"),
    ('<{a}>\n<{b},a"b,1,1>\n', "row 3: a quote that is never closed"),
    ("<{a}>\n<{b},a\rb,1,1>\n", "row 3: a carriage return without a newline"),
    ("<{a}>\r\n<{a}>\r\r\n", "row 3: a carriage return without a newline"),
    ("<{a}>\n" + "x" * (1 << 20) + "\n", "row 3: the row has 1 fields, the header {four}"),
]


@pytest.mark.parametrize(("content", "words"), BROKEN_CSV)
@pytest.mark.parametrize("more", [0, 2], ids=["all columns", "columns that nobody reads"])
def test_a_row_that_is_none_is_named_whatever_columns_are_read(read: Read, content: str, words: str, more: int) -> None:
    text = f"<{HEADER[:-1]}>\n" + content.replace("{a}", good(4)).replace("{b}", "2024-03-01T05:00:00Z")
    text = text.replace("<", "x," if more else "").replace(">", ",y" if more else "")
    words = words.format(three=3 + more, four=4 + more, five=5 + more)
    assert words in refusal(read, text, max_bad_fraction=0)


def test_rows_between_two_stray_quotes_are_never_one_field_that_nobody_reads(read: Read) -> None:
    lines = [f"{good(k)},plain" for k in range(8)]
    lines[2] += '"'
    lines[6] = lines[6].replace("plain", '"quoted"')
    lines[7] = lines[7].replace("plain", 'a"')
    assert "row 4: a quote inside an unquoted field" in refusal(
        read, HEADER.replace("\n", ",note\n") + "\n".join([*lines, ""])
    )


def test_a_stray_quote_in_the_header_swallows_no_row(read: Read) -> None:
    text = HEADER.replace("\n", ',5"\n') + f'{good(1)},x\n{good(2)},"y"\n{good(3)},6"\n'
    assert "row 1: a quote inside an unquoted field in the header" in refusal(read, text)


def test_long_headers_and_fields_are_read(read: Read) -> None:
    wide = ",".join(f"column {k:07d}" for k in range(200_000))
    assert len(wide) > 1 << 20
    values = "," * 199_999
    assert read(f"{HEADER[:-1]},{wide}\n{good(4)},{values}\n{good(5)},{values}\n")[1] == ["04:00:00", "05:00:00"]
    note = "x" * (1 << 18)
    text = f"{HEADER[:-1]},note\n{good(4)},{note}\n" + f"noon,n0,1,1,{note}\n" + f"{good(5)},{note},\n"
    assert "row 4: the row has 6 fields, the header 5" in refusal(read, text, max_bad_fraction=0)
    assert "row 1: the header is not readable" in refusal(read, f'"time"x,{HEADER}{good(4)},1\n')
    text = f'{HEADER[:-1]},"a\nb","a\nb"\n{good(4)},1,2\n'.replace("time", '"a\nb"', 1)
    assert "row 1, column 'a\\nb': the column is repeated" in refusal(read, text, time="a\nb")


RAGGED = rows(
    *(good(hour) for hour in range(3)),
    "2024-03-01T03:00:00Z,n0,1",
    "",
    good(4),
    '2024-03-01T05:00:00Z,"n\n0",1,1,1',
    "\u00a7",
    *(good(hour) for hour in range(6, 9)),
    "total;8",
)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("chosen", [{"max_bad_fraction": 0.4}, {"faults": {"other_fields": "drop"}}], ids=str)
def test_rows_of_another_number_of_fields_are_counted_as_others_are(
    read: Read, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any], small: bool
) -> None:
    if small:
        monkeypatch.setattr(text, "BLOCK_BYTES", 60)
    account, clock, _, _ = read(RAGGED, **{"max_bad_fraction": 0, **chosen})
    assert (account.read, account.accepted) == (11, 7)
    assert account.rejected == {"of another number of fields": 4}
    assert clock == [f"{hour:02}:00:00" for hour in (0, 1, 2, 4, 6, 7, 8)]


def test_a_row_with_as_many_fields_too_many_as_another_lacks_is_found(read: Read) -> None:
    account, clock, _, _ = read(rows(good(0), good(1) + ",1", good(2), "2024-03-01T03:00:00Z,n0,1", good(4)))
    assert account.rejected == {"of another number of fields": 2}
    assert clock == ["00:00:00", "02:00:00", "04:00:00"]


def test_too_many_rows_of_another_number_of_fields_name_the_first_one_and_its_remedy(read: Read) -> None:
    assert refusal(read, RAGGED, max_bad_fraction=0.3).endswith(
        "x.csv, date 2024-03-01, row 5: the row has 3 fields, the header 4 (4 rows are rejected of 11). Correct the dump, "
        "or leave the rows out with pipeline.source.faults.other_fields: drop, or the date with pipeline.exclude: "
        "[2024-03-01]"
    )
    assert "row 5: the row has 3 fields, the header 4. Correct the dump" in refusal(read, RAGGED, max_bad_fraction=0)
    message = refusal(read, rows(*(good(hour) + "," for hour in range(9))), max_bad_fraction=0.3)
    assert "Its rows end with a separator and its header does not. Set pipeline.source.csv.skip_rows: 1" in message


def test_half_a_character_at_the_end_of_a_file_is_not_dropped(read: Read) -> None:
    data = (HEADER + good(4, "站") + "\n" + good(5)).encode("gb18030") + "站".encode("gb18030")[:1]
    csv = {"encoding": "gb18030", "final_newline": False}
    assert "row 3: not gb18030" in refusal(read, data, csv=csv)
    assert read(data[:-1], csv=csv)[0].accepted == 2


@pytest.mark.parametrize(
    "given", [{"separator": "§"}, {"quote": "“"}, {"separator": ",", "quote": ","}, {"quote": "\n"}]
)
def test_characters_that_no_reader_can_tell_apart_are_refused_by_the_configuration(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="three different ASCII characters"):
        Csv(**given)  # type: ignore[arg-type]


def objects(*changes: dict[str, str]) -> str:
    """A JSON Lines file: each row's values as they should stand in it."""
    lines = []
    for k, change in enumerate(changes):
        row = {"time": f'"2024-03-01T{k:02d}:00:00Z"', "node": '"n"', "speed": "1", "vehicles": "2", **change}
        lines.append("{" + ",".join(f'"{key}":{value}' for key, value in row.items()) + "}\n")
    return "".join(lines)


SECOND = '{a}{"time":"2024-03-01T02:00:00Z",'
BROKEN_JSON = [
    ("{a}{a2}", "row 2: the key 'speed' is repeated"),
    (SECOND + '"node":"n","node":"m","vehicles":2,"speed":1}\n', "row 2: the key 'node' is repeated"),
    (SECOND + '"node":"n","node":"m","vehicles":2}\n', "row 2: the key 'node' is repeated"),
    (SECOND + '"node" : "n" , "node" : "m","vehicles":2,"speed":1}\n', "row 2: the key 'node' is repeated"),
    (SECOND + '"node":"n\\u0000","speed":1,"vehicles":1}\n', "row 2, column 'node': a NUL character"),
    (SECOND + '"node":"n\\ud800","speed":1,"vehicles":1}\n', "row 2, column 'node': half of a surrogate"),
    ("{a}{a}{nan}", "row 3: not JSON: it has no NaN (write null)"),
    ("{a}\n\n{a}{huge}", "row 5: not JSON: error parsing line: InvalidNumber"),
    ("{a}null\n", "row 2: the row is not a JSON object"),
    ("{a}[1]\n{a}", "row 2: the row is not a JSON object"),
    ("{two}", "row 1: not JSON: Extra data"),
    ("{a}{\n", "row 2: not JSON: "),
    ('{a}{"node":"' + "[" * 5000 + '","x":' + "[" * 5000 + "]" * 5000 + "}\n", "row 2: not JSON: maximum recursion depth"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BROKEN_JSON)
def test_a_line_that_is_no_json_object_is_named(read: Read, content: str, words: str) -> None:
    one = objects({})
    content = content.replace("{a2}", one.replace('"vehicles"', '"speed":3,"vehicles"')).replace("{a}", one)
    content = content.replace("{nan}", objects({"speed": "NaN"})).replace("{huge}", objects({"speed": "1e400"}))
    assert words in refusal(read, content.replace("{two}", one.strip() + " " + one), "jsonl")


def test_json_is_read_as_it_is_meant(read: Read) -> None:
    data = objects(
        {"speed": "true", "vehicles": "false"}, {"speed": '"1.5"'}, {"speed": "null"}, {"node": '"n\\ud83d\\ude00"'},
        {"node": '""'}, {"node": "null"}, {"speed": "[1]"}, {"speed": '{"a":1}'}, {"node": '"\\\\u0000"'}, {"speed": '"speed"'},
        {"speed": '"true"'},
    )  # fmt: skip
    account, _, nodes, values = read(data.replace('"n","speed":true', '"n",\r"speed":true'), "jsonl")
    assert nodes == ["n", "n", "n", "n😀", "\\u0000"]
    assert [repr(value) for value in values[0]] == ["1.0", "1.5", "nan", "1.0", "1.0"]
    assert values[1] == [0.0, 2.0, 2.0, 2.0, 2.0]
    assert account.rejected == {"without a node": 2, "not a number": 4}
    sparse = objects({}, {}, {}).replace('"speed":1,', "", 2).replace('"vehicles":2}', '"vehicles":2,"speed":1}', 1)
    assert read(sparse, "jsonl")[0].accepted == 3


def test_integers_beyond_2_53_are_the_nearest_float64_in_every_format(read: Read) -> None:
    wholes = [2**53 + 1, 2**63 - 1, -(2**63), 2**53 - 1]
    nearest = [float(whole) for whole in wholes]
    lines = rows(*(f"2024-03-01T05:00:0{k}Z,n,1,{whole}" for k, whole in enumerate(wholes)))
    assert read(lines)[3][1] == nearest
    assert read(objects(*({"vehicles": str(whole)} for whole in wholes)), "jsonl")[3][1] == nearest
    assert read(parquet(vehicles=pa.array(wholes)), "parquet")[3][1] == nearest
    assert read(parquet(vehicles=pa.array([2**64 - 1], pa.uint64())), "parquet")[3][1] == [2.0**64]


D = decimal.Decimal
TYPES: list[tuple[str, Any, Any]] = [  # (column, array, values or names that are read; None where the type is refused)
    ("vehicles", pa.array([True, False]), [1.0, 0.0]),
    ("vehicles", pa.array([D("1.25"), D("-3.10")], pa.decimal128(10, 2)), [1.25, -3.1]),
    ("vehicles", pa.array([D("1.25"), D("2")], pa.decimal256(50, 2)), None),
    ("vehicles", pa.array([1, 2], pa.duration("s")), None),
    ("vehicles", pa.array([[1], [2]]), None),
    ("vehicles", pa.array(["1", " 2 "]).dictionary_encode(), [1.0, 2.0]),
    ("vehicles", pa.array([7, 8]).dictionary_encode(), [7.0, 8.0]),
    ("vehicles", pa.array(np.array([1.5, 2], np.float16)), [1.5, 2.0]),
    ("node", pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ("node", pa.array([7, 8]), ["7", "8"]),
    ("node", pa.array([b"a", b"b"]), None),
    ("node", pa.array([b"a", b"b"], pa.binary(1)), None),
    ("time", pa.array([1, 2], pa.duration("s")), None),
]


@pytest.mark.parametrize(("column", "array", "expected"), TYPES, ids=lambda value: str(getattr(value, "type", "")))
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_types_are_read_or_refused_by_name(read: Read, suffix: str, column: str, array: Any, expected: Any) -> None:
    data = parquet(**{column: array})
    if suffix == "arrow":
        table, buffer = pq.read_table(io.BytesIO(data)), io.BytesIO()
        table = table.set_column(table.schema.get_field_index(column), column, array)
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        data = buffer.getvalue()
    if expected is None:
        assert f"column '{column}': the column's type is " in refusal(read, data, suffix)
        return
    _, _, nodes, values = read(data, suffix)
    assert (nodes if column == "node" else values[1]) == expected


def test_typed_times_of_every_unit_and_zone_are_the_same_instants(read: Read) -> None:
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        for zone, clock in (
            (None, "10:00:00"),
            ("UTC", "05:00:00"),
            ("Asia/Tokyo", "05:00:00"),
            ("+05:30", "05:00:00"),
        ):
            data = parquet(time=pa.array([1709269200 * factor], pa.timestamp(unit, zone)))
            assert read(data, "parquet", timezone="America/New_York")[1] == [clock]
    assert read(parquet(time=pa.array([DATE])), "parquet")[1] == ["00:00:00"]
    assert NO_TIME in refusal(read, parquet(time=pa.array([2**31 - 1], pa.int32()).cast(pa.date32())), "parquet")
    assert "value '9223372036854775807'" in refusal(
        read, parquet(time=pa.array([2**63 - 1], pa.timestamp("ms"))), "parquet"
    )


def test_empty_row_groups_and_batches_are_passed_over(read: Read) -> None:
    table, parquet_file, arrow_file = pq.read_table(io.BytesIO(parquet(vehicles=[1, 2]))), io.BytesIO(), io.BytesIO()
    with pq.ParquetWriter(parquet_file, table.schema) as writer:
        for part in (table.schema.empty_table(), table, table.schema.empty_table(), table):
            writer.write_table(part)
    empty = pa.RecordBatch.from_pylist([], table.schema)
    with pa.ipc.new_file(arrow_file, table.schema) as writer:
        for batch in (empty, *table.to_batches(), empty):
            writer.write_batch(batch)
    assert read(parquet_file.getvalue(), "parquet")[0].read == 4
    assert read(arrow_file.getvalue(), "arrow")[0].read == 2


def test_bytes_that_are_no_utf8_in_typed_files_are_one_sentence(read: Read) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    assert "cannot be read: " in refusal(read, parquet(node=bad), "parquet")


def test_a_json_row_number_counts_blank_lines(read: Read) -> None:
    data = "\n" + objects({}) + "\n  \n" + objects({"speed": '"fast"'})
    assert "row 5, column 'speed', value 'fast'" in refusal(read, data, "jsonl", max_bad_fraction=0)
