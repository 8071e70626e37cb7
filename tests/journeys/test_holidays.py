"""Public holidays as a feature: where it comes from, what it holds, and that a model knows it ahead."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dateshard.judging.prediction import PredictRequest, predict_run
from dateshard.shardstore.errors import UsageError
from tests.conftest import World, build_world
from tests.kit.events import FIRST, event_world, make_records
from tests.kit.untrained import untrained

DATES = [dt.date(2024, 7, day) for day in range(2, 7)]
SPLIT = {"train": "2024-07-02..2024-07-04", "validation": "2024-07-05", "test": "2024-07-06"}
INDEPENDENCE = dt.date(2024, 7, 4)


def world_of(folder: Path, calendar: dict[str, Any] | None, **more: Any) -> World:
    world = build_world(folder, DATES, split=SPLIT, **more)
    if calendar:
        world.tree["pipeline"]["calendar"] = calendar
    return world


def test_a_date_says_of_every_cell_whether_it_is_a_holiday(tmp_path: Path) -> None:
    world = world_of(tmp_path, {"country": "US"})
    lonely = [
        row for row in world.rows[INDEPENDENCE] if row[1] == "n1"
    ]  # a node without a record on the date knows it too
    world.rows[INDEPENDENCE] = lonely or world.rows[INDEPENDENCE][:1]
    world.write(INDEPENDENCE)
    assert not world.prepare().failed
    dataset = world.open()
    assert dataset.feature_names == ["speed", "volume", "holiday"]
    assert [feature.future for feature in dataset.features] == [False, False, True]
    for day in dataset.days:
        values, seen = dataset.read_day(day)
        assert (values[..., 2] == float(day.date == INDEPENDENCE)).all()
        assert seen[..., 2].all()
    assert "nothing to do" in world.run("preprocess", "-c", str(world.config_file())).stdout
    world.tree["pipeline"]["calendar"] = {"country": "DE", "subdivision": "BY"}
    assert not world.prepare().failed
    assert not any(world.open().read_day(day)[0][..., 2].any() for day in world.open().days)


def test_events_have_it_too(tmp_path: Path) -> None:
    records = {FIRST: make_records(FIRST, 20, ("a",), 1), INDEPENDENCE: make_records(INDEPENDENCE, 20, ("a",), 1)}
    world = event_world(tmp_path, records, cut=True, split={"train": str(FIRST), "validation": str(INDEPENDENCE)})
    world.tree["pipeline"]["calendar"] = {"country": "US"}
    assert not world.prepare().failed
    dataset = world.open()
    assert [float(np.asarray(dataset.map(day.date))[..., 2].mean()) for day in dataset.days] == [0.0, 1.0]


def test_a_holiday_that_comes_needs_no_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, {"country": "US"}, window={"history": 12, "horizon": 6})
    assert not world.prepare().failed
    with monkeypatch.context() as patch:
        import torch

        patch.setattr(torch.nn.init, "zeros_", lambda tensor: tensor)
        untrained(world.settings.trainer, world, "r")
    monkeypatch.chdir(tmp_path)
    dataset = world.open()
    before = [(INDEPENDENCE - dt.timedelta(days=1)), INDEPENDENCE]
    made = predict_run(PredictRequest(run="r", at=str(INDEPENDENCE), interval=None))
    values = np.asarray(dataset.map(before[0]))[-12:].copy()
    codes = np.concatenate([dataset.codes(dataset.manifest.day(date)) for date in before])[12:][:18]
    seen = dataset.read_day(dataset.manifest.day(before[0]))[1][-12:]
    for holiday, same in ((1.0, True), (0.0, False)):
        ahead = np.full((6, dataset.manifest.num_nodes, 1), holiday, dtype=np.float32)
        scaled, _ = made.forecaster.of_window(values, codes, seen, ahead)
        raw = dataset.scale.undo(np.pad(scaled, ((0, 0), (0, 0), (0, 1))))[..., :2]  # type: ignore[arg-type]
        speed = made.frame.sort("time", "node").to_dict(as_series=False)
        shown = [v for v, name in zip(speed["value"], speed["feature"], strict=True) if name == "speed"]
        assert np.allclose(shown, raw[..., 0].ravel(), rtol=1e-4) is same
    over = predict_run(PredictRequest(run="r", at="latest", interval=None))  # of a date that nothing holds
    assert over.frame.height
    lines = world.dump(DATES[4]).read_text().splitlines()  # half a day: the calendar says something of the rest, too
    half_file = tmp_path / f"half-{DATES[4]}.csv"
    half_file.write_text("\n".join(line for line in lines if "T" not in line or int(line[11:13]) < 12) + "\n")
    half = predict_run(PredictRequest(run="r", history=(half_file.name,), interval=None))
    assert half.first == f"{DATES[4]}T12:00:00+00:00"


def test_what_a_calendar_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, {"country": "XX"})
    with pytest.raises(UsageError, match=r"pipeline.calendar: Country XX not available"):
        world.prepare()
    world.tree["pipeline"]["features"]["holiday"] = {"column": "vehicles"}
    with pytest.raises((ValidationError, UsageError), match="makes the feature 'holiday'"):
        world.settings.preparing()
    world = world_of(tmp_path / "other", None)
    world.tree["pipeline"]["features"]["odd"] = {"aggregate": "calendar", "scale": "none"}
    with pytest.raises((ValidationError, UsageError), match="no other has aggregate: calendar"):
        world.settings.preparing()
    world = world_of(tmp_path / "absent", {"country": "FR"})
    monkeypatch.setitem(sys.modules, "holidays", None)
    with pytest.raises(UsageError, match=r"not installed.*dateshard\[calendar\]"):
        world.prepare()
