"""'Nothing to do' is said where it is true, of what it is true, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import World

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05.."}


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    made = make_world(6, split=SPLIT, missing=0.6)
    made.config_file()
    made.prepare()
    return made


def excluded(world: World) -> str:
    world.tree["pipeline"]["exclude"] = ["2024-03-06"]
    return "2024-03-06 leaves it"


def other_split(world: World) -> str:
    world.tree["pipeline"]["split"] = {**SPLIT, "validation": "2024-03-05", "test": "2024-03-06"}
    return "its split"


def failed_and_put_back(world: World) -> str:
    date = min(world.rows)
    world.dump(date).write_text("time,node\n")
    world.prepare()
    world.write(date)
    return "2024-03-01 no longer counts as failed"


def failed_and_gone(world: World) -> str:
    date = max(world.rows).replace(day=7)
    world.dump(date).write_text("time,node\n")
    world.prepare()
    world.dump(date).unlink()
    return "2024-03-07 no longer counts as failed"


def damaged(world: World) -> str:
    (world.store / "CURRENT").write_text("{}")
    return "what was passed over is written anew"


@pytest.mark.parametrize("change", [excluded, other_split, failed_and_put_back, failed_and_gone, damaged])
def test_a_generation_that_changes_without_a_shard_is_something_to_do(
    world: World, ds: Run, change: Callable[[World], str]
) -> None:
    assert "Nothing to do." in ds("plan", "-c", "config.yaml").out
    what = change(world)
    world.config_file()
    out = ds("plan", "-c", "config.yaml").out
    (told,) = (
        line for line in out.splitlines() if line.startswith("No shard is written, but the generation changes: ")
    )
    assert what in told
    assert "othing to do" not in out
    assert out.endswith("Run: dateshard preprocess -c config.yaml\n")
    assert ds("plan", "-c", "config.yaml", "--json").document["command"] == "dateshard preprocess -c config.yaml"
    status = ds("status", "-c", "config.yaml", code=4).out
    assert status.endswith("Run: dateshard preprocess -c config.yaml\n")
    assert ds("status", "-c", "config.yaml", "--json", code=4).document["mend"] == "dateshard preprocess -c config.yaml"
    done = ds("preprocess", "-c", "config.yaml").out
    assert "no shard changed, but the manifest did: generation " in done
    assert "Nothing to do." in ds("plan", "-c", "config.yaml").out
    assert "Run:" not in ds("status", "-c", "config.yaml").out


def test_nothing_to_do_for_some_dates_counts_those_that_are_not_fresh(world: World, ds: Run) -> None:
    for date in sorted(world.rows)[:2]:
        world.rows[date] = world.rows[date][:-3]
        world.write(date)
    for words in (["2024-03-05"], ["--only", "failed"], ["--exclude", "2024-03-01..2024-03-02"]):
        nothing = "nothing to do for the dates that were named: generation 1, 4 dates fresh, 2 not"
        assert ds("preprocess", *words, "-c", "config.yaml").out == f"{nothing} (dateshard status -c config.yaml)\n"
        told = ds("plan", *words, "-c", "config.yaml").out
        assert "Nothing to do for the dates that were named; 2 others are not fresh.\n" in told
        assert "Run:" not in told


def test_dates_without_a_dump_are_not_counted_as_fresh(world: World, ds: Run) -> None:
    for date in sorted(world.rows)[:2]:
        world.dump(date).unlink()
    told = "nothing to do: generation 1, 4 dates fresh, 2 whose dump is gone\n"
    assert ds("preprocess", "-c", "config.yaml").out == told


def test_what_is_verified_is_said_of_checkpoints_that_are_there(world: World, ds: Run) -> None:
    ds("train", "-c", "config.yaml", "--run", "one", "-q")
    for folder in Path("data/runs/one/checkpoints").iterdir():
        if folder.is_dir():
            (folder / "manifest.json").write_text("{}")
    assert "damaged" in ds("checkpoints", "verify", "one", code=4).out
    assert "damaged" in ds("checkpoints", "list", "one", code=None).out
    assert "damaged" in ds("checkpoints", "clean", "one", "--keep-count", "1", code=None).out


def test_the_spills_of_a_file_that_is_no_longer_the_dump_are_something_to_remove(world: World, ds: Run) -> None:
    texts = [world.dump(date).read_text().splitlines(keepends=True) for date in sorted(world.rows)]
    Path("all.csv").write_text("".join([texts[0][0], *(line for text in texts for line in text[1:])]))
    one, away = "pipeline.source.path=all.csv", "pipeline.source.path=gone.csv"
    ds("preprocess", one, "-c", "config.yaml", "--workers", "1", "-q")
    for path in (one, away):  # a file that is not there now may come back
        assert "nothing to remove" in ds("clean", path, "-c", "config.yaml").out
    (cut,) = (world.store / "cut").iterdir()
    removed = ds("clean", "-c", "config.yaml", "--json").document["removed"]
    assert removed["cut"]["count"] == 1
    assert removed["cut"]["bytes"] > 0
    assert not cut.exists()
    assert "divided into 6 dates" in ds("preprocess", one, "-c", "config.yaml", "--workers", "1").out
