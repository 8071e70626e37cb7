"""Tables through the command line: rows without a time, divided by what they hold; regression and classification."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

import dateshard
from dateshard.pipeline.config import Pipeline
from dateshard.settings import validate
from dateshard.shardstore.layouts.table import bucket_of
from dateshard.trainer.loop import EpochDone, train
from dateshard.trainer.setup import make_session
from tests.conftest import World
from tests.kit.states import left_behind

DATED = re.compile(r"\b1970\b|\bJan\b|\bJanuary\b|training dates?\b")
FEATURES: dict[str, Any] = {"area": {}, "rooms": {}, "town": {"categorical": True}, "price": {}}


def table_world(folder: Path, rows: list[str], target: str = "price", **pipeline: Any) -> World:
    """A table in `folder`, nothing prepared."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "houses.csv").write_text("\n".join(["area,rooms,town,price", *rows]) + "\n")
    inputs = [name for name in FEATURES if name != target]
    tree = {
        "dataset": "houses",
        "pipeline": {
            "layout": "table",
            "source": {"path": str(folder / "houses.csv")},
            "features": FEATURES,
            **pipeline,
        },
        "trainer": {
            "inputs": inputs,
            "targets": [target],
            "model": {"name": "mlp", "hidden_units": [16]},
            "training": {"epochs": 8},
        },
    }
    return World(folder, tree)


def houses(count: int = 800, seed: int = 3) -> list[str]:
    generator, made = random.Random(seed), []
    for _ in range(count):
        area, rooms, town = generator.uniform(30, 200), generator.randint(1, 6), generator.choice("ABC")
        price = area * {"A": 3, "B": 2, "C": 1.5}[town] + 20 * rooms + generator.gauss(0, 10)
        made.append(f"{area:.1f},{rooms},{town},{price:.1f}")
    return made


def sides(world: World) -> dict[str, set[tuple[float, ...]]]:
    """{split: its rows}."""
    dataset = world.open()
    (day,) = dataset.days
    cuts, values = dataset.cuts(day), np.asarray(dataset.arrays(day.date)["values"])[:, 0]
    raw = np.round(dataset.scale.undo(values[:, None])[:, 0], 3)
    of = {name: split for split, names in dataset.manifest.split_cuts.items() for name in names}
    edges = [*cuts.starts.tolist(), day.num_steps]
    made: dict[str, set[tuple[float, ...]]] = {}
    for name, low, high in zip(cuts.names, edges, edges[1:], strict=False):
        made.setdefault(of[name], set()).update(map(tuple, raw[low:high, [0, 1, 3]].tolist()))
    return made


def test_a_row_is_on_the_same_side_in_any_order_and_equal_rows_are_never_on_two(tmp_path: Path) -> None:
    rows = houses()
    first = table_world(tmp_path / "a", rows)
    mixed = rows + rows[:100] + houses(200, seed=9)
    random.Random(1).shuffle(mixed)
    second = table_world(tmp_path / "b", mixed)
    for world in (first, second):
        assert not world.prepare().failed
    before, after = sides(first), sides(second)
    for split, own in before.items():
        assert own <= after[split]
        assert not any(own & other for name, other in after.items() if name != split)
    total = sum(map(len, before.values()))
    assert len(before["train"]) / total == pytest.approx(0.7, abs=0.06)
    assert len(before["test"]) / total == pytest.approx(0.2, abs=0.05)
    assert first.open().statistics.merged.moments_6NF[0, 0, 0] == pytest.approx(len(before["train"]))


def test_a_bucket_depends_on_the_names_of_categories_and_not_on_their_codes() -> None:
    column, codes = np.array([1.0, 2.0, np.nan]), np.array([0.0, 1.0, np.nan])
    one = bucket_of([column, codes], {1: ["x", "y"]})
    other = bucket_of([column, 1 - codes], {1: ["y", "x"]})
    assert one.tolist() == other.tolist()
    many = bucket_of([np.arange(100_000.0)], {})
    assert np.bincount(many, minlength=100).min() > 850


