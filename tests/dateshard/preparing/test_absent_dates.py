"""A date that is not there, and a selector that names none: one rule for all commands (docs/commands.md, Dates)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import World

BY_DUMPS = ["plan", "preprocess", "preprocess --dry-run", "status", "status --calendar"]
BY_STORE = ["verify", "inspect", "statistics --by-date", "export --to csv", "drop -y", "drop --dry-run"]
NOTHING = ["2019-01-01", "2019-05", "2019-01-01..2019-02-01", "2019-W10", "2024-04-01..", "latest..latest-2"]


@pytest.fixture
def world(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> World:
    made = make_world(5, split={"train": "..2024-03-04", "validation": "2024-03-05"})
    made.prepare()
    monkeypatch.chdir(made.folder)
    return made


@pytest.mark.parametrize(("commands", "code"), [(BY_DUMPS, 65), (BY_STORE, 4)])
def test_what_names_no_date_is_refused_by_every_command(
    world: World, ds: Callable[..., Any], commands: list[str], code: int
) -> None:
    config = str(world.config_file())
    before = world.open().generation
    for command in commands:
        for word in NOTHING:
            done = ds(*command.split(), word, "-c", config, code=code)
            assert word in done.out + done.err, command
        done = ds(*command.split(), "2024-03-05..2024-03-01", "-c", config, code=2)
        assert "runs backwards" in done.err
    assert world.open().generation == before
    assert not (world.folder / "data" / "exports").exists()


def test_what_leaves_no_date_by_a_filter_is_nothing_to_do(world: World, ds: Callable[..., Any]) -> None:
    config = str(world.config_file())
    (world.folder / "none.txt").write_text("")
    for words in (["--only", "stale"], ["@none.txt"], ["2024-03-01", "--exclude", "2024-03"]):
        assert "nothing to do" in ds("preprocess", *words, "-c", config).out
    assert ds("plan", "2024-03", "--exclude", "2023-01", "-c", config).code == 0
    ds("preprocess", "2019-01-01", "--only", "missing", "-c", config, code=65)  # a filter hides no wrong date


def test_a_range_of_one_big_file_that_is_not_cut_yet_says_so(
    make_world: Callable[..., World], ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(3)
    parts = [path.read_text().splitlines(keepends=True) for path in sorted((world.folder / "raw").iterdir())]
    (world.folder / "all.csv").write_text("".join([parts[0][0], *(line for part in parts for line in part[1:])]))
    world.tree["pipeline"]["source"]["path"] = "all.csv"
    monkeypatch.chdir(world.folder)
    config = str(world.config_file())
    assert "not divided by date yet" in ds("preprocess", "2024-03", "-c", config, code=65).err
    ds("plan", "2024-03-02", "-c", config)
    assert "3 dates to measure" in ds("preprocess", "-c", config).out
    assert "nothing to do" in ds("preprocess", "2024-03", "-c", config).out
