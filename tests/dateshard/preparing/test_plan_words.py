"""plan and status as people read them: ranges, reasons told once, bytes, time that was measured, a calendar."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.pipeline.planning.plan import DatePlan
from dateshard.preparing.pace import TimedAct as Past
from dateshard.preparing.pace import estimate
from dateshard.preparing.states import alike, grouped
from dateshard.terminal.screen import Screen
from tests.conftest import World

Run = Callable[..., Any]
Make = Callable[..., World]
FIRST = dt.date(2024, 3, 1)


def dates(count: int, first: dt.date = FIRST) -> list[dt.date]:
    return [first + dt.timedelta(days=k) for k in range(count)]


def test_reasons_that_differ_in_file_and_date_alone_are_told_once() -> None:
    reasons = {d: f"raw/{d:%d.%m.%Y}.csv, date {d}, column 'a': there is no column 'a'" for d in dates(5)}
    reasons[dates(6)[-1]] = "raw/a.csv: another fault"
    (many, first), (one, other) = alike(reasons)
    assert many == dates(5)
    assert first == reasons[FIRST] + " (the first of 5)"
    assert (one, other) == (dates(6)[-1:], "raw/a.csv: another fault")


def test_rows_and_values_with_a_fault_are_told_one_by_one() -> None:
    reasons = {d: f"raw/{d}.csv, date {d}, row {3 + d.day % 2}, column 'a', value 'x': no number" for d in dates(5)}
    assert [len(found) for found, _ in alike(reasons)] == [3, 2]
    assert [len(found) for found, _ in alike({d: f"dump changed ({d.day} kB -> 9 kB)" for d in dates(5)})] == [5]


def test_values_that_a_transform_cannot_take_are_told_once_for_all_dates(make_world: Make) -> None:
    world = make_world(5, split={"train": "..2024-03-03", "validation": "2024-03-04.."})
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    for date in sorted(world.rows)[3:]:
        instant, node, speed, _ = world.rows[date][date.day]
        world.rows[date].append((instant + 1, node, speed, -1000.0 * date.day))
        world.write(date)
    reasons = {date: str(error) for date, error in world.prepare().failed.items()}
    ((together, first),) = alike(reasons)
    assert together == sorted(world.rows)[3:]
    assert first.endswith(" (the first of 2)")


def test_states_stand_in_ranges_what_needs_work_first(terminal: Any) -> None:
    plans = [DatePlan(date=d, state="fresh", reason="nothing changed", key="k") for d in dates(20)]
    for k in (3, 7, 11):
        plans[k] = DatePlan(
            date=plans[k].date, state="stale(dump)", reason="dump changed", key="k", measure=True, normalise=True
        )
    piped = grouped(Screen(), plans, acts=True)
    assert [row[0] for row in piped] == ["stale(dump)", "fresh"]
    assert piped[0][1:] == ["2024-03-04, 2024-03-08, 2024-03-12", "3", "dump changed; measure + normalise"]
    assert piped[1][1].count("..") == 4
    terminal.of(80)
    shown = grouped(Screen(), plans, acts=True)
    assert shown[0] == piped[0]
    assert shown[1][1:] == ["2024-03-01..2024-03-20", "17", "nothing changed"]
    without_a_day = [plan for plan in plans if plan.date.day != 6]  # of which there is no dump
    assert grouped(Screen(), without_a_day, acts=True)[1][1] == "2024-03-01..2024-03-20 but 2024-03-06"
    without_days = [plan for plan in without_a_day if plan.date.day != 15]
    assert grouped(Screen(), without_days, acts=True)[1][1] == "2024-03-01..2024-03-20 but 2 days"


def test_a_wrong_column_in_all_dates_is_one_line_with_a_count(make_world: Make, ds: Run) -> None:
    world = make_world(dates=6, split={"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"})
    config = str(world.config_file())
    ds("preprocess", "-c", config, "--workers", "1")
    for date in sorted(world.rows)[1:]:
        world.dump(date).write_text(world.dump(date).read_text().replace("speed", "tempo"))
    done = ds("preprocess", "-c", config, "--workers", "1", code=3)
    assert done.out.count("there is no column 'speed'") == 1  # when the first failed
    assert (
        "5 failed alike: 2024-03-02..2024-03-06. Correct what the messages above say, then run: dateshard pre"
        in done.out
    )
    status = ds("status", "-c", config, code=4).out
    (row,) = re.findall(r"^failed\t.*", status, re.MULTILINE)
    assert row.split("\t")[1:3] == ["2024-03-02..2024-03-06", "5"]
    assert row.endswith("(the first of 5)")
    assert f"Correct the dumps that failed, then run: dateshard preprocess -c {config}" in status
    world.dump(dates(3)[2]).write_text("tempo\n")
    done = ds("preprocess", "-c", config, "--workers", "1", code=3)
    assert done.out.count("there is no column 'speed'") == 1
    assert "4 dates failed for the same reason as 2024-03-02: 2024-03-02, 2024-03-04..2024-03-06" in done.out
    assert "5 failed: 2024-03-02..2024-03-06. Correct" in done.out


def test_a_plan_tells_bytes_and_only_a_time_that_was_measured(make_world: Make, ds: Run) -> None:
    world = make_world(dates=4, split={"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"})
    config = str(world.config_file())
    before = ds("plan", "-c", config).out
    size = sum(world.dump(date).stat().st_size for date in world.rows)
    assert f"Reads {size / 1e3:.1f} kB of dumps, writes: not known yet" in before
    assert "takes an unknown time" in before
    ds("preprocess", "-c", config, "--workers", "1")
    again = ds("plan", "-c", config, "--force", "--workers", "1", "--json").document["cost"]
    assert again["read_bytes"] == size
    assert again["paced_by"] == 4
    past = json.loads(Path("data/pace/world.json").read_text())
    assert again["seconds"] == round(sum(rows[-1]["seconds"] for rows in past.values()), 1)
    folders = [world.store / name for name in ("shards", "staged", "partials")]
    written = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    assert again["written_bytes"] == pytest.approx(written, rel=0.02)
    assert "Nothing to do." in ds("plan", "-c", config).out


def test_a_pace_is_of_all_that_was_measured(make_world: Make, ds: Run) -> None:
    """Training dates are measured for the statistics where only others are asked for."""
    world = make_world(dates=4, split={"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"})
    config = str(world.config_file())
    ds("preprocess", "-c", config, "--workers", "1", "2024-03-04")
    size = sum(world.dump(date).stat().st_size for date in world.rows)
    past = json.loads(Path("data/pace/world.json").read_text())
    assert {act: [(row["work"], row["dates"]) for row in rows] for act, rows in past.items()} == {
        "measure": [(size, 4)],
        "normalise": [(1, 1)],
    }
    ds("preprocess", "-c", config, "--workers", "1", "--force")
    past = json.loads(Path("data/pace/world.json").read_text())
    assert [row["work"] for row in past["measure"]] == [size]
    assert [row["work"] for row in past["normalise"]] == [1, 4]


def test_the_estimate_follows_the_remembered_runs(tmp_path: Path) -> None:
    file = Path("data/pace/d.json")
    file.parent.mkdir(parents=True)
    runs = [Past(100, 1, 1.0, 2), Past(1100, 10, 6.0, 2)]
    rows = [{"work": r.work, "dates": r.dates, "seconds": r.seconds, "workers": r.workers} for r in runs]
    file.write_text(json.dumps({"measure": rows}))

    def told(work: int, workers: int = 2) -> tuple[float, bool]:
        found = estimate("d", {"measure": work, "normalise": 0}, workers)
        assert found is not None
        return found.seconds, found.at_most

    assert told(600) == (3.5, False)
    assert told(2200) == (12.0, False)
    assert told(10) == (1.0, True)
    assert told(2200, workers=1) == (24.0, False)
    assert estimate("d", {"measure": 5, "normalise": 1}, 2) is None  # normalising was never timed
    for damaged in ("{", "[]", '{"measure": [{"work": 0}]}', '{"measure": 3}'):
        file.write_text(damaged)
        assert estimate("d", {"measure": 5}, 2) is None


@pytest.mark.parametrize("width", [None, 80])
def test_a_calendar_reads_without_colour_at_80_columns(
    make_world: Make, ds: Run, terminal: Any, monkeypatch: pytest.MonkeyPatch, width: int | None
) -> None:
    days = [*dates(5, dt.date(2023, 12, 29)), *dates(3, dt.date(2024, 2, 27))]
    world = make_world(dates=days, split={"train": "2023-12-29..2024-01-01", "validation": "2024-01-02"})
    config = str(world.config_file())
    ds("preprocess", "-c", config, "--workers", "1", "--exclude", "2024-02-29")
    world.write(days[0])  # the same bytes
    world.dump(days[1]).write_text(world.dump(days[1]).read_text() + "2023-12-30T01:01:01+00:00,n0,1.0,2.0\n")
    world.dump(days[3]).unlink()
    if width:
        terminal.of(width)
        monkeypatch.setenv("NO_COLOR", "1")
    out = ds("status", "--calendar", "-c", config, "pipeline.exclude=[2024-02-27]", code=4).out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines()[1:-1])) <= 80
    lines = {line[2:5]: line[7:] for line in out.splitlines() if line.startswith("  ") and line[5:7] == "  "}
    assert lines["Dec"] == " " * 28 + ".s."
    assert lines["Jan"] == "k." + "-" * 29
    assert lines["Feb"] == "-" * 26 + "x.m"
    assert out.index("2023   1   5") < out.index("2024   1   5")
    counts = dict(re.findall(r"^  ([.sFm+k\-x])  +(\d+)  ", out, re.MULTILINE))
    assert counts == {".": "4", "s": "1", "m": "1", "k": "1", "-": "55", "x": "1"}


def test_a_calendar_is_coloured_on_a_terminal(
    make_world: Make, ds: Run, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    world = make_world(dates=2)
    terminal.of(80)
    assert "\x1b[35mm\x1b[0m" in ds("status", "--calendar", "-c", str(world.config_file()), code=4).out


def test_a_long_reason_goes_on_below_itself(terminal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.of(60)
    rows = [["failed", "2024-03-01", "1", "raw/a.csv: " + "word " * 20], ["fresh", "2024-03-02", "1", "数据 changed"]]
    Screen().table(rows, right=(2,), wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].startswith("  failed  2024-03-01  1  raw/a.csv: word")
    assert lines[1].startswith(" " * 25 + "word")
    assert lines[-1] == "  fresh   2024-03-02  1  数据 changed"
    terminal.of(40)
    Screen().table(rows, wrap=True)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "  failed  2024-03-01  1",
        "      raw/a.csv: word word word word",
    ]
