"""Nobody's last date is validation when it is almost empty; and how much of each split was observed is told."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dateshard.cli import run
from dateshard.insight.observed_shares import observed_cells, percent, thin_splits
from dateshard.pipeline.execution import measuring, merging
from dateshard.pipeline.planning.plan import Plan, Wish
from dateshard.pipeline.planning.preview import look
from dateshard.pipeline.splits import default_split
from dateshard.shardstore.commit import load_sources
from dateshard.shardstore.coverage.observed import ObservedCells
from dateshard.shardstore.sources import SourceRow

DATES = [dt.date(2024, 3, day) for day in range(1, 6)]
LAST = DATES[-1]
WHY = "Validation is 2024-03-04, not the last date: 2024-03-05 is almost empty"


def plan_of(world: Any) -> Plan:
    return look(world.settings.preparing(), world.store, Wish())[0]


def validation_of(world: Any) -> str:
    ((first, last),) = world.open().manifest.split["validation"]
    assert first == last
    return str(first)


def keep(world: Any, date: dt.date, rows: list[Any]) -> None:
    world.rows[date] = rows
    world.write(date)


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Five dates; of the last one step was observed, as of data that are stamped with the end of an interval."""
    made = make_world(5, training={"epochs": 1, "batch_size": 64})
    keep(made, LAST, made.rows[LAST][:2])
    return made


@pytest.mark.parametrize(
    ("weights", "validation"),
    [
        ([10, 10, 10, 10, 10], 4),
        ([10, 10, 10, 10, 5], 4),
        ([10, 10, 10, 10, 4], 3),
        ([10, 10, 10, 1, 2], 2),
        ([10, 90, 50, 24, 0], 2),  # the median date before it counts, not the largest
        ([10, 0, 0, 0, 0], 4),  # none is left
        ([None, None, None, None, 1], 4),  # nothing is known of those before
        ([10, 10, 10, None, 1], 3),
    ],
)
def test_validation_is_the_last_date_with_half_of_what_a_training_date_holds(
    weights: list[int | None], validation: int
) -> None:
    known = {date: weight for date, weight in zip(DATES, weights, strict=True) if weight is not None}
    expected = {"train": ((DATES[0], DATES[validation - 1]),), "validation": ((DATES[validation],) * 2,)}
    assert default_split(DATES, known) == expected
    assert default_split(DATES[:1], known) == {"train": ((DATES[0], DATES[0]),)}


def test_an_almost_empty_last_date_is_not_the_default_validation(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["preprocess", "-c", str(world.config_file()), "--workers", "1"]
    assert run(command) == 0
    told = capsys.readouterr().out
    assert f"{WHY} (4 observed cells, a training date has 144) and in no split. pipeline.split decides" in told
    assert validation_of(world) == "2024-03-04"
    assert [str(date) for date, _ in world.open().statistics.sources] == ["2024-03-01", "2024-03-02", "2024-03-03"]
    assert (plan_of(world).to_measure, plan_of(world).to_normalise, plan_of(world).merge) == ([], [], "")
    assert run([*command, "--json"]) == 0  # says it again, and does nothing
    assert any(WHY in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert world.open().generation == 1


def test_a_date_of_rows_without_values_holds_nothing(make_world: Callable[..., Any]) -> None:
    world = make_world(4, missing=0.0)
    world.tree["pipeline"]["features"] = {"speed": {}}
    date = max(world.rows)
    keep(world, date, [(at, node, None, volume) for at, node, _, volume in world.rows[date]])
    done = world.prepare()
    assert validation_of(world) == "2024-03-03"
    assert done.empty == (date,)


def test_where_all_is_counted_rows_tell_whether_a_date_is_almost_empty(world: Any) -> None:
    world.tree["pipeline"]["features"] = {"rows": {"aggregate": "count"}}
    world.prepare()
    assert validation_of(world) == "2024-03-04"


def test_a_date_that_is_appended_almost_empty_takes_no_split_with_it(world: Any) -> None:
    rows = world.rows.pop(LAST)
    world.dump(LAST).unlink()
    world.prepare()
    before = world.open().manifest.split
    keep(world, LAST, rows)
    world.prepare()
    assert world.open().manifest.split == before


def test_a_killed_run_weighs_what_it_had_measured(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging, "merge_statistics", killed)
        with pytest.raises(KeyboardInterrupt):
            world.prepare()
    assert world.prepare().measured == 0
    assert validation_of(world) == "2024-03-04"


def test_a_store_of_an_older_version_is_weighed_by_its_rows(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_counts(world, monkeypatch)
    assert any(WHY in remark for remark in plan_of(world).remarks)


def forget_counts(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepares as a version did that kept no counts."""
    from dateshard.pipeline import account

    honest = account.source_row

    def bare(*given: Any, **more: Any) -> SourceRow:
        return honest(*given, **more)._replace(observed=None, weight=None)

    with monkeypatch.context() as before:
        before.setattr(account, "source_row", bare)
        before.setattr(measuring, "all_weights", lambda *_: {})
        world.prepare()


def test_shares_are_the_masks_own_whoever_counted_them(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tree["pipeline"]["split"] = {"train": "..2024-03-03", "validation": "2024-03-04", "test": "2024-03-05"}
    forget_counts(world, monkeypatch)
    read = observed_cells(world.open(), (0,))
    world.prepare(force=True)
    assert all(row.observed for row in load_sources(world.store, world.open().generation).dates.values())
    dataset = world.open()
    assert observed_cells(dataset, (0,)) == read
    for split, cells in read.items():
        dates = [day.date for day in dataset.days if dataset.manifest.split_of(day.date) == split]
        masks = [np.empty((24, 3, 2), dtype=bool) for _ in dates]
        for date, mask in zip(dates, masks, strict=True):
            dataset.read_observed(date, slice(0, 24), mask)
        masks = [mask[..., 0] for mask in masks]
        assert cells == ObservedCells(sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks))


def test_every_split_is_told_and_an_almost_empty_one_is_warned_of(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world.tree["pipeline"]["split"] = {"train": "..2024-03-04", "validation": "2024-03-05"}
    config = str(world.config_file())
    warning = "warning: validation has only"
    assert run(["preprocess", "-c", config, "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "observed cells: train 99.8 %, validation 3 %" in told
    assert warning in told
    assert run(["train", "-c", config, "--run", "a"]) == 0
    told = capsys.readouterr().out
    assert "observed target cells: train 99.8 %, validation 3 %" in told
    assert warning in told
    assert run(["evaluate", "a", "--split", "validation", "--baselines", "repeat"]) == 0
    told = capsys.readouterr().out
    assert "observed target cells: train 99.8 %, validation 3 %" in told
    assert warning in told
    assert run(["evaluate", "a", "--split", "validation", "--baselines", "repeat", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["observed"]["validation"] == pytest.approx(0.0278, abs=1e-4)


def test_a_share_says_100_of_all_alone_and_0_of_none_alone() -> None:
    shown = [percent(ObservedCells(observed, 10_000)) for observed in (0, 1, 9, 100, 150, 9_800, 9_949, 9_999, 10_000)]
    assert shown == ["0 %", "< 0.1 %", "0.1 %", "1.0 %", "2 %", "98 %", "99.5 %", "99.9 %", "100 %"]


def test_a_split_as_sparse_as_training_is_not_warned_of() -> None:
    assert thin_splits({"train": ObservedCells(8, 100), "validation": ObservedCells(1, 100)}) == []
    (told,) = thin_splits({"train": ObservedCells(90, 100), "validation": ObservedCells(8, 100)})
    assert told.startswith("validation has only 8 of its 100 cells")
