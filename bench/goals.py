"""The figures to reach (goals.toml) beside those of the three newest results of each kind, for docs/performance.md.

A goal is held where all of these hold it. A kind without a result, or whose results lack the row, is left out.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

from bench.dated import DatedResult, cell, cells, figure, kept, table

GOALS: dict[str, list[dict[str, Any]]] = tomllib.loads((Path(__file__).parent / "goals.toml").read_text())
TIMES = 3
ABOUT = """## The goals

What dateshard wants to reach, and what was measured at up to three separate times, the newest last: figures of the tables
below and of older results of the same scripts. A row is *held* where every one of them holds.
"""


def goals(results: Path) -> list[str]:
    """The Markdown of this section, a table each for reading, preparing and training."""
    tables = {section: [row for goal in each if (row := _row(results, goal))] for section, each in GOALS.items()}
    heads = ("what", "goal", "measured", "when", "held")
    made = [f"**{section}**\n\n{table(heads, rows)}" for section, rows in tables.items() if rows]
    return [ABOUT, *made] if made else []


def _row(results: Path, goal: dict[str, Any]) -> list[str] | None:
    if "tests" in goal:
        return [goal["what"], goal["goal"], f"tests: {goal['tests']}", "every change", "yes"]
    results_since = [result for result in kept(results, goal["kind"]) if result.when >= goal.get("since", "")]
    measured = [(result.when, number) for result in results_since if (number := value(result, goal)) is not None]
    if not measured:
        return None
    newest = measured[-TIMES:]
    least = "at_least" in goal
    limit = goal["at_least" if least else "at_most"]
    holds = [number >= limit if least else number <= limit for _, number in newest]
    held = "yes" if all(holds) else f"{sum(holds)} of {len(holds)}" if any(holds) else "no"
    if "why" in goal and not all(holds):
        held += f": {goal['why']}"
    asked, figures = f"{'≥' if least else '≤'} {figure(limit)}", ", ".join(figure(number) for _, number in newest)
    return [goal["what"], asked, figures, _whens([when for when, _ in newest]), held]


def _whens(whens: list[str]) -> str:
    """The days and times of day, a day told once where the next times are of the same."""
    told = [when.removeprefix(f"{before[:10]} ") for before, when in zip(["", *whens], whens, strict=False)]
    return ", ".join(dict.fromkeys(told))


def value(result: DatedResult, goal: dict[str, Any]) -> float | None:
    """The figure of a goal in one result, of several rows the one furthest from the goal; None if its cell is not there."""
    under, numbers = goal.get("over", {}), list[float]()
    for text, row in cells(result, (goal["head"], goal["row"])):
        number, divisor = _number(text, goal), 1.0
        if under:
            head = under.get("head", goal["head"])
            text_under = cell(result, (head, under["row"])) if "row" in under else row[head]
            divisor = _number(text_under, goal) or math.nan
        if number is not None and not math.isnan(divisor):
            numbers.append(number / divisor)
        if not goal.get("all"):
            break
    return (min if "at_least" in goal else max)(numbers) if numbers else None


def _number(text: str | None, goal: dict[str, Any]) -> float | None:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text or "")
    return float(numbers[goal.get("number", 0)].replace(",", "")) if numbers else None
