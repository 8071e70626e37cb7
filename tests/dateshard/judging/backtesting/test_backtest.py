"""A backtest at the command line and in Python: its origins, what it leaves alone, what it does not do twice, its page."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import dateshard
from dateshard.cli import run
from dateshard.documents import document_schema
from dateshard.judging.backtesting.backtest import run_backtest
from dateshard.judging.backtesting.backtest_plan import plan_backtest
from dateshard.pipeline.workers.stopping import Stop
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.manifest import generations
from dateshard.trainer import checkpoint, loop
from tests.conftest import World, build_world
from tests.kit.events import event_world, make_records
from tests.kit.pages import Page

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-08", "validation": "2024-03-09", "test": "2024-03-10.."}
SETTINGS: dict[str, Any] = {"training": {"epochs": 1, "batch_size": 16}, "baselines": ["repeat", "mean"]}
WORDS = ("backtest", "-c", "config.yaml", "--origins", "3", "--every", "2", "--workers", "1")


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """{path: content and instant of its last change} of all files; none where there is no folder."""
    there = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in there}


def fresh_rows(world: World, factor_from: dt.date | None = None) -> None:
    """Writes a world's dumps; from a date on with a spike, and a node that no earlier date has."""
    for date, rows in world.rows.items():
        if factor_from is not None and date >= factor_from:
            world.rows[date] = [(at, node, speed and speed * 1000, volume + 10**6) for at, node, speed, volume in rows]
            world.rows[date] += [(rows[0][0], "late", 1e6, 1.0)]
        world.write(date)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A prepared world whose dumps are gone, and a backtest of it: what lay there before, and its document."""
    world = build_world(tmp_path_factory.mktemp("backtest"), 12, split=SPLIT, **SETTINGS)
    world.config_file()
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context():
        patch.chdir(world.folder)
        world.prepare()
        shutil.move(world.folder / "raw", world.folder / "gone")  # nothing could decode a dump again
        before = files_of(world.store)
        assert run([*WORDS, "-q"]) == 0
    [folder] = (world.folder / "data" / "backtests").iterdir()
    return {"world": world, "before": before, "folder": folder}


@pytest.fixture
def here(done: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(done["world"].folder)
    folder: Path = done["folder"]
    return folder


def test_each_origin_has_the_statistics_nodes_and_shards_of_a_fresh_preprocess_with_its_split(
    done: dict[str, Any], here: Path, ds: Run, tmp_path: Path
) -> None:
    document = ds(*WORDS, "--json").document
    jsonschema.validate(document, document_schema("backtest"))
    assert [(row["origin"], row["split"]["test"]) for row in document["origins"]] == [
        (1, [["2024-03-06", "2024-03-08"]]),
        (2, [["2024-03-08", "2024-03-10"]]),
        (3, [["2024-03-10", "2024-03-12"]]),
    ]
    shutil.copytree(done["world"].folder / "gone", tmp_path / "raw")
    for row in document["origins"]:
        split = {name: "..".join(ends[0]) for name, ends in row["split"].items()}
        fresh = World(tmp_path, json.loads(json.dumps(done["world"].tree)))
        fresh.tree["dataset"], fresh.tree["pipeline"]["split"] = row["run"], split
        fresh.tree["pipeline"]["source"]["path"] = str(tmp_path / "raw" / "{date}.csv")
        fresh.prepare()
        expected, ours = fresh.open(), Dataset.open(here / "shards" / "world", row["generation"])
        assert ours.statistics.id == expected.statistics.id
        for mine, theirs in zip(ours.statistics.over_nodes, expected.statistics.over_nodes, strict=True):
            assert np.array_equal(mine, theirs)
        assert ours.nodes.names == expected.nodes.names
        last = dt.date.fromisoformat(row["split"]["test"][0][1])
        assert max(ours.manifest.dates) == last
        for date in ours.manifest.dates:
            assert np.array_equal(ours.arrays(date)["values"], expected.arrays(date)["values"])


def test_the_dataset_its_current_generation_and_the_list_of_runs_stay_as_they_were(
    done: dict[str, Any], here: Path, ds: Run
) -> None:
    world: World = done["world"]
    assert files_of(world.store) == done["before"]
    assert ds("runs", "--json").document == []
    newest = [path for path in (here / "shards" / "world" / "shards").rglob("values/*") if path.stat().st_nlink > 1]
    assert len(newest) == len(list((world.store / "shards").rglob("values/*"))) > 0  # of the configured split


def test_the_same_command_again_trains_nothing_and_prints_the_same_table(here: Path, ds: Run) -> None:
    before = files_of(here / "runs")
    table = ds(*WORDS, "-q").out
    assert files_of(here / "runs") == before
    assert table == ds(*WORDS, "-q").out
    lines = [line.split("\t") for line in table.splitlines()]
    assert [line[0] for line in lines[1:4]] == [
        "2024-03-06..2024-03-08",
        "2024-03-08..2024-03-10",
        "2024-03-10..2024-03-12",
    ]
    assert lines[1][1] == "2024-03-01..2024-03-04"


def test_the_summary_is_of_the_rows(here: Path, ds: Run) -> None:
    document = ds(*WORDS, "--json").document
    for name, key in (("score", "score"), ("baseline_score", "baseline_score"), ("gain", "gain")):
        values = [row[key] for row in document["origins"]]
        assert document["summary"][name] == pytest.approx(
            {
                "mean": np.mean(values),
                "deviation": np.std(values, ddof=1),
                "lowest": min(values),
                "highest": max(values),
            }
        )
    outcomes = [row["outcome"] for row in document["origins"]]
    assert [document["summary"][name] for name in ("beats", "loses", "unclear")] == [
        outcomes.count(name) for name in ("beats", "loses", "unclear")
    ]
    assert [row["gain"] for row in document["origins"]] == pytest.approx(
        [1 - row["score"] / row["baseline_score"] for row in document["origins"]]
    )


def test_the_table_fits_a_terminal_of_80_columns(here: Path, ds: Run, terminal: Any) -> None:
    terminal.of(80)
    out = ds(*WORDS, "-q").out
    assert "2024-03-10..2024-03-12" in out
    assert max(len(line) for line in out.splitlines() if "page:" not in line) <= 80


def test_the_page_draws_every_origin(here: Path, ds: Run) -> None:
    document = ds(*WORDS, "--json").document
    page = Page(Path(document["page"]).read_text())
    assert page.open == []
    [rows] = [rows for caption, rows in page.tables.items() if "of each origin" in caption]
    assert [row[0] for row in rows[1:]] == ["..".join(row["split"]["test"][0]) for row in document["origins"]]
    dots = [attributes for tag, attributes in page.elements if tag == "circle"]
    assert len(dots) == 3 * 3  # model, best baseline, gain
    assert "NaN" not in Path(document["page"]).read_text()


def test_python_returns_the_same_table_and_prints_nothing(here: Path, ds: Run, capsys: Any) -> None:
    document = ds(*WORDS, "--json").document
    capsys.readouterr()
    frame = dateshard.backtest("config.yaml", origins=3, every=2, progress=False)
    assert capsys.readouterr() == ("", "")
    assert frame["score"].to_list() == [row["score"] for row in document["origins"]]
    assert frame["test"].to_list() == ["..".join(row["split"]["test"][0]) for row in document["origins"]]


def test_clean_removes_the_store_of_what_is_judged_and_the_table_stays(
    done: dict[str, Any], here: Path, ds: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done["world"].folder, tmp_path / "copy", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "copy")
    table, folder = ds(*WORDS, "-q").out, Path("data/backtests") / here.name
    assert ds("clean", "-c", "config.yaml", "--dry-run", "--json").document["removed"]["backtests"]["count"] == 1
    assert (folder / "shards").is_dir()
    before = files_of(Path("data/shards/world/shards"))
    ds("clean", "-c", "config.yaml")
    assert not (folder / "shards" / "world").exists()
    assert files_of(Path("data/shards/world/shards")) == before
    assert ds(*WORDS, "-q").out == table
    judged = json.loads((folder / "backtest.json").read_text())
    assert len(judged["origins"]) == 3


def test_a_spike_after_an_origins_training_dates_changes_nothing_of_it(make_world: Callable[..., World]) -> None:
    """Values a thousand times as large, and a node that appears: after its training dates, then after its test dates."""
    found = []
    for spike in (None, dt.date(2024, 3, 5), dt.date(2024, 3, 9)):
        world = make_world(12, split=SPLIT, **SETTINGS)
        fresh_rows(world, spike)
        world.config_file()
        assert run(["backtest", "-c", "config.yaml", "--origins", "2", "--every", "4", "--workers", "1", "-q"]) == 0
        [folder] = Path("data/backtests").iterdir()
        oldest = generations(folder / "shards" / "world")[-1]
        manifest = Dataset.open(folder / "shards" / "world", oldest).manifest
        shards = {str(date): entry.parts[0].id for date, entry in manifest.dates.items()}
        row = json.loads((folder / "backtest.json").read_text())["origins"][0]
        found.append((manifest.statistics, manifest.nodes, shards, row))
        shutil.rmtree("data")
    plain, in_test, after = found
    assert max(plain[2]) == "2024-03-08"
    assert after == plain
    assert in_test[:2] == plain[:2]
    trained = [f"2024-03-0{day}" for day in range(1, 5)]
    assert [in_test[2][date] for date in trained] == [plain[2][date] for date in trained]
    assert in_test[3]["score"] != plain[3]["score"]  # the spike was there


def test_a_stop_in_the_middle_of_a_training_goes_on_to_the_same_bits(make_world: Callable[..., World]) -> None:
    world = make_world(12, split=SPLIT, **SETTINGS)
    world.config_file()
    settings = load_settings(["config.yaml"])
    plan, stop = plan_backtest(settings, 2, 2), Stop()
    assert run_backtest(plan, Stopping(Stop(), 10**9), num_workers=1)
    whole = [weights(plan.folder, origin.run) for origin in plan.origins]
    shutil.rmtree("data")
    plan = plan_backtest(settings, 2, 2)
    with pytest.raises(KeyboardInterrupt):
        run_backtest(plan, Stopping(stop, 3), stop, num_workers=1)
    assert run_backtest(plan, Stopping(Stop(), 10**9), num_workers=1)
    for origin, expected in zip(plan.origins, whole, strict=True):
        assert weights(plan.folder, origin.run) == expected


class Stopping:
    """Looks on, and asks for a stop at the n-th step of a training."""

    def __init__(self, stop: Stop, step: int) -> None:
        self.stop, self.step = stop, step

    def begin(self, origin: Any) -> None:
        pass

    def prepare(self, events: Iterator[Any]) -> None:
        list(events)

    def train(self, event: Any) -> None:
        if isinstance(event, loop.Stepped):
            self.step -= 1
            if self.step == 0:
                self.stop.ask()

    def judged(self, row: Any) -> None:
        pass


def weights(folder: Path, name: str) -> dict[str, Any]:
    """Hashes of all files of a run's newest checkpoint."""
    saved, _ = checkpoint.newest(folder / "runs" / name / "checkpoints")
    assert saved is not None
    return {file: size_hash for file, size_hash in saved.files.items() if file.endswith(".safetensors")}


