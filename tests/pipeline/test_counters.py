"""Counters (`aggregate: difference`): a step holds what the reading grew by, and nothing where that is not known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.cli import run
from dateshard.pipeline.arrays import stage
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.observe import observe
from tests.conftest import World

Make = Callable[..., World]
DAY = dt.date(2024, 3, 1)
NAN = float("nan")
RESET = "of the counter 'energy' below the reading before, a reset: its step made missing"
# hour: readings. Hour 4 lacks; 6 and 8 hold a reset: between steps, and between readings of one step that end above
READINGS = {
    0: [5.0, 7.0],
    1: [9.0],
    2: [9.5, 10.0],
    3: [16.0],
    5: [20.0],
    6: [1.0, 25.0],
    7: [26.0],
    8: [27.0, 0.0, 30.0],
}
GREW = {1: 2.0, 2: 1.0, 3: 6.0, 7: 1.0}


def config_of(path: Path, **source: Any) -> Pipeline:
    features = {"energy": {"column": source.pop("column", "energy"), "aggregate": "difference"}}
    given = {"path": str(path), "time": "time", **source}
    return Pipeline.model_validate({"source": given, "step": "1h", "features": features})


def lines_of(readings: dict[int, list[float]], node: str = "") -> list[str]:
    return [
        f"2024-03-01T{hour:02d}:{10 * k:02d}:00,{node}{value!r}\n"
        for hour, values in readings.items()
        for k, value in enumerate(values)
    ]


def staged_of(folder: Path, config: Pipeline) -> tuple[np.ndarray, dict[str, int]]:
    """([T, N] cells of the only feature, values that were changed by reason)."""
    seen, _, _ = observe(config, folder / "store", None)
    found = stage(seen.dumps[DAY], DAY, config, None, 1 << 30, folder / "spilled")
    return found.values_TNF[..., 0], found.rows["changed"]


def expected(grew: dict[int, float]) -> list[float]:
    return [grew.get(hour, NAN) for hour in range(24)]


def test_the_last_reading_of_a_step_less_that_of_the_step_before(tmp_path: Path) -> None:
    (tmp_path / "2024-03-01.csv").write_text("".join(["time,energy\n", *lines_of(READINGS)]))
    cells, changed = staged_of(tmp_path, config_of(tmp_path / "{date}.csv", node_name="meter"))
    np.testing.assert_array_equal(cells[:, 0], expected(GREW))
    assert changed == {RESET: 2}


def test_each_node_has_its_own_counter_and_an_empty_reading_is_none(tmp_path: Path) -> None:
    others = {0: [100.0], 1: [101.0], 2: [50.0], 3: [60.0]}
    lines = [*lines_of(READINGS, "a,"), *lines_of(others, "b,"), "2024-03-01T01:40:00,b,\n", "2024-03-01T05:40:00,a,\n"]
    (tmp_path / "2024-03-01.csv").write_text("".join(["time,node,energy\n", *sorted(lines, reverse=True)]))
    cells, changed = staged_of(tmp_path, config_of(tmp_path / "{date}.csv", node="node"))
    np.testing.assert_array_equal(cells[:, 0], expected(GREW))
    np.testing.assert_array_equal(cells[:, 1], expected({1: 1.0, 3: 10.0}))
    assert sum(changed.values()) == 3


def test_a_wide_dump_has_a_counter_a_column(tmp_path: Path) -> None:
    rows = [f"2024-03-01T{hour:02d}:00:00,{hour * hour},{1000 - (hour == 5) * 7 + hour}\n" for hour in range(24)]
    (tmp_path / "2024-03-01.csv").write_text("".join(["time,a,b\n", *rows]))
    config = config_of(tmp_path / "{date}.csv", wide={"value": "kwh"}, column="kwh")
    cells, changed = staged_of(tmp_path, config)
    np.testing.assert_array_equal(cells[:, 0], [NAN, *(2.0 * hour - 1 for hour in range(1, 24))])
    np.testing.assert_array_equal(cells[:, 1], [NAN, *[1.0] * 4, NAN, 8.0, *[1.0] * 17])
    assert changed == {RESET: 1}


def test_a_reset_at_a_stretch_that_was_spilled_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2024-03-01.csv").write_text("".join(["time,energy\n", *lines_of(READINGS)]))
    config = config_of(tmp_path / "{date}.csv", node_name="meter")
    whole, told = staged_of(tmp_path, config)
    monkeypatch.setattr("dateshard.pipeline.arrays.record_budget", lambda *_: 1)
    monkeypatch.setattr("dateshard.pipeline.raw.spill.READING_BYTES", 1 << 20)
    cells, changed = staged_of(tmp_path, config)
    assert (tmp_path / "spilled").exists()
    assert (cells.tobytes(), changed) == (whole.tobytes(), told)


def test_every_date_is_made_of_its_own_dump_and_resets_are_told(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(3, missing=0, split={"train": "..latest-1", "validation": "latest"})
    for date, rows in world.rows.items():
        total = {"n0": 0.0, "n1": 0.0, "n2": 0.0}
        for k, (at, node, _, _) in enumerate(rows):
            total[node] += 2.0
            rows[k] = (at, node, total[node], 0.0)
        world.write(date)
    last = max(world.rows)
    lines = world.dump(last).read_text().splitlines()
    lines[60] = lines[60].rsplit(",", 2)[0] + ",0.5,0.0"
    world.dump(last).write_text("\n".join([*lines, ""]))
    feature = {"aggregate": "difference", "scale": "none"}
    world.tree["pipeline"] |= {"features": {"speed": feature}, "step": "20m"}
    assert run(["preprocess", "-c", str(world.config_file()), "--workers", "1"]) == 0
    screen = capsys.readouterr().out
    assert f"  changed  1  {RESET.replace('energy', 'speed')}\n" in screen
    values, observed = world.open().map(last), world.open().map(last, "observed")
    assert observed is not None
    assert not observed[0].any(), "the date before is not known"
    assert observed[1:].sum() == 71 * 3 - 1
    assert sorted(set(values[..., 0][observed[..., 0]].tolist())) == [2.0, 41.5]


def test_steps_shorter_than_the_readings_are_refused_because_no_growth_is_known(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(3, missing=0)
    world.tree["pipeline"] |= {"features": {"vehicles": {"aggregate": "difference"}}, "step": "5m"}
    assert run(["preprocess", "-c", str(world.config_file()), "--workers", "1"]) == 65
    told = capsys.readouterr().err
    assert "no value of any feature (vehicles) was observed in the training data (2024-03-01..2024-03-02)" in told
    assert "no step of 5m has: set a longer pipeline.step. Run: dateshard preprocess" in told


def test_a_counter_in_steps_of_a_day_is_refused_because_a_date_has_one() -> None:
    with pytest.raises(
        ValueError, match="feature 'energy': a date has one step of 1d, and nothing to take a difference to"
    ):
        Pipeline.model_validate(config_of(Path("{date}.csv")).model_dump() | {"step": "1d"})
