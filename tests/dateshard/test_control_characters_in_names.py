"""Newlines, tabs and escapes in the names of dumps: found, named on one line, journalled, and never sent to a terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., Any]
NAME = "a\nb\tc\x1b[31md"
SHOWN = "a\\nb"


@pytest.fixture
def world(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = make_world(3, split={"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"})
    made.config_file()
    monkeypatch.chdir(made.folder)
    for date in made.rows:
        for form in (f"days/{date}/{NAME}.csv", f"nodes/{NAME}/{date}.csv"):
            Path(form).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made.dump(date), form)
    return made


def plain(text: str) -> bool:
    return all(char in "\n\t" or char.isprintable() for char in text)


def test_such_dumps_are_prepared_and_everything_told_is_plain_lines(world: Any, ds: Callable[..., Any]) -> None:
    path = ["-c", "config.yaml", "pipeline.source.path=days/{date}"]
    done = ds("preprocess", *path, "--workers", "1")
    assert plain(done.out)
    states = ds("status", "--json", *path).document["counts"]
    assert states["fresh"] == 3
    for line in (world.store / "commits.jsonl").read_text().splitlines():
        json.loads(line)
    assert ds("verify", "--full", "--json", *path).document["damaged"] == []
    bad = next(Path("days").glob("2024-03-02/*"))
    bad.write_text("a,b\n1,2\n")
    failed = ds("preprocess", *path, "--workers", "1", code=3)
    assert plain(failed.out)
    (told,) = (line for line in failed.out.splitlines() if line.startswith("failed"))
    assert f"days/2024-03-02/{SHOWN}" in told
    assert "there is no column" in told
    again = ds("status", *path, code=4)
    assert plain(again.out)
    assert all("\x1b" not in line for line in again.out.splitlines())


def test_a_node_of_such_a_name_is_one_cell_of_a_table(world: Any, ds: Callable[..., Any]) -> None:
    path = ["-c", "config.yaml", "dataset=other", "pipeline.source.path=nodes/{node}/{date}.csv"]
    tree = json.loads(Path("config.yaml").read_text())
    tree["pipeline"]["source"] = {k: v for k, v in tree["pipeline"]["source"].items() if k != "node"}
    tree["pipeline"]["source"]["duplicates"] = "keep"
    Path("config.yaml").write_text(json.dumps(tree))
    assert plain(ds("preprocess", *path, "--workers", "1").out)
    inspected = ds("inspect", "--rows", "2", *path).out
    assert plain(inspected)
    assert "a\\nb\\tc\\x1b[31md" in inspected