@pytest.mark.parametrize(("target", "rivals"), [("price", {"mean", "ridge"}), ("town", {"majority", "logistic"})])
def test_a_table_is_prepared_learned_and_judged_beside_linear_rivals(
    tmp_path: Path, target: str, rivals: set[str]
) -> None:
    world = table_world(tmp_path, houses(), target)
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    assert "nothing to do" in world.run("preprocess", "-c", config).stdout
    told = world.run("train", "--run", "r", "-c", config).stdout
    assert "70 % train + 10 % validation of the rows" in told
    judged = json.loads(world.run("evaluate", "r", "--json").stdout)
    assert {row["name"] for row in judged["rows"]} == {"mlp", *rivals}
    assert judged["split_by"] == "row"
    assert {(row["cuts"], row["dates"]) for row in judged["comparisons"]} == {(20, None)}
    assert all(row["low"] < row["gain"] < row["high"] for row in judged["comparisons"])
    seen = world.run("inspect", "-c", config).stdout
    assert "800 records x 1 node x 4 features" in seen
    assert "clock changes" not in seen


def known_function(count: int) -> list[str]:
    """Prices without noise, which no linear map of the columns gives; of a tenth the rooms are not known, and cost 200."""
    generator, made = random.Random(8), []
    for _ in range(count):
        area, rooms, town = generator.uniform(30, 200), generator.randint(1, 6), generator.choice("ABC")
        known = generator.random() > 0.1
        price = area * {"A": 3, "B": 2, "C": 0.5}[town] + (20 * rooms if known else 200)
        made.append(f"{area:.2f},{rooms if known else ''},{town},{price:.2f}")
    return made


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A table of the known function, prepared; the settings of training are the same for every model."""
    world = table_world(tmp_path_factory.mktemp("priced"), known_function(600))
    world.tree["trainer"]["model"] = {"hidden_units": [16], "dropout_rate": 0}
    world.tree["trainer"]["training"] = {"epochs": 30, "batch_size": 32, "learning_rate": 0.02}
    world.tree["trainer"]["scheduler"] = {"type": "cosine", "T_max": 30}
    assert not world.prepare().failed
    return world


def test_rows_without_a_time_are_never_told_to_be_of_a_date(tmp_path: Path) -> None:
    """Their shard lies under 1970-01-01, which is nothing to a person; a bad row is told likewise."""
    world = table_world(tmp_path, houses(200))
    config, dump = str(world.config_file()), tmp_path / "houses.csv"
    good, told = dump.read_text(), list[str]()

    def run(*words: str, code: int = 0) -> str:
        done = world.run(*words, "-c", config, code=code)
        told.append(f"{words}\n{done.stdout}{done.stderr}")
        return done.stdout

    run("plan", "--explain")
    run("preprocess")
    assert "fresh\tundated\t1" in run("plan")
    assert "generation 1, statistics" in run("status")
    run("status", "--calendar", code=2)
    assert "200 records x 1 node" in run("inspect")
    run("statistics", "--by-date", "--drift")
    run("report", "--data")
    assert "1 date measured, 200 rows" in run("preprocess", "undated", "--force")
    told.append((tmp_path / "data/reports/houses.html").read_text())
    dump.write_text(good + "x,2,A,3\n")
    run("preprocess", code=3)
    run("status", code=4)
    dump.write_text(good + "60,2,Z,1e39\n")
    run("preprocess", code=3)
    dump.write_text(good + "60,2,Z,100\n")
    run("preprocess")
    run("diff")
    told.append(repr(dateshard.open(world.store)))
    assert [text[:2000] for text in told if DATED.search(text)] == []


@pytest.mark.parametrize("name", ["cnn", "lstm", "gru"])
def test_a_model_of_sequences_finds_a_known_function_of_the_columns(priced: World, tmp_path: Path, name: str) -> None:
    trainer = {**priced.tree["trainer"], "model": {**priced.tree["trainer"]["model"], "name": name}}
    session = make_session(validate({**priced.tree, "trainer": trainer}).trainer, priced.open(), tmp_path)
    epochs = [event for event in train(session, lambda: False) if isinstance(event, EpochDone)]
    assert epochs[-1].val_loss < 0.002  # scaled: 0.2 % of the variance


def test_a_training_on_columns_goes_on_to_the_same_bits_and_is_judged(priced: World) -> None:
    config, of = str(priced.config_file()), ["trainer.model.name=gru", "trainer.training.epochs=3"]
    for name, more in (("whole", []), ("cut", ["trainer.training.max_steps=17"])):
        priced.run("train", "--run", name, "-c", config, *of, *more)
    priced.run("train", "--resume", "cut", "trainer.training.max_steps=null")
    whole, cut = (left_behind(priced.folder / "data" / "runs" / name) for name in ("whole", "cut"))
    assert any(name not in whole for name in cut)  # of where it was cut off
    bits = [name for name in whole if not name.endswith("manifest.json")]  # those keep max_steps
    assert [name for name in bits if cut.get(name) != whole[name]] == []
    judged = json.loads(priced.run("evaluate", "cut", "--json").stdout)
    rows = {row["name"]: row["scaled"]["r2"] for row in judged["rows"]}
    assert rows["gru"] > rows["ridge"]
    priced.run("report", "cut")
    page = (priced.folder / "data" / "runs" / "cut" / "report.html").read_text()
    assert not DATED.search(page)
    assert page.count(", residuals, raw units.") == len(judged["features"])
    assert '<section id="period"' not in page


@pytest.mark.parametrize("window", [{"history": 12}, {"horizon": 1}, {"history": "30s", "most": 4, "horizon": 1}])
def test_a_window_over_rows_of_a_table_is_refused_before_and_after_it_is_prepared(
    priced: World, tmp_path: Path, window: dict[str, Any]
) -> None:
    config = tmp_path / "config.yaml"
    tree = {**priced.tree, "trainer": {**priced.tree["trainer"], "window": window}}
    for pipeline in ({"pipeline": tree.pop("pipeline")}, {}):  # without that half only the dataset tells what it is
        config.write_text(json.dumps({**tree, **pipeline}))
        commands = [("config", "check"), ("plan",), ("preprocess",)] if pipeline else []
        for words in (*commands, ("train",), ("estimate",)):
            done = priced.run(*words, "-c", str(config), code=2)
            assert "trainer" in done.stderr
            assert "the rows of a table are independent of each other" in done.stderr
            assert "{history: 1, horizon: 0}" in done.stderr


@pytest.mark.parametrize(
    ("window", "resolved"), [({}, (1, 0, 1)), ({"history": 1}, (1, 0, 1)), ({"stride": 2}, (1, 0, 2))]
)
def test_a_window_of_a_table_is_a_row_by_default(
    priced: World, window: dict[str, Any], resolved: tuple[int, int, int]
) -> None:
    trainer = {**priced.tree["trainer"], **({"window": window} if window else {})}
    made = validate({**priced.tree, "trainer": trainer}).trainer.window
    assert (made.history, made.horizon, made.stride) == resolved
    bare = {name: half for name, half in priced.tree.items() if name != "trainer"}
    assert validate(bare).trainer.window.steps == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"features": {"a": {"fill": "forward"}}}, "fill: forward has no meaning"),
    ({"features": {"a": {"aggregate": "gap"}}}, "aggregate: gap has no meaning"),
    ({"split": {"by": "row", "train": ["01"]}}, "train, validation, test are fractions"),
    ({"step": "1h"}, "step has no meaning"),
    ({"layout": "events"}, "layout events needs source.time"),
    ({"layout": "grid", "step": "1h"}, "layout grid needs source.time"),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_has_no_meaning_for_a_table_is_refused(change: dict[str, Any], says: str) -> None:
    tree = {"layout": "table", "source": {"path": "t.csv"}, "features": {"a": {}}} | change
    with pytest.raises(ValidationError) as caught:
        Pipeline.model_validate(tree)
    assert says in str(caught.value)


def test_a_column_that_has_the_name_of_the_buckets_cuts_and_divides_as_any_other(tmp_path: Path) -> None:
    rows = [f"{line},{'abcd'[k % 4]}" for k, line in enumerate(houses(200))]
    source = {"path": str(tmp_path / "houses.csv"), "cut": "row"}
    split = {"by": "row", "train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    world = table_world(tmp_path, rows, source=source, split=split)
    (tmp_path / "houses.csv").write_text("\n".join(["area,rooms,town,price,row", *rows]) + "\n")
    config = str(world.config_file())
    world.run("preprocess", "--workers", "1", "-c", config)
    dataset = world.open()
    assert dataset.cuts(dataset.days[0]).names == ("a", "b", "c", "d")
    assert not dataset.manifest.by_row
    assert "2 train + 1 validation values of 'row'" in world.run("train", "--run", "r", "-c", config).stdout
    judged = json.loads(world.run("evaluate", "r", "--json").stdout)
    assert {row["cuts"] for row in judged["comparisons"]} == {1}
    assert not judged["by_row"]
    world.run("export", "1970-01-01", "--to", "csv", "--out", str(tmp_path / "out"), "-c", config)
    exported = pl.read_csv(tmp_path / "out" / "undated.csv")
    assert exported.columns == ["file", "dump_row", "node", "row", *FEATURES]
    assert [rows[number - 2].rpartition(",")[2] for number in exported["dump_row"]] == exported["row"].to_list()


def test_a_store_that_does_not_say_what_its_cuts_are_is_told_by_their_names(priced: World) -> None:
    """As stores were written that know no `cut_column`."""
    manifest = priced.open().manifest
    assert manifest.by_row
    assert "cut_column" not in manifest.to_json()
    assert not replace(manifest, split_cuts={"train": ("ann",)}).by_row


@pytest.mark.parametrize("to", ["csv", "parquet", "npy"])
def test_an_export_names_the_row_of_the_dump_and_invents_no_time(tmp_path: Path, to: str) -> None:
    rows = houses(300)
    world = table_world(tmp_path, rows)
    config, out = str(world.config_file()), tmp_path / "out"
    world.run("preprocess", "--workers", "1", "-c", config)
    world.run("export", "undated", "--to", to, "--out", str(out), "-c", config)
    if to == "npy":
        numbers, areas = np.load(out / "undated.row.npy"), np.load(out / "undated.npy")[:, 0, 0]
    else:
        frame = (pl.read_csv if to == "csv" else pl.read_parquet)(out / f"undated.{to}")
        assert frame.columns == ["file", "row", "node", *FEATURES]
        assert set(frame["file"]) == {str(tmp_path / "houses.csv")}
        numbers, areas = frame["row"].to_numpy(), frame["area"].to_numpy()
    assert sorted(numbers.tolist()) == list(range(2, 302))
    assert [rows[number - 2].split(",")[0] for number in numbers] == [f"{area:.1f}" for area in areas]
    assert not any("1970" in path.name for path in out.iterdir())


def test_where_the_dump_changed_an_export_says_that_rows_are_not_known(tmp_path: Path) -> None:
    world = table_world(tmp_path, houses(50))
    config, dump = str(world.config_file()), tmp_path / "houses.csv"
    world.run("preprocess", "--workers", "1", "-c", config)
    dump.write_text(dump.read_text() + "1.0,1,A,1.0\n")
    for why in ("the dump has changed since it was prepared", "the dump is gone"):
        done = world.run("export", "undated", "--to", "csv", "--out", str(tmp_path / "out"), "--force", "-c", config)
        assert f"file and row are empty, for they are looked up in the dump: {dump}: {why}" in done.stdout
        assert pl.read_csv(tmp_path / "out" / "undated.csv")["row"].null_count() == 50
        dump.unlink(missing_ok=True)
