"""Events through the pipeline: what a date becomes, splits of subjects, reruns and refits, bad input."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xarray
from pydantic import ValidationError

import dateshard
from dateshard.insight.survey import DataSurvey, reference
from dateshard.pipeline.arrays import reduce
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.decode import decode
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.split_runs import runs_of
from tests.conftest import World
from tests.kit.events import FIRST, NS, Record, event_world, in_order, make_records, write

DATES = [FIRST + dt.timedelta(days=k) for k in range(4)]
CUTS = ("ann", "bo", "cy", "dö")
MINUTE = 60 * NS
AHEAD = {
    "value": {"aggregate": "last", "scale": "none"},
    "gap": {"aggregate": "gap", "scale": "none"},
    "soon": {"aggregate": "count", "ahead": "90m", "scale": "none"},
    "load": {"column": "value", "aggregate": "sum", "ahead": "90m", "scale": "none"},
    "level": {"column": "value", "aggregate": "mean", "ahead": "90m", "scale": "none"},
    "latest": {"column": "value", "aggregate": "last", "ahead": "90m", "scale": "none"},
}
BY = {"by": "session", "train": ["ann", "bo"], "validation": ["cy"], "test": ["dö"]}


def records_of(dates: list[dt.date], count: int = 60) -> dict[dt.date, list[Record]]:
    return {date: make_records(date, count, CUTS, 11) for date in dates}


def plain(rows: list[Record], *, cut: bool, day_end: int) -> list[list[float]]:
    """value, gap, soon, load, level, latest of each record in order, NaN where it is not known."""
    made = []
    ordered = in_order(rows, cut=cut)
    for place, row in enumerate(ordered):
        own = [other for other in ordered if not cut or other.cut == row.cut]
        before = ordered[place - 1] if place and (not cut or ordered[place - 1].cut == row.cut) else None
        later = [other for other in ordered[place:] if other in own and other.time < row.time + 90 * MINUTE]
        over = row.time + 90 * MINUTE <= (own[-1].time if cut else day_end)
        values = [other.value for other in later]
        ahead = [len(later), sum(values), sum(values) / len(values), values[-1]] if over else [np.nan] * 4
        made.append([row.value, (row.time - before.time) / NS if before else np.nan, *ahead])
    return made


@pytest.mark.parametrize("cut", [True, False])
def test_a_shard_holds_each_record_its_gap_and_what_comes(tmp_path: Path, cut: bool) -> None:
    records = records_of(DATES)
    world = event_world(
        tmp_path, records, cut=cut, features=AHEAD, split={"train": "..latest-1", "validation": "latest"}
    )
    assert not world.prepare().failed
    dataset = world.open()
    for day in dataset.days:
        wanted = np.array(plain(records[day.date], cut=cut, day_end=day.end))
        arrays = dataset.arrays(day.date)
        assert arrays["time"].tolist() == [row.time for row in in_order(records[day.date], cut=cut)]
        seen = arrays["observed"][:, 0]
        assert np.array_equal(seen, ~np.isnan(wanted))
        assert np.allclose(arrays["values"][:, 0][seen], wanted[seen].astype(np.float32), rtol=1e-6)
        if cut:
            cuts = dataset.cuts(day)
            names = [row.cut for row in in_order(records[day.date], cut=True)]
            assert list(cuts.names) == sorted(set(names), key=str.encode)
            assert [names[start] for start in cuts.starts] == list(cuts.names)
    assert [error for _, error in dataset.verify(full=True) if error] == []


def store_bytes(world: World) -> dict[str, bytes]:
    """What equal data must give equal bytes of: shards, statistics, and the manifest in force."""
    dataset = world.open()
    manifest = json.dumps(dataset.manifest.to_json(), sort_keys=True).encode()
    folders = [
        world.store / "shards" / str(day.date) / dataset.manifest.dates[day.date].parts[0].id for day in dataset.days
    ]
    folders.append(world.store / "statistics" / dataset.manifest.statistics)
    files = {
        str(p.relative_to(world.store)): p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()
    }
    return files | {"manifest": manifest}


SCALED = {"value": {"transform": "none"}, "gap": {"aggregate": "gap", "scale": "robust"}}


def training_values(
    world: World, dataset: Dataset, cuts: set[str], records: dict[dt.date, list[Record]]
) -> list[float]:
    return [row.value for date in sorted(records) for row in records[date] if row.cut in cuts]


def test_statistics_are_of_training_subjects_alone_and_a_refit_equals_a_fresh_run(tmp_path: Path) -> None:
    records = records_of(DATES)
    records[DATES[2]] = [
        row for row in records[DATES[2]] if row.cut not in ("ann", "bo")
    ]  # a date without training rows
    first = event_world(tmp_path / "a", records, cut=True, features=SCALED, split=BY)
    assert not first.prepare().failed
    values = training_values(first, first.open(), {"ann", "bo"}, records)
    moments = first.open().statistics.merged.moments_6NF[:, 0, 0]
    assert moments[0] == len(values)
    assert moments[1] + moments[2] == pytest.approx(np.mean(values), rel=1e-12)
    assert moments[3] == pytest.approx(np.var(values) * len(values), rel=1e-9)

    before = first.open().manifest.normalise
    first.tree["pipeline"]["split"] = BY | {"train": ["ann", "cy"], "validation": ["bo"]}
    assert not first.prepare().failed
    assert first.open().manifest.normalise != before
    second = event_world(tmp_path / "b", records, cut=True, features=SCALED, split=first.tree["pipeline"]["split"])
    assert not second.prepare().failed
    assert store_bytes(first) == store_bytes(second)
    assert [error for _, error in first.open().verify(full=True) if error] == []


def test_fractions_of_subjects_are_frozen_and_a_new_subject_is_in_no_split(tmp_path: Path) -> None:
    fractions = {"by": "session", "train": 0.5, "validation": 0.25, "test": 0.25}
    world = event_world(tmp_path, records_of(DATES[:3]), cut=True, split=fractions)
    assert not world.prepare().failed
    frozen = world.open().manifest.split_cuts
    assert sorted(len(names) for names in frozen.values()) == [1, 1, 2]
    assert sorted(name for names in frozen.values() for name in names) == sorted(CUTS)
    assert "nothing to do" in world.run("preprocess", "-c", str(world.config_file())).stdout
    later = make_records(DATES[3], 40, ("new", *CUTS), 3)
    write(world, DATES[3], later)
    done = world.run("preprocess", "-c", str(world.config_file()))
    assert "split moves" not in done.stdout + done.stderr  # every date is of every split
    assert "+0.00e+00 sd, spread x1.000000" not in done.stdout + done.stderr
    assert world.open().manifest.split_cuts == frozen
    left, config = "1 value of 'session' in no split: new. Name them in pipeline.split", str(world.config_file())
    assert left in done.stdout
    for command in ("plan", "status"):
        assert left in world.run(command, "-c", config).stdout
        assert left in str(json.loads(world.run(command, "--json", "-c", config).stdout)["warnings"])
    assert left in str(json.loads(world.run("preprocess", "--workers", "1", "--json", "-c", config).stdout)["notes"])
    told = world.run("train", "-c", str(world.config_file()), "--run", "r").stdout
    assert "note: 1 value of 'session' in no split: new. Name them in pipeline.split" in told
    assert not world.prepare(resplit=True).failed
    moved = world.open().manifest.split_cuts
    assert sorted(name for names in moved.values() for name in names) == sorted((*CUTS, "new"))


@pytest.mark.parametrize("cut", [True, False])
def test_records_that_are_spilled_by_the_hour_give_the_same_arrays(tmp_path: Path, cut: bool) -> None:
    world = event_world(tmp_path, records_of(DATES[:1], count=3000), cut=cut, features=AHEAD)
    config = world.settings.preparing()
    made = []
    for budget in (1 << 30, 1 << 10):
        decoded = decode([world.dump(DATES[0])], DATES[0], config, None, budget, tmp_path / "spilled")
        decoded.spool.budget_bytes = 1 << 30
        made.append(reduce(decoded, config))
        assert decoded.spool.spilled == (budget == 1 << 10)
    whole, spilled = made
    assert whole.values_TNF.tobytes() == spilled.values_TNF.tobytes()
    assert {k: v.tobytes() for k, v in whole.beside.items()} == {k: v.tobytes() for k, v in spilled.beside.items()}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"step": "1h"}, "step has no meaning"),
    ({"source": {"path": "{date}.csv", "time": "t", "node": "n"}}, "layout events has no nodes: source.cut names"),
    ({"features": {"v": {"aggregate": "mean"}}}, "aggregate: mean needs ahead"),
    ({"features": {"v": {"aggregate": "max", "ahead": "30s"}}}, "aggregate must be count, sum, mean, last"),
    ({"features": {"v": {"aggregate": "gap", "column": "x"}}}, "it has no column"),
    (
        {"split": {"by": "subject", "train": ["a"]}},
        "split.by divides the cuts of records: it is 'subject', and source.cut",
    ),
    ({"layout": "grid", "step": "1h", "features": {"v": {"aggregate": "gap"}}}, "layout: events only"),
    (
        {"layout": "grid", "step": "1h", "source": {"path": "{date}.csv", "time": "t", "cut": "c"}},
        "layout: events only",
    ),
    ({"layout": "grid"}, "layout grid needs step"),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_has_no_meaning_for_a_layout_is_refused_in_one_sentence(change: dict[str, Any], says: str) -> None:
    tree = {"layout": "events", "source": {"path": "{date}.csv", "time": "t"}, "features": {"v": {}}} | change
    with pytest.raises(ValidationError) as caught:
        Pipeline.model_validate(tree)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"by": "session", "train": ["ann", "bo"], "test": ["bo"]}, "'bo' is in train and in test"),
        (
            {"by": "session", "train": ["ann", "eve"]},
            "pipeline.split.train names 'eve', and no record has it as its session",
        ),
        ({"by": "session", "train": 0.01, "test": 0.9}, "leaves no training session of 4"),
        ({"by": "session", "train": 0.5, "test": ["bo"]}, "mixes fractions"),
    ],
)
def test_a_split_that_leaks_or_names_nobody_is_refused(tmp_path: Path, split: dict[str, Any], says: str) -> None:
    world = event_world(tmp_path, records_of(DATES[:2]), cut=True, split=split)
    done = world.run("preprocess", "-c", str(world.config_file()), code=None)
    assert done.returncode != 0
    assert says in done.stderr
    assert not (world.store / "CURRENT").exists()


def test_records_without_a_cut_are_told_with_file_and_row(tmp_path: Path) -> None:
    world = event_world(tmp_path, records_of(DATES[:2]), cut=True, split=BY)
    path = world.dump(DATES[1])
    path.write_text(path.read_text().replace("session", "seance", 1))
    done = world.run("preprocess", "-c", str(world.config_file()), code=None)
    assert done.returncode == 3
    assert f"{path}" in done.stdout
    assert "pipeline.source.cut" in done.stdout
    rows = path.read_text().replace("seance", "session", 1).splitlines()
    time, _, value = rows[3].split(",")
    rows[3] = f"{time},,{value}"
    path.write_text("\n".join(rows) + "\n")
    config = str(world.config_file())
    done = world.run("preprocess", "--workers", "1", "-c", config, code=None)
    assert "without a value of 'session' (source.cut)" in done.stdout
    assert "row 4" in done.stdout
    assert "Set pipeline.source.faults.missing_node: drop" in done.stdout  # as it says
    done = world.run("preprocess", "--workers", "1", "-c", config, "pipeline.source.faults.missing_node=drop")
    assert "rejected  1  without a value of 'session' (source.cut)" in done.stdout


def test_a_training_over_events_is_judged_resumed_and_tells_its_cuts(tmp_path: Path) -> None:
    world = event_world(
        tmp_path, records_of(DATES, 300), cut=True, split=BY, window={"history": "4h", "most": 6, "horizon": 1}
    )
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    told = world.run("train", "--run", "r", "-c", config).stdout
    assert "2 train + 1 validation values of 'session'" in told
    assert "histories of 4h, at most 6 records:" in told
    judged = json.loads(world.run("evaluate", "r", "--json").stdout)
    assert judged["split"] == "test"
    assert {row["name"] for row in judged["rows"]} == {"mlp", "repeat", "mean", "ridge"}
    assert {(row["cuts"], row["low"]) for row in judged["comparisons"]} == {(1, None)}
    held = json.loads(world.run("evaluate", "r", "--split", "validation", "--json").stdout)
    shown = json.loads(world.run("checkpoints", "info", "r", "best", "--json").stdout)
    (mine,) = (row for row in held["rows"] if row["name"] == "mlp")
    assert mine["scaled"]["mse"] == pytest.approx(shown["val_loss"], rel=1e-6)  # the same windows as in training
    refused = world.run("evaluate", "r", "--baselines", "ridge:6", code=None)
    assert "needs windows of one length" in refused.stderr


def test_other_libraries_read_a_shard_of_events(tmp_path: Path) -> None:
    records = records_of(DATES[:2])
    world = event_world(tmp_path, records, cut=True, split={"train": str(DATES[0]), "validation": str(DATES[1])})
    world.tree["pipeline"]["store"] = {"formats": ["zarr", "parquet"]}
    assert not world.prepare().failed
    dataset = world.open()
    day = dataset.days[0]
    (part,) = dataset.manifest.dates[day.date].parts
    rows = in_order(records[day.date], cut=True)
    with xarray.open_zarr(world.store / "shards" / str(day.date) / part.id, consolidated=False) as group:
        assert group["values"].dims == ("time", "node", "feature")
        assert group["values"][:, 0, 0].values.tolist() == [row.value for row in rows]
        assert json.loads(group["cut_names"].values.tobytes()) == list(dataset.cuts(day).names)
    stored = part.formats["parquet"]
    assert stored is not None
    frame = pl.read_parquet(world.store / "parquet" / str(day.date) / stored.folder / f"{day.date}.parquet")
    assert frame["cut"].to_list() == [row.cut for row in rows]
    assert frame["time"].cast(pl.Int64).to_list() == [row.time for row in rows]


def test_a_store_of_parquet_alone_trains_on_the_same_windows(tmp_path: Path) -> None:
    orders = []
    for formats in (["zarr"], ["parquet"]):
        world = event_world(tmp_path / formats[0], records_of(DATES), cut=True, split=BY)
        world.tree["pipeline"]["store"] = {"formats": formats}
        config = str(world.config_file())
        world.run("preprocess", "-c", config)
        world.run("train", "-c", config, "--run", "r")
        lines = (world.folder / "data" / "runs" / "r" / "metrics.jsonl").read_text().splitlines()
        orders.append([json.loads(line).get("loss") for line in lines])
    assert len(orders[0]) > 4
    assert orders[0] == orders[1]


def test_an_export_names_the_cut_and_the_instant_of_each_record(tmp_path: Path) -> None:
    records = records_of(DATES[:2])
    world = event_world(tmp_path, records, cut=True, split={"train": str(DATES[0]), "validation": str(DATES[1])})
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    world.run("export", str(DATES[0]), "--to", "parquet", "--out", str(tmp_path / "out"), "-c", config)
    frame, rows = pl.read_parquet(tmp_path / "out" / f"{DATES[0]}.parquet"), in_order(records[DATES[0]], cut=True)
    assert frame["session"].to_list() == [row.cut for row in rows]
    assert frame["time_utc"].cast(pl.Int64).to_list() == [row.time for row in rows]
    assert frame["value"].to_list() == [row.value for row in rows]


def test_windows_of_a_split_are_of_its_own_people(tmp_path: Path) -> None:
    records = records_of(DATES, 200)
    world = event_world(tmp_path, records, cut=True, split=BY)
    assert not world.prepare().failed
    dataset, window = world.open(), Window(3, 1)
    of = {row.value: row.cut for rows in records.values() for row in rows}
    for split, names in (("train", {"ann", "bo"}), ("validation", {"cy"}), ("test", {"dö"})):
        order = Order(runs=tuple(runs_of(dataset, split, window, None)), stride=1, batch_size=8, seed=1)
        seen = set[str]()
        for batch in Reader(dataset, order, BatchForm(window=window, inputs=(0,), targets=(0,))).batches(0):
            seen |= {of[value] for value in batch.history_BHNF.ravel().tolist() + batch.target_BPNF.ravel().tolist()}
        assert seen == names


def test_the_page_of_the_data_says_what_records_are_and_whose(tmp_path: Path) -> None:
    world = event_world(tmp_path, records_of(DATES), cut=True, features=AHEAD, split=BY)
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    world.run("report", "--data", "-o", str(tmp_path / "page.html"), "-c", config)
    page = html.unescape((tmp_path / "page.html").read_text())
    for words in (
        "records as they come",
        "each record's own value",
        "seconds since the record before",
        "count of the records of the next 5400 s",
        "values of 'session'",
        "2: ann, bo",
        "lost at cuts",
        "rows that lie in any window of the training part",
    ):
        assert words in page


def test_no_command_speaks_of_training_dates_where_people_are_divided(tmp_path: Path) -> None:
    world = event_world(
        tmp_path, records_of(DATES[:3]), cut=True, features={"value": {}}, split=BY, training={"epochs": 1}
    )
    config = str(world.config_file())
    said = [world.run("preprocess", "--workers", "1", "-c", config).stdout]
    write(world, DATES[0], make_records(DATES[0], 40, CUTS, 12))
    said.append(world.run("plan", "-c", config).stdout)
    assert f"{DATES[0]} has training records: the frozen statistics are kept" in said[-1]
    commands = (
        ("preprocess", "--workers", "1"),
        ("preprocess", "--refit-statistics", "--workers", "1"),
        ("status",),
        ("inspect",),
        ("statistics", "--drift"),
        ("diff", "g1", "g3"),
        ("report", "--data", "-o", str(tmp_path / "page.html")),
        ("train", "--run", "r"),
    )
    said += [world.run(*words, "-c", config).stdout for words in commands]
    said.append(world.run("evaluate", "r").stdout)
    said.append(html.unescape((tmp_path / "page.html").read_text()))
    said.append(repr(dateshard.open(world.store)))
    for text in said:
        assert not re.search(r"(?<!\+ )\b1 (dates|nodes|records|rows|windows|values|features|files)\b", text), text
        assert not re.search(r"training dates?\b|train:? 2024-|\btrain +\d+ dates|[Oo]ther dates", text), text
    assert "merged over the training records of 3 dates" in said[0]
    assert "(train: 2 values of 'session')" in said[4]
    drift = json.loads(world.run("statistics", "--drift", "--json", "-c", config).stdout)["drift"]
    assert {row["split"] for row in drift} == {None}
    assert "training records" in said[-2]
    assert "other records" in said[-2]


def test_drift_is_told_from_training_people_alone(tmp_path: Path) -> None:
    """One date holds what the training people have on both, beside a test person who is far away."""
    near = {date: [r for r in make_records(date, 60, CUTS, 11) if r.cut in ("ann", "bo")] for date in DATES[:2]}
    far = [Record(r.time, "dö", 1e6) for r in near[DATES[0]]]
    rows = {DATES[0]: [*near[DATES[0]], *far], DATES[1]: near[DATES[1]]}
    world = event_world(tmp_path, rows, cut=True, features={"value": {}}, split={**BY, "validation": None})
    assert not world.prepare().failed
    survey = DataSurvey(dataset=world.open())
    for date in DATES[:2]:
        survey.add(date)
    training = sum(len(own) for own in near.values())
    assert int(reference(survey, 0).sum()) == training
    assert int(survey.train_bins[0].sum()) == training
    assert int(survey.other_bins[0].sum()) == len(far)


def test_a_category_of_test_people_alone_is_unseen(tmp_path: Path) -> None:
    features = {"value": {"scale": "none"}, "who": {"column": "session2", "categorical": True}}
    world = event_world(tmp_path, records_of(DATES), cut=True, features=features, split=BY)
    for date in DATES:
        header, *lines = world.dump(date).read_text().splitlines()
        world.dump(date).write_text(
            "\n".join([f"{header},session2", *(f"{x},{x.split(',')[1]}" for x in lines)]) + "\n"
        )
    assert not world.prepare().failed
    dataset = world.open()
    assert dataset.vocabularies.names == {"who": ("ann", "bo")}
    for day in dataset.days:
        cuts, codes = dataset.cuts(day), np.asarray(dataset.arrays(day.date)["values"])[:, 0, 1]
        assert [int(codes[start]) for start in cuts.starts] == [{"ann": 1, "bo": 2}.get(name, 0) for name in cuts.names]