def test_a_dry_run_says_what_is_left_and_writes_nothing(make_world: Callable[..., World], ds: Run) -> None:
    world = make_world(12, split=SPLIT, **SETTINGS)
    world.config_file()
    cost = ds(*WORDS, "--dry-run", "--json").document["cost"]
    assert (cost["generations"], cost["measure"], cost["dates"]) == (3, 12, 12 + 10 + 8)
    assert cost["read_bytes"] == sum(path.stat().st_size for path in Path("raw").iterdir())
    assert not Path("data").exists()
    world.prepare()
    cost = ds(*WORDS, "--dry-run", "--json").document["cost"]
    assert (cost["generations"], cost["measure"], cost["read_bytes"]) == (3, 0, 0)
    assert not Path("data/backtests").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": {"train": 0.8, "validation": 0.2}}, "no test dates"),
        (
            {"split": {"train": "2024-03-01..2024-03-04", "test": "2024-03-06.."}},
            "from 2024-02-27 on, and the first is 2024-03-01: 2 origins",
        ),
    ],
)
def test_what_cannot_roll_is_refused_in_one_sentence_before_anything_is_written(
    make_world: Callable[..., World], ds: Run, change: dict[str, Any], says: str
) -> None:
    world = make_world(6, **SETTINGS)
    world.tree["pipeline"] |= change
    world.config_file()
    done = ds("backtest", "-c", "config.yaml", "--origins", "3", "--every", "3", code=2)
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not Path("data").exists()


