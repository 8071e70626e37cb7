"""inspect, statistics and diff: their figures against figures made here of the shards' own bytes, in other ways."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

from dateshard.cli import run
from dateshard.documents import document_schema
from dateshard.insight.survey import EDGES_B, DataSurvey, _grid, distance
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.scaling.transform import Floats, untransform

Ask = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-06", "validation": "2024-03-07..2024-03-08"}


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """ask(world, "inspect", ...) -> the document of --json, valid under the command's schema."""

    def call(world: Any, command: str, *words: str) -> Any:
        capsys.readouterr()
        assert run([command, *words, "-c", str(world.config_file()), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        jsonschema.validate(document, document_schema(command))
        return document

    return call


def raw_cells(dataset: Dataset, dates: list[dt.date], index: int) -> Floats:
    """The observed cells of a feature in raw units, of all dates and nodes."""
    found = []
    for date in dates:
        values, mask = np.asarray(dataset.map(date)), dataset.map(date, "observed")
        raw = untransform(dataset.scale.undo(values), [feature.transform for feature in dataset.features])
        seen = np.ones(raw.shape, dtype=bool) if mask is None else np.asarray(mask)
        found.append(raw[..., index][seen[..., index]])
    return np.concatenate(found)


def test_inspect_tells_what_the_shards_hold(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(8, split=SPLIT)
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    world.prepare()
    dataset, document = world.open(), ask(world, "inspect")
    dates = sorted(dataset.manifest.dates)
    assert (document["dates"]["count"], document["nodes"], document["steps"]) == (8, 3, 8 * 24)
    assert document["split"] == {"train": [["2024-03-01", "2024-03-06"]], "validation": [["2024-03-07", "2024-03-08"]]}
    for index, row in enumerate(document["features"]):
        cells = raw_cells(dataset, dates, index)
        assert row["observed"] == len(cells)
        assert row["missing_share"] == pytest.approx(1 - len(cells) / (8 * 24 * 3), abs=1e-6)
        told = [row["raw"][key] for key in ("mean", "std", "min", "max")]
        assert told == pytest.approx([cells.mean(), cells.std(), cells.min(), cells.max()], rel=1e-5, abs=1e-4)
    assert document["features"][0]["missing_share"] > 0


def test_inspect_of_a_date_shows_its_first_rows_and_its_hours(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(3, first="2024-03-09", zone="America/New_York")
    world.prepare()
    document = ask(world, "inspect", "2024-03-10", "--rows", "4")
    assert document["clock_changes"] == [{"date": "2024-03-10", "hours": 23.0}]
    assert [row["node"] for row in document["rows"]] == ["n0", "n1", "n2", "n0"]
    assert [row["time"] for row in document["rows"]][2:] == ["2024-03-10T00:00:00-05:00", "2024-03-10T01:00:00-05:00"]
    begin = int(dt.datetime.fromisoformat("2024-03-10T00:00:00-05:00").timestamp()) * 10**9
    rows = [row for row in world.rows[dt.date(2024, 3, 10)] if row[1] == "n1" and row[0] - begin < 3600 * 10**9]
    assert document["rows"][1]["values"]["volume"] == pytest.approx(sum(row[3] for row in rows), abs=1e-4)


def test_statistics_by_date_are_those_of_the_shards(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(8, split=SPLIT)
    world.prepare()
    dataset, document = world.open(), ask(world, "statistics", "2024-03-05..2024-03-07", "--by-date")
    assert document["dates"] == {"count": 6, "ranges": "2024-03-01..2024-03-06"}
    assert [row["date"] for row in document["by_date"][::2]] == ["2024-03-05", "2024-03-06", "2024-03-07"]
    training = raw_cells(dataset, [date for date, _ in dataset.statistics.sources], 0)
    assert document["features"][0]["mean"] == pytest.approx(training.mean(), rel=1e-6)
    for row in document["by_date"]:
        index = dataset.feature_names.index(row["feature"])
        cells = raw_cells(dataset, [dt.date.fromisoformat(row["date"])], index)
        told = [row[key] for key in ("observed", "mean", "std", "q25", "median", "q75")]
        expected = [len(cells), cells.mean(), cells.std(), *np.quantile(cells, (0.25, 0.5, 0.75))]
        assert told == pytest.approx(expected, rel=1e-5, abs=1e-4)


def wasserstein(one: Floats, other: Floats) -> float:
    """Exactly, of two samples: the area between their distribution functions, step by step."""
    places = np.sort(np.concatenate([one, other]))
    below = [np.searchsorted(np.sort(x), places[:-1], side="right") / len(x) for x in (one, other)]
    return float((np.abs(below[0] - below[1]) * np.diff(places)).sum())


def test_drift_finds_the_date_that_moved(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(8, split=SPLIT)
    moved = dt.date(2024, 3, 8)
    world.rows[moved] = [
        (at, node, None if v is None else 2 * v + 30, volume) for at, node, v, volume in world.rows[moved]
    ]
    world.write(moved)
    world.prepare()
    dataset, document = world.open(), ask(world, "statistics", "--drift", "--limit", "3")
    first = document["drift"][0]
    assert (first["date"], first["feature"], first["split"]) == ("2024-03-08", "speed", "validation")
    assert (len(document["drift"]), document["drift_left_out"]) == (3, 13)
    training = raw_cells(dataset, [date for date, _ in dataset.statistics.sources], 0)
    cells = raw_cells(dataset, [moved], 0)
    spread = training.std()
    assert first["mean_shift"] == pytest.approx((cells.mean() - training.mean()) / spread, rel=1e-5)
    assert first["std_ratio"] == pytest.approx(cells.std() / spread, rel=1e-5)
    assert first["distance"] == pytest.approx(wasserstein(cells, training) / spread, rel=0.02)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.0), (-5.0, 0.1)])
def test_the_distance_over_bins_is_that_of_the_samples(shift: float, stretch: float) -> None:
    generator = np.random.default_rng(3)
    one, other = generator.normal(size=4000), generator.normal(size=3000) * stretch + shift
    bins = [np.histogram(x, np.concatenate([[-np.inf], EDGES_B, [np.inf]]))[0] for x in (one, other)]
    assert distance(bins[0], bins[1]) == pytest.approx(wasserstein(one, other), rel=0.03, abs=0.004)


def test_zeros_are_zeros_again_and_great_offsets_stay(make_world: Callable[..., Any]) -> None:
    world = make_world(6)
    for date, rows in world.rows.items():
        world.rows[date] = [
            (at, node, 1e9 + k % 7 * 1e-2, float(k % 3 == 0)) for k, (at, node, _, _) in enumerate(rows)
        ]
        world.write(date)
    world.tree["pipeline"]["features"]["volume"]["aggregate"] = "min"
    world.prepare()
    survey = DataSurvey(dataset=world.open())
    for day in survey.dataset.days:
        survey.add(day.date)
    raw = survey.pooled("raw")
    assert raw[4, 1] == 0.0
    assert raw[1, 0] + raw[2, 0] == pytest.approx(1e9 + 0.03, abs=2e-3)
    assert 0.003 < float(np.sqrt(raw[3, 0] / raw[0, 0])) < 0.03


def test_per_node_statistics_are_bounded_and_the_farthest_comes_first(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(6, nodes=[f"s{k}" for k in range(9)])
    world.tree["pipeline"]["features"]["speed"]["scale_per"] = "node"
    for date, rows in world.rows.items():
        world.rows[date] = [(a, n, (v or 60.0) + (500.0 if n == "s4" else 0.0), w) for a, n, v, w in rows]
        world.write(date)
    world.prepare()
    row = ask(world, "statistics", "--limit", "4")["features"][0]
    assert [row["nodes"][0]["node"], len(row["nodes"]), row["nodes_left_out"]] == ["s4", 4, 5]
    assert row["nodes"][0]["mean"] == pytest.approx(560, abs=3)


def test_diff_names_what_changed_and_nothing_else(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(8, split=SPLIT)
    world.prepare()
    changed, gone = dt.date(2024, 3, 7), dt.date(2024, 3, 2)
    world.rows[changed] = world.rows[changed][:-9]
    world.write(changed)
    world.prepare()
    document = ask(world, "diff")
    assert (document["from"], document["to"]) == (1, 2)
    assert document["dates"] == {"added": [], "removed": [], "changed": ["2024-03-07"], "unchanged": 7}
    assert document["statistics"]["from"] == document["statistics"]["to"]
    assert document["settings"] == document["split"] == []

    world.tree["pipeline"]["exclude"] = [str(gone)]
    world.tree["pipeline"]["features"]["speed"]["fill_limit"] = 5
    world.tree["pipeline"]["split"] = {"train": "2024-03-01..2024-03-07", "validation": "2024-03-08"}
    world.prepare(refit=True)
    document = ask(world, "diff", "g2", "latest")
    assert document["dates"]["removed"] == ["2024-03-02"]
    assert document["settings"] == [{"key": "features.speed.fill_limit", "from": 3, "to": 5}]
    assert [row["name"] for row in document["split"]] == ["train", "validation"]
    assert document["statistics"]["sources"]["added"] == ["2024-03-07"]
    assert document["statistics"]["sources"]["removed"] == ["2024-03-02"]
    before, after = (world.open(number).statistics.merged.over_nodes().moments_6NF[:, 0, 0] for number in (2, 3))
    moved = document["statistics"]["features"][0]
    assert moved["from"]["mean"] == pytest.approx(before[1] + before[2], rel=1e-6)
    assert moved["to"]["mean"] == pytest.approx(after[1] + after[2], rel=1e-6)


def test_diff_tells_of_nodes_that_came(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(6)
    world.prepare()
    date = min(world.rows)
    world.rows[date].append((world.rows[date][0][0], "n9", 50.0, 3.0))
    world.write(date)
    world.prepare(refit=True)
    assert ask(world, "diff", "1")["nodes"] == {
        "from": 3,
        "to": 4,
        "num_added": 1,
        "num_removed": 0,
        "added": ["n9"],
        "removed": [],
        "moved": 0,
    }


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["diff"], 4, "there is only generation 1"),
        (["diff", "g7", "g8"], 4, "generation 7 is not in the store (there are g1)"),
        (["diff", "yesterday"], 2, "'yesterday' is not a generation"),
        (["inspect", "2031-01-01"], 4, "the date is not in this generation"),
        (["statistics", "2024-03-01"], 2, "dates go with --by-date or --drift"),
        (["report"], 2, "report --data"),
    ],
)
def test_what_cannot_be_told_is_said(
    make_world: Callable[..., Any], capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    world = make_world(3)
    world.prepare()
    assert run([*words, "-c", str(world.config_file())]) == code
    assert told in capsys.readouterr().err


def test_categories_are_told_by_name_and_count(make_world: Callable[..., Any], ask: Ask) -> None:
    world = make_world(4)
    world.prepare()  # the dumps lie there; now with a column of words
    world.tree["pipeline"]["features"]["kind"] = {"categorical": True}
    for date in world.rows:
        lines = world.dump(date).read_text().splitlines()
        kinds = ["kind", *("car" if k % 4 else "lorry" for k in range(len(lines) - 1))]
        world.dump(date).write_text("\n".join(f"{line},{kind}" for line, kind in zip(lines, kinds, strict=True)) + "\n")
    world.prepare()
    row = ask(world, "inspect")["features"][2]
    assert row["raw"] == {"mean": None, "std": None, "min": None, "max": None}
    assert [found["name"] for found in row["categories"]["most"]] == ["car", "lorry"]
    assert sum(found["cells"] for found in row["categories"]["most"]) == row["observed"] > 0
    assert run(["inspect", "-c", str(world.config_file())]) == 0
    assert run(["statistics", "--by-date", "--drift", "-c", str(world.config_file())]) == 0
    assert run(["report", "--data", "-c", str(world.config_file()), "-o", str(Path("page.html"))]) == 0


@pytest.mark.parametrize("spread", [0.0081, 0.15, 0.81, 1.7, 3.2, 19.0, 5e6])
@pytest.mark.parametrize("middle", [0.02, 0.9, 2.4, 3.7, 3.99])
def test_a_zero_up_to_four_spreads_from_the_middle_is_a_zero_again(spread: float, middle: float) -> None:
    scale = SimpleNamespace(pivot_NF=np.array([middle * spread]), delta_NF=np.zeros(1), spread_NF=np.array([spread]))
    for near in np.linspace(0.99, 1, 50) * middle * spread:  # of values around it, what was a multiple stays one
        scale.pivot_NF = np.array([near])
        back = float(np.float32(-near / spread)) * spread + near
        grid = float(_grid(scale)[0])  # type: ignore[arg-type]
        assert np.rint(back * grid) / grid == 0
