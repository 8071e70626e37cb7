"""`evaluate --baseline-windows N`: the second table and its sentence say which windows they are of, wherever they are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dateshard.documents import document_schema
from tests.conftest import World
from tests.kit.untrained import untrained

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06..2024-03-07"}
RIVAL = "def forecast(history, times, steps, levels):\n    print('asked')\n    return [[20.0] * steps] * len(history)\n"
TITLE = "A sample of 5 of the 47 windows of test, "


@pytest.fixture
def world(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A run `r` that was never trained, and a function in the working directory."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("its_rival", None)
    Path("its_rival.py").write_text(RIVAL)
    made = make_world(7, split=SPLIT, window={"history": 6, "horizon": 2}, baselines=["repeat", "its_rival:forecast"])
    made.prepare()
    made.config_file()
    untrained(made.settings.trainer, made, "r")
    yield made
    sys.modules.pop("its_rival", None)


def test_the_table_the_document_the_verdict_and_the_page_say_which_windows_they_are_of(world: World, ds: Run) -> None:
    done = ds("evaluate", "r", "-c", "config.yaml", "--baseline-windows", "5", "--report")
    lines = done.out.splitlines()
    assert "test: 47 windows; features in raw units, * = best" in lines
    at = lines.index(f"{TITLE}every row on these alone; features in raw units, * = best")
    assert [line.split("\t")[0] for line in lines[at + 2 : at + 5]] == ["repeat", "its_rival:forecast", "mlp"]
    assert not any(line.startswith("its_rival") for line in lines[:at])
    said = [line for line in lines if line.startswith(("All 47 windows: ", "A sample of 5 of the 47 windows: "))]
    assert len(said) == 2
    assert "asked" not in done.out
    page = Path("data/runs/r/report.html").read_text()
    assert f"{TITLE}all predictors on these alone" in page
    assert page.count("A sample of 5 of the 47 windows: ") == 1
    document = ds("evaluate", "r", "--baseline-windows", "5", "--json").document
    jsonschema.validate(document, document_schema("evaluate"))
    assert document["sample"]["windows"] == 5
    assert [row["name"] for row in document["rows"]] == ["repeat", "mlp"]


def test_a_run_without_a_quick_baseline_shows_the_sample_alone(world: World, ds: Run) -> None:
    words = ("evaluate", "-c", "config.yaml", "--baselines", "its_rival:forecast")
    done = ds(*words, "trainer.baseline_windows=5")
    assert "47 windows; features" not in done.out
    assert TITLE in done.out
    assert [row["name"] for row in ds(*words, "--json").document["rows"]] == ["its_rival:forecast"]