def test_rows_without_dates_and_divided_people_are_refused(tmp_path: Path, ds: Run) -> None:
    records = {date: make_records(date, 30, ("ann", "bo", "cy"), 1) for date in [dt.date(2024, 3, 1)]}
    split = {"by": "session", "train": ["ann"], "validation": ["bo"], "test": ["cy"]}
    event_world(tmp_path, records, cut=True, split=split).config_file()
    assert "divides values of 'session', not dates" in ds(*WORDS, code=2).err
    Path("table.csv").write_text("a,b\n1,2\n3,4\n")
    tree = {
        "dataset": "table",
        "pipeline": {"source": {"path": "table.csv"}, "layout": "table", "features": {"a": {}, "b": {}}},
    }
    Path("table.yaml").write_text(json.dumps(tree))
    assert "the rows have no date" in ds("backtest", "-c", "table.yaml", code=2).err


def test_events_whose_dates_are_divided_by_rolling_ranges_work(tmp_path: Path, ds: Run) -> None:
    split = {"train": "..latest-3", "validation": "latest-2", "test": "last:2"}
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(8)]
    records = {date: make_records(date, 40, ("ann", "bo"), 1) for date in dates}
    event_world(tmp_path, records, cut=False, split=split, baselines=["repeat", "mean"]).config_file()
    document = ds(
        "backtest", "-c", "config.yaml", "--origins", "2", "--every", "2", "--workers", "1", "--json"
    ).document
    assert [row["split"]["train"] for row in document["origins"]] == [
        [["2024-03-01", "2024-03-03"]],
        [["2024-03-01", "2024-03-05"]],
    ]
    assert all(row["score"] is not None for row in document["origins"])


