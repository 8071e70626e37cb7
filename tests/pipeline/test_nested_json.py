"""JSON objects and lists where a text, a number or a time should be: bad rows, told with the field and the value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run

CONFIG = """dataset: nested
pipeline:
  source: {path: "raw/{date}.jsonl", time: t, node: n, max_bad_fraction: FRACTION}
  step: 1h
  features: {v: {}, kind: {categorical: true}}
  split: {train: 2024-03-01, validation: 2024-03-02}
"""
FIELDS = {"n": "an object or a list", "kind": "an object or a list", "v": "not a number", "t": "not a time"}
ODD: list[Any] = [{"a": 1}, {}, [], [1, [2]], [{"a": {}}]]


def prepare(field: str, odd: Any, fraction: float, *more: str) -> int:
    Path("raw").mkdir(exist_ok=True)
    for day in (1, 2):
        rows = [
            {"t": f"2024-03-0{day} {h:02d}:00", "n": "[a]" if h % 2 else "{b}", "v": h, "kind": "x"} for h in range(24)
        ]
        rows[5][field] = odd
        Path(f"raw/2024-03-0{day}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("c.yaml").write_text(CONFIG.replace("FRACTION", str(fraction)))
    return run(["preprocess", "-c", "c.yaml", "--workers", "1", *more])


@pytest.mark.parametrize("field", FIELDS)
def test_a_nested_value_is_a_bad_row_named_by_its_field(field: str, capsys: pytest.CaptureFixture[str]) -> None:
    for odd in ODD:
        assert prepare(field, odd, 0) == 65
        out = capsys.readouterr().out
        assert f"raw/2024-03-01.jsonl, date 2024-03-01, row 6, column '{field}', value '{json.dumps(odd)[:2]}" in out
        assert f"the row is {FIELDS[field]}" in out


@pytest.mark.parametrize("field", FIELDS)
def test_nested_values_within_what_is_tolerated_are_left_out_and_counted(
    field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(field, {"a": 1}, 0.1) == 0
    out = capsys.readouterr().out
    assert "48 rows read, 2 rejected" in out
    assert f"rejected\t2\t{FIELDS[field]}" in out.replace("  ", "\t")


def test_a_text_that_looks_nested_is_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("n", "[1, 2]", 0) == 0
    assert "rejected" not in capsys.readouterr().out
    assert run(["inspect", "-c", "c.yaml", "--rows", "24"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("[a]", "{b}", "[1, 2]"))
