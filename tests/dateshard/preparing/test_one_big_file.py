"""A file of many dates that is not cut yet, or grew; a path that matches nothing: what plan, preprocess and status say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import World

Run = Callable[..., Any]
FIRST = dt.date(2024, 3, 1)
BIG = Path("all.csv")


def write_big(world: World, count: int) -> None:
    """The first `count` dates of a world as one file."""
    texts = [world.dump(date).read_text().splitlines(keepends=True) for date in sorted(world.rows)[:count]]
    BIG.write_text("".join([texts[0][0], *(line for text in texts for line in text[1:])]))


def size() -> str:
    return f"{BIG.stat().st_size / 1e3:.1f} kB"


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world whose three dates stand in one file; a fourth may be appended."""
    made = make_world(4, missing=0.5)
    write_big(made, 3)
    made.tree["pipeline"]["source"]["path"] = "all.csv"
    made.config_file()
    return made


@pytest.mark.parametrize("command", [["plan"], ["preprocess", "--dry-run"], ["plan", "--explain"]])
def test_a_plan_of_a_file_that_is_not_cut_yet_says_what_comes_first(world: World, ds: Run, command: list[str]) -> None:
    out = ds(*command, "-c", "config.yaml").out
    assert f"note: all.csv ({size()}) is not divided by date yet: preprocess divides it first, in one pass\n" in out
    assert "othing to do" not in out
    assert f"Reads {size()} once to divide it" in out
    assert out.endswith("Run: dateshard preprocess -c config.yaml\n")


def test_a_plan_of_a_file_that_grew_says_so_and_a_status_is_not_well(world: World, ds: Run) -> None:
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    assert ds("status", "-c", "config.yaml").code == 0
    assert "Nothing to do." in ds("plan", "-c", "config.yaml").out
    was = size()
    write_big(world, 4)
    told = f"all.csv changed ({was} -> {size()}): it will be divided again"
    for command, code in (("plan", 0), ("status", 4)):
        out = ds(command, "-c", "config.yaml", code=code).out
        assert f"note: {told}\n" in out
        assert "stale(dump)\t2024-03-01..2024-03-03\t3\tknown once its file is divided" in out
        assert "gone" not in out
        assert "othing to do" not in out
        assert out.endswith("Run: dateshard preprocess -c config.yaml\n")
    assert ds("status", "2024-03-02", "-c", "config.yaml", code=4).out.endswith(
        "Run: dateshard preprocess -c config.yaml\n"
    )
    assert "1 date to measure" in ds("preprocess", "-c", "config.yaml", "--workers", "1").out
    assert ds("status", "-c", "config.yaml").out.count("2024-03-01..2024-03-04\t4\t") == 1


def test_what_must_be_cut_again_for_another_reason_than_its_bytes_is_told_as_such(world: World, ds: Run) -> None:
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    other = "pipeline.features.volume.column=speed"
    assert (
        f"all.csv ({size()}) was divided with other settings: it will be divided again"
        in ds("plan", "-c", "config.yaml", other).out
    )
    (spill,) = world.store.glob("cut/*/2024-03-02.arrow")
    spill.chmod(0o644)
    spill.write_bytes(spill.read_bytes()[:-1])
    assert (
        f"the files that all.csv ({size()}) was divided into are damaged: it will be divided again"
        in ds("plan", "-c", "config.yaml").out
    )
    Path("more.csv").write_text(BIG.read_text().replace(",n0,", ",n9,"))
    assert "more.csv (" in (out := ds("plan", "-c", "config.yaml", "pipeline.source.path=more.csv").out)
    assert "is not divided by date yet" in out


def test_a_plan_as_json_names_the_file_and_the_command(world: World, ds: Run) -> None:
    document = ds("plan", "-c", "config.yaml", "--json").document
    told = f"all.csv ({size()}) is not divided by date yet: preprocess divides it first, in one pass"
    assert document["to_cut"] == {"path": "all.csv", "bytes": BIG.stat().st_size, "why": told}
    assert document["command"] == "dateshard preprocess -c config.yaml"
    assert document["cost"]["read_bytes"] == BIG.stat().st_size
    assert document["cost"]["seconds"] is None
    status = ds("status", "-c", "config.yaml", "--json", code=4).document
    assert status["to_cut"] == document["to_cut"]
    assert status["mend"] == document["command"]
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    document = ds("plan", "-c", "config.yaml", "--json").document
    assert (document["to_cut"], document["command"]) == (None, None)


def test_selectors_that_need_dates_which_are_not_known_yet_are_refused(world: World, ds: Run) -> None:
    """`--only missing` would choose among no dates, `latest` the last one of before: the new ones were left out."""
    ds("preprocess", "-c", "config.yaml", "--only", "missing", code=65)
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    write_big(world, 4)
    for words in (["latest"], ["2024-03"], ["--only", "stale"], ["--exclude", "2024-03-02"]):
        for command in ("plan", "preprocess"):
            error = ds(command, *words, "-c", "config.yaml", code=65).err
            assert "it will be divided again" in error
            assert "un: dateshard preprocess -c config.yaml\n" in error
    assert "1 date to measure" in ds("preprocess", "2024-03-04", "-c", "config.yaml", "--workers", "1").out


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "raw/{date:%Y%m%d}.csv",
            "raw, which holds 2024-03-04.csv, 2024-03-03.csv, 2024-03-02.csv, ...; did you mean raw/{date}.csv (4 dates)?",
        ),
        ("raws/{date}.csv", "there is no raws in {here}, which holds raw, all.csv, config.yaml"),
        ("al.csv", "there is no al.csv in {here}, which holds all.csv, "),
        ("empty/{date}.csv", "{here}/empty is empty"),
        ("raw/{date}/*.parquet", "there is no {date} in {here}/raw, which holds 2024-03-0"),
    ],
)
def test_a_path_that_nothing_matches_is_refused_with_what_is_near(world: World, ds: Run, path: str, words: str) -> None:
    Path("empty").mkdir()
    error = ds("plan", "-c", "config.yaml", f"pipeline.source.path={path}", code=65).err
    assert f"{path}: no dump matches the path: " in error
    assert words.replace("{here}", str(world.folder)) in error


def test_every_command_that_goes_by_dumps_refuses_a_path_that_nothing_matches(world: World, ds: Run) -> None:
    for command in ("plan", "plan latest", "status", "preprocess", "preprocess --dry-run"):
        done = ds(*command.split(), "-c", "config.yaml", "pipeline.source.path=al.csv", code=65)
        assert "which holds all.csv" in done.err
        assert not done.out
    assert not list(world.store.glob("manifests/*"))


def test_dumps_that_are_all_gone_are_told_where_their_shards_stay(make_world: Callable[..., World], ds: Run) -> None:
    world = make_world(3)
    config = str(world.config_file())
    world.prepare()
    for date in world.rows:
        world.dump(date).unlink()
    for command in ("plan", "status", "preprocess"):
        out = ds(command, "-c", config).out
        told = f"raw/{{date}}.csv: no dump matches the path: {world.folder}/raw is empty. 3 dates are kept as shards."
        assert told in out