def test_a_date_that_fails_ends_it_before_any_training(make_world: Callable[..., World], ds: Run) -> None:
    world = make_world(12, split=SPLIT, **SETTINGS)
    world.config_file()
    world.dump(dt.date(2024, 3, 4)).write_text("time,node\n")
    done = ds(*WORDS, "--json", code=3)
    assert done.document["error"]["message"].startswith("1 date failed, and no origin is trained without: 2024-03-04.")
    assert "failed  2024-03-04" in done.err
    assert not list(Path("data").rglob("run.json"))


def test_where_categories_alone_are_forecast_the_score_is_their_accuracy(tmp_path: Path, ds: Run) -> None:
    source = {"path": "raw/{date}.csv", "time": "time", "node": "node"}
    pipeline = {"source": source, "step": "1h", "features": {"kind": {"categorical": True}}, "split": SPLIT}
    window = {"history": 3, "horizon": 1}
    trainer = {"window": window, "training": {"epochs": 1, "batch_size": 16}, "model": {"hidden_units": [4]}}
    Path("config.yaml").write_text(json.dumps({"dataset": "world", "pipeline": pipeline, "trainer": trainer}))
    Path("raw").mkdir()
    for k in range(12):
        date = dt.date(2024, 3, 1) + dt.timedelta(days=k)
        rows = [
            f"{date}T{hour:02}:00:00Z,n0,{'d' if k > 4 and hour == 7 else 'abc'[hour * (k + 1) % 3]}"
            for hour in range(24)
        ]
        Path(f"raw/{date}.csv").write_text("\n".join(["time,node,kind", *rows]) + "\n")
    document = ds(*WORDS, "--json").document
    assert document["measure"] == "accuracy of kind"
    stores = [
        Dataset.open(Path(document["folder"]) / "shards" / "world", row["generation"]) for row in document["origins"]
    ]
    assert [store.vocabularies.names["kind"] for store in stores] == [("a", "b", "c"), *[("a", "b", "c", "d")] * 2]
    for row in document["origins"]:
        assert 0 <= row["score"] <= 1
        assert row["gain"] == pytest.approx(row["score"] - row["baseline_score"])
    assert "points" in ds(*WORDS, "-q").out
