"""What a look at files makes of those that are cut, differ from each other, lack keys, or stand below titles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dateshard.insight.first_look.look import Guess, look_at

Run = Callable[..., Any]
DAYS = range(1, 7)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()


def rows_of(day: int) -> list[str]:
    return [
        f"2024-05-0{day} {h:02d}:00,{n},{10 * day + (7 * h + k) % 11}.25"
        for h in range(24)
        for k, n in enumerate("abc")
    ]


def write(day: int, lines: Iterable[str], end: str = "\n") -> None:
    Path(f"raw/2024-05-0{day}.csv").write_text("\n".join(lines) + end)


def look(place: str = "raw") -> tuple[dict[str, Any], dict[str, str], Guess]:
    """Returns (the section `pipeline`, {key: doubt}, the guess)."""
    guess = look_at(Path(place), Path())
    return YAML(typ="safe").load(guess.text)["pipeline"], {key: doubt for doubt, key in guess.doubts}, guess


def test_where_some_files_end_without_a_newline_they_are_refused_by_name() -> None:
    for day in DAYS:
        write(day, ["time,node,v", *rows_of(day)], end="" if day == 3 else "\n")
    pipeline, doubts, _ = look()
    assert "csv" not in pipeline["source"]
    assert doubts["the file"] == (
        "preprocess will refuse a file: raw/2024-05-03.csv: "
        "it does not end with a newline, as others do, and may have been cut. "
        "Write it again, or set pipeline.source.csv.final_newline: false if it is whole"
    )


@pytest.mark.parametrize(("days", "what"), [(DAYS, "all files end"), ([1], "the file ends")])
def test_where_no_file_ends_with_a_newline_that_is_allowed_and_told(days: Iterable[int], what: str) -> None:
    for day in days:
        write(day, ["time,node,v", *rows_of(day)], end="")
    pipeline, doubts, guess = look()
    assert pipeline["source"]["csv"] == {"final_newline": False}
    assert f"{what} without a newline" in guess.text
    assert doubts["pipeline.source.csv.final_newline"].startswith(f"{what} without a newline: ")


def test_rows_of_other_fields_are_told_with_the_place_of_the_first() -> None:
    for day in DAYS:
        rows = rows_of(day)
        write(day, ["time,node,v", *rows[:30], *([rows[30] + ",9"] if day == 2 else []), *rows[31:]])
    pipeline, doubts, _ = look()
    assert pipeline["source"]["faults"] == {"other_fields": "drop"}
    assert doubts["pipeline.source.faults.other_fields"] == (
        "1 row has another number of fields than the header, and such rows are left out; "
        "the first is raw/2024-05-02.csv, row 32"
    )


@pytest.mark.parametrize("cut", [1, 4])
def test_a_short_last_row_of_one_file_is_a_cut_and_stays_refused(cut: int) -> None:
    for day in DAYS:
        rows = rows_of(day)
        write(day, ["time,node,v", *rows[:-1], rows[-1][:10] if day == cut else rows[-1]])
    pipeline, doubts, _ = look()
    assert not {"faults", "csv"} & set(pipeline["source"])
    assert f"raw/2024-05-0{cut}.csv: the row has 1 field" in doubts["the file"]


def in_json(day: int, hour: int, node: str) -> dict[str, Any]:
    time = f"2024-05-0{day}T{hour:02d}:00Z"
    return {"time": time, "node": node, "v": (7 * hour) % 11 + 0.5, "on": hour % 3 == 0, "warm": 20 + hour % 7}


def write_json(day: int, lacking: Callable[[int], bool]) -> None:
    rows = [in_json(day, h, n) for h in range(24) for n in "ab"]
    for number, row in enumerate(rows):
        if lacking(number):
            del row["warm"]
    Path(f"raw/2024-05-0{day}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_keys_that_a_first_row_lacks_and_booleans_are_features_that_are_prepared(ds: Run) -> None:
    for day in DAYS:
        write_json(day, lambda number: number < 5)
    pipeline, _, guess = look()
    assert list(pipeline["features"]) == ["v", "on", "warm"]
    assert "left out" not in guess.text
    assert "0 to 1" in guess.text
    ds("init", "--from", "raw")
    assert "288 rows read" in ds("preprocess", "-c", "configs/raw.yaml", "--workers", "1").out


def test_a_key_that_no_row_of_a_file_has_is_a_missing_column(ds: Run) -> None:
    for day in DAYS:
        write_json(day, lambda number, day=day: day == 4)  # type: ignore[misc]
    ds("init", "--from", "raw")
    said = ds("preprocess", "-c", "configs/raw.yaml", "--workers", "1", code=3).out
    assert "raw/2024-05-04.jsonl" in said
    assert "there is no column 'warm'" in said


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_column_that_only_later_files_have_is_left_out_with_the_first_of_them(suffix: str) -> None:
    for day in DAYS:
        if suffix == "jsonl":
            write_json(day, lambda number, day=day: day < 5)  # type: ignore[misc]
        else:
            write(day, ["time,node,v" + ",warm" * (day >= 5), *(row + ",2.5" * (day >= 5) for row in rows_of(day))])
    pipeline, _, guess = look()
    assert "warm" not in pipeline["features"]
    why = f"not in all files: of those that were read 2024-05-05.{suffix} is the first to have it"
    assert f"# left out: warm ({why})" in guess.text


def test_a_node_of_a_wide_dump_that_only_later_files_have_is_not_left_out() -> None:
    for day in DAYS:
        more = ",remark,n4" if day >= 5 else ""
        rows = [f"2024-05-0{day} {h:02d}:00,{h % 7}.5,{h % 5}.5,{h % 3}.5{',x,2.5' if more else ''}" for h in range(24)]
        write(day, [f"time,n1,n2,n3{more}", *rows])
    pipeline, _, guess = look()
    assert pipeline["source"]["wide"]["nodes"] == "n*"
    assert "# left out: remark (" in guess.text
    assert "n4" not in guess.text


def test_of_other_data_of_the_same_name_nothing_is_said_to_be_next(ds: Run) -> None:
    for day in DAYS:
        write(day, ["time,node,v", *rows_of(day)])
    assert "next: " in ds("init", "--from", "raw").out
    assert "next: " in ds("init", "--from", "raw").out
    config = Path("configs/raw.yaml")
    config.write_text(config.read_text().replace("raw/{date}", "other/raw/{date}"))
    said = ds("init", "--from", "raw").out
    assert "it was there before, and differs. To have a new one, move it away and run init again\n" in said
    assert "next: " not in said


@pytest.mark.parametrize("factor", [2, 40])
@pytest.mark.parametrize("wide", [True, False])
def test_nodes_of_very_unequal_size_are_told_with_the_key_that_scales_them(factor: int, wide: bool) -> None:
    values = [(h, 5 + (7 * h) % 11 + 0.5) for h in range(24)]
    for day in DAYS:
        at = f"2024-05-0{day}"
        if wide:
            rows = [f"{at} {h:02d}:00,{v},{v + 1},{factor * v}" for h, v in values]
        else:
            rows = [f"{at} {h:02d}:00,{n},{v * (factor if n == 'b' else 1)}" for h, v in values for n in "ab"]
        write(day, ["time,n1,n2,n3" if wide else "time,node,value", *rows])
    _, doubts, _ = look()
    assert ("pipeline.features.value.scale_per: node" in doubts) == (factor == 40)
    if factor == 40:
        assert doubts["pipeline.features.value.scale_per: node"].startswith("value is usually 40 times as large")


@pytest.mark.parametrize("titles", [1, 3])
def test_titles_that_are_filled_up_with_separators_are_no_header(titles: int) -> None:
    rows = [f"2024-05-0{day} {h:02d}:00;{day + h % 5}.5;{h % 7}.5" for day in DAYS for h in range(24)]
    Path("raw/w.csv").write_text(
        "\n".join([*["Weather station;;", ";;", "written today;;"][:titles], "time;warm;wet", *rows, ""])
    )
    pipeline, _, _ = look("raw/w.csv")
    assert pipeline["source"]["csv"] == {"separator": ";", "skip_rows": titles}
    assert list(pipeline["features"]) == ["warm", "wet"]


def test_names_that_are_invented_are_told_and_are_no_numbered_ones() -> None:
    rows = [f"2024-05-0{day} {h:02d}:00,{day + h % 5}.5,{h % 7}.5,{h % 3}.5" for day in DAYS for h in range(24)]
    Path("raw/w.csv").write_text("\n".join([*rows, ""]))
    pipeline, doubts, _ = look("raw/w.csv")
    assert "wide" not in pipeline["source"]
    assert doubts["pipeline.source.csv.columns"] == "no line names the columns: column_1 and so on are invented"
