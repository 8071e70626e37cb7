"""The page of costs is what the results give, and says where others need less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench.costs import TIMES, power
from bench.dated import kept
from bench.goals import GOALS, goals, value
from bench.performance_page import BEGIN, END, SECTIONS, page, readme_table
from bench.run import KINDS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PEERS = """Beside others, {day}, x86_64; load 0.1

| windows | who | CPU us a window | times dateshard's |
| --- | --- | --- | --- |
| mid, 77 kB | dateshard | 4 ({day}) | 1 |
| mid, 77 kB | slower | 5 (5, 5) | 1.25 |
| mid, 77 kB | quicker | 2 (2, 2) | 0.5 |
"""


def test_the_page_and_the_readme_are_what_the_results_give() -> None:
    remedy = "python bench/performance_page.py makes it again"
    assert (ROOT / "docs" / "performance.md").read_text() == page(RESULTS), remedy
    made = (ROOT / "README.md").read_text().partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    assert made == readme_table(RESULTS), remedy


def test_the_newest_result_of_a_kind_is_shown_and_what_others_win_is_listed(tmp_path: Path) -> None:
    for day in ("2026-01-09", "2026-01-10"):
        (tmp_path / f"{day}-reading-peers.md").write_text(PEERS.format(day=day))
    made = page(tmp_path)
    assert "4 (2026-01-10)" in made
    assert "2026-01-09" not in made
    won = made.partition("## Where others need less\n")[2]
    assert "mid, 77 kB: quicker takes 0.5 of what dateshard takes" in won
    assert "slower" not in won
    assert "4 (2026-01-10)" in readme_table(tmp_path)


def test_a_goal_is_held_where_its_three_newest_results_hold_it(tmp_path: Path) -> None:
    names = ("2026-01-08", "2026-01-09-2355", "2026-01-09", "2026-01-10-0007")  # the oldest stands first, but for one
    for name, times in zip(names, (99, 12, 7, 30), strict=True):
        lines = (f"| {shape}, 77 kB | grain | 1 | {times} |" for shape in ("mid", "long"))
        heads = "| windows | who | CPU us a window | times dateshard's |\n| --- | --- | --- | --- |"
        (tmp_path / f"{name}-reading-peers.md").write_text("\n".join([f"Read, {name}\n", heads, *lines]))
    rows = {line.split(" | ")[0]: line for line in "\n".join(goals(tmp_path)).splitlines()}
    times, whens = "7, 12, 30", "2026-01-09, 23:55, 2026-01-10 00:07"
    assert rows["| grain, 77 kB: times our CPU"].endswith(f"| ≥ 5 | {times} | {whens} | yes |")
    assert f"| ≥ 20 | {times} | {whens} | 1 of 3" in rows["| grain, 5 kB: times our CPU"]


@pytest.mark.parametrize("goal", [goal for each in GOALS.values() for goal in each if "kind" in goal], ids=str)
def test_the_newest_result_has_the_figure_of_every_goal(goal: dict[str, Any]) -> None:
    (newest,) = kept(RESULTS, goal["kind"])[-1:]
    assert value(newest, goal) is not None
    assert goal["kind"] in KINDS


def test_a_figure_from_before_a_script_measured_this_is_left_out(tmp_path: Path) -> None:
    for name in ("2026-11-30-0359", "2026-11-30-0428"):
        row = f"| ett | resident block + time codes | 0.{name[-2:]} | 1% |"
        heads = "| shape | way | CPU us a window (min - max) | share of memcpy (median) |\n|---|---|---|---|"
        (tmp_path / f"{name}-reader.md").write_text(f"Read\n\n{heads}\n{row}\n")
    (line,) = (line for line in "\n".join(goals(tmp_path)).splitlines() if line.startswith("| 12.1 kB with"))
    assert line.endswith("| ≤ 0.8 | 0.28 | 2026-11-30 04:28 | yes |")


def test_tests_that_hold_a_goal_are_there() -> None:
    named = [name for each in GOALS.values() for goal in each for name in goal.get("tests", "").split(", ") if name]
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_what_the_page_shows_is_what_the_runner_measures() -> None:
    shown = {kind for kinds in SECTIONS.values() for kind in kinds}
    assert shown <= KINDS.keys()
    assert {one.words[0] for one in KINDS.values()} <= {path.name for path in (ROOT / "bench").glob("*.py")}


def test_every_picture_of_the_page_is_there() -> None:
    named = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "docs" / "performance.md").read_text())
    assert named
    assert all((ROOT / "docs" / name).is_file() for name in named)


@pytest.mark.parametrize(("exponent", "told"), [(1.0, "1.00"), (2.0, "2.00"), (0.5, "0.50"), (0.0, "flat")])
def test_the_growth_of_a_cost_is_told_beside_a_fixed_one(exponent: float, told: str) -> None:
    assert power({times: 3.0 + 0.2 * times**exponent for times in TIMES}) == told
