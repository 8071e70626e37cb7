"""A dataset that grows, through the command line: a ninth date, one that fails and is mended, one dropped, a refit."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError
from dateshard.trainer.loop import Ended, train
from dateshard.trainer.runs.start import New, start
from tests.conftest import environment, make_rows
from tests.kit.states import content, differing

Make = Callable[..., Any]
Say = Callable[..., str]
ROLLING = {"train": "..latest-2", "validation": "latest-1", "test": "latest"}
OPEN = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}
SMALL: dict[str, Any] = {"training": {"epochs": 1, "batch_size": 16}, "window": {"history": 6, "horizon": 3}}


def day(number: int) -> dt.date:
    return dt.date(2024, 3, number)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """say(world, "preprocess", "last:2", code=3) -> what the command prints, in this process; its errors too."""

    def call(world: Any, *words: str, code: int = 0) -> str:
        worker = ["--workers", "1"] if words[0] == "preprocess" else []
        found = run([*words, "-c", str(world.config_file()), *worker])
        said = capsys.readouterr()
        assert found == code, f"exit {found}\n{said.out}\n{said.err}"
        return said.out if "--json" in words else said.out + said.err

    return call


def add(world: Any, date: dt.date) -> None:
    world.rows[date] = make_rows(date, "UTC", ["n0", "n1", "n2"], 1)
    world.write(date)


def shards(world: Any) -> dict[str, tuple[int, int]]:
    """{shard: (inode, time)} of all published ones."""
    folders = (world.store / "shards").glob("*/*")
    return {
        str(path.relative_to(world.store / "shards")): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folders
    }


def generation(world: Any) -> int:
    return Dataset.open(world.store).generation


def test_eight_dates_grow_by_a_ninth_then_one_fails_and_is_mended_one_is_dropped_and_all_are_refitted(
    make_world: Make, say: Say
) -> None:
    world = make_world(8, split=ROLLING, **SMALL)
    say(world, "preprocess")
    assert "6 train + 1 validation dates" in say(world, "train", "--run", "first")
    before, manifest = shards(world), Dataset.open(world.store).manifest

    add(world, day(9))
    planned = say(world, "plan")
    assert "missing\t2024-03-09\t1\tno shard yet" in planned
    assert (
        "The split moves: train 2024-03-01..2024-03-06 -> 2024-03-01..2024-03-07; "
        "validation 2024-03-07 -> 2024-03-08; test 2024-03-08 -> 2024-03-09." in planned
    )
    assert "the frozen statistics are those of the old one, unless --refit-statistics" in planned
    assert "1 date to measure, 1 to normalise." in planned
    assert "generation 2: 1 shard written; 1 date measured" in say(world, "preprocess")
    after = shards(world)
    assert [name[:10] for name in after.keys() - before.keys()] == ["2024-03-09"]
    assert {name: after[name] for name in before} == before  # not one of the others was touched
    grown = Dataset.open(world.store).manifest
    assert (grown.statistics, grown.nodes, grown.normalise) == (manifest.statistics, manifest.nodes, manifest.normalise)
    trained = say(world, "train", "--run", "second")
    assert "generation 2" in trained
    assert "7 train + 1 validation dates" in trained
    assert json.loads((world.folder / "data/runs/first/run.json").read_text())["data"]["generation"] == 1

    world.dump(day(3)).write_text("time,node,speed,vehicles\n2024-03-03T00:00:00,n0,fast,1\n")
    said = say(world, "preprocess", code=3)
    assert "1 failed: 2024-03-03. Correct what the messages above say" in said
    assert generation(world) == 3  # what training reads says that the date failed
    assert Dataset.open(world.store).manifest.dates == grown.dates  # its older shard stays
    say(world, "preprocess", code=3)
    assert generation(world) == 3  # the same failure again is nothing new
    assert "2024-03-03" in say(world, "train", "--run", "third", code=4)
    world.write(day(3))
    assert "no shard changed, but the manifest did: generation 4" in say(world, "preprocess")
    assert Dataset.open(world.store).manifest == grown

    assert "generation 5: 8 dates, without 2024-03-05" in say(world, "drop", "2024-03-05", "-y")
    assert say(world, "preprocess").endswith("nothing to do: generation 5, 8 dates fresh\n")
    assert "merged over 6 training dates" in say(world, "preprocess", "--refit-statistics")
    refitted = content(Dataset.open(world.store))
    shutil.rmtree(world.store)
    world.tree["pipeline"]["exclude"] = ["2024-03-05"]
    say(world, "preprocess")
    fresh = content(Dataset.open(world.store))
    assert differing(fresh, refitted) == [".sources.json"]  # byte for byte, but for the note that it was dropped


@pytest.mark.parametrize(
    ("split", "moves"),
    [
        (OPEN, "test 2024-03-07..2024-03-08 -> 2024-03-07..2024-03-09"),
        ({"train": "..latest-2", "test": "last:2"}, "test 2024-03-07..2024-03-08 -> 2024-03-08..2024-03-09"),
        (None, "validation 2024-03-08 -> 2024-03-09"),
        ({"train": 0.75, "validation": 0.25}, ""),
    ],
)
def test_a_ninth_date_is_one_shard_and_the_plan_says_how_the_split_moves(
    make_world: Make, say: Say, split: Any, moves: str
) -> None:
    world = make_world(8, split=split)
    say(world, "preprocess")
    statistics = Dataset.open(world.store).manifest.statistics
    add(world, day(9))
    planned = say(world, "plan")
    assert (moves in planned) if moves else ("The split moves" not in planned)
    trains = split is None or (split or {}).get("train") == "..latest-2"
    assert ("the frozen statistics are those of the old one" in planned) == trains
    assert "1 shard written; 1 date measured" in say(world, "preprocess")
    assert Dataset.open(world.store).manifest.statistics == statistics
    again = say(world, "preprocess")
    assert "nothing to do: generation 2" in again
    assert ("1 date is in no split: 2024-03-09" in again) == (not moves)
    if isinstance(split, dict) and split["train"] == 0.75:
        said = say(world, "preprocess", "--resplit")
        assert "The split moves: train 2024-03-01..2024-03-06 -> 2024-03-01..2024-03-07; validation" in said
        assert "no shard changed, but the manifest did: generation 3" in said
        assert Dataset.open(world.store).manifest.statistics == statistics


def test_a_training_date_that_fails_makes_the_statistics_provisional_and_mending_it_scales_all_again(
    make_world: Make, say: Say
) -> None:
    world = make_world(8, split=OPEN, **SMALL)
    say(world, "preprocess", "dataset=whole")
    whole = content(Dataset.open(world.folder / "data/shards/whole"))
    world.dump(day(2)).write_text("time,node\n")
    said = say(world, "preprocess", code=3)
    assert "provisional: the statistics lack 2024-03-02, which failed" in said
    assert "provisional" in say(world, "train", code=4)
    world.write(day(2))
    planned = say(world, "plan")
    assert "The global statistics are merged: training dates that failed are tried again: 2024-03-02." in planned
    assert "1 date to measure, 8 to normalise." in planned
    said = say(world, "preprocess")
    assert "The global statistics are merged: training dates that failed are tried again: 2024-03-02." in said
    assert "merged over 5 training dates  speed mean" in said
    assert "generation 2: 8 shards written; 1 date measured" in said
    assert "provisional" not in said
    mended = content(Dataset.open(world.store))
    assert differing(whole, mended) == [".json"]  # the dataset's name
    assert Dataset.open(world.store).manifest == replace(
        Dataset.open(world.folder / "data/shards/whole").manifest, dataset="world"
    )


def test_a_dump_that_disappeared_leaves_its_shard_and_is_told(make_world: Make, say: Say) -> None:
    world = make_world(8, split=OPEN)
    say(world, "preprocess")
    before = Dataset.open(world.store).manifest
    world.dump(day(4)).unlink()
    assert say(world, "preprocess") == "nothing to do: generation 1, 7 dates fresh, 1 whose dump is gone\n"
    assert "no-dump\t2024-03-04\t1\tthe dump is gone, its shard stays" in say(world, "plan")
    assert "2024-03-04: the dump is gone, its shard stays." in say(world, "preprocess", "2024-03-04", "--force")
    say(world, "preprocess", "--refit-statistics")
    assert Dataset.open(world.store).manifest == before


def test_a_dropped_date_stays_out_until_it_is_asked_for_by_name(make_world: Make, say: Say) -> None:
    world = make_world(8, split=OPEN, **SMALL)
    say(world, "preprocess")
    before, size = Dataset.open(world.store).manifest, len(shards(world))
    looked = say(world, "drop", "2024-03-05", "--dry-run")
    assert "would be dropped: 2024-03-05" in looked
    assert generation(world) == 1
    said = say(world, "drop", "2024-03-05", "-y")
    assert "generation 2: 7 dates, without 2024-03-05" in said
    assert "its dump stays; preprocess leaves it out until asked by name" in said
    assert "the frozen statistics still include 2024-03-05, until preprocess --refit-statistics" in said
    assert len(shards(world)) == size  # nothing is deleted
    assert Dataset.open(world.store).manifest.statistics == before.statistics
    rests = "The frozen statistics still include 2024-03-05, which is in no split any more"
    assert rests in say(world, "plan")
    assert rests not in say(world, "plan", "2024-03-05")  # it would take the date in again
    for words in ((), ("last:7",), ("2024-03",), ("2024-03-04..2024-03-06", "--force"), ("--refit-statistics",)):
        say(world, "preprocess", *words)
        assert day(5) not in Dataset.open(world.store).manifest.dates
    assert rests not in say(world, "plan")
    planned = say(world, "plan")
    assert "excluded\t2024-03-05\t1\tdropped; preprocess DATE takes it in again" in planned
    assert "4 train + 1 validation dates" in say(world, "train", "--run", "without")
    assert "1 shard written; 0 dates measured" in say(world, "preprocess", "2024-03-05")  # from its measured array
    assert Dataset.open(world.store).manifest.dates.keys() == before.dates.keys()
    say(world, "preprocess", "--refit-statistics")
    assert Dataset.open(world.store).manifest == before


def test_what_a_drop_refuses_and_what_it_asks(make_world: Make, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(4, split={"train": "..2024-03-02", "validation": "2024-03-03.."})
    assert "no committed dataset here" in say(world, "drop", "2024-03-01", "-y", code=4)
    say(world, "preprocess")
    assert "not in the dataset: 2024-04-01" in say(world, "drop", "2024-04-01", "-y", code=4)
    assert "Name the dates" in say(world, "drop", "-y", code=2)
    assert "add -y" in say(world, "drop", "2024-03-01", code=2)
    assert "no training date that exists" in say(world, "drop", "train", "-y", code=2)
    assert "no date would be left" in say(world, "drop", "last:9", "-y", code=2)
    assert "no date lies in '2025-01'" in say(world, "drop", "2025-01", "-y", code=4)
    assert generation(world) == 1
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter([False, True])
    monkeypatch.setattr("click.confirm", lambda *_, **__: next(answers))
    assert say(world, "drop", "2024-03-01").startswith(
        "nothing was dropped\nwould be dropped: 2024-03-01\n  its dump stays"
    )
    assert generation(world) == 1
    assert "generation 2: 3 dates, without 2024-03-01" in say(world, "drop", "2024-03-01")
    document = json.loads(say(world, "drop", "latest", "-y", "--json"))
    assert (document["generation"], document["dropped"], document["dates"]) == (3, ["2024-03-04"], 2)


def test_a_failed_date_may_be_dropped_so_that_training_goes_on(make_world: Make, say: Say) -> None:
    world = make_world(8, split=OPEN, **SMALL)
    world.dump(day(2)).write_text("time,node\n")
    say(world, "preprocess", code=3)
    say(world, "train", code=4)
    say(world, "drop", "2024-03-02", "-y")
    manifest = Dataset.open(world.store).manifest
    assert (manifest.failed, manifest.provisional) == ((), ())
    say(world, "preprocess")
    assert "4 train + 1 validation dates" in say(world, "train", "--run", "without")


def test_a_training_that_runs_stays_on_its_generation(make_world: Make, say: Say) -> None:
    world = make_world(8, split=ROLLING, **{**SMALL, "training": {"epochs": 2, "batch_size": 16}})
    say(world, "preprocess")
    runs = world.folder / "data" / "runs"

    def trained(name: str, *, disturbed: bool) -> Any:
        started = start(world.settings.trainer, "world", world.store, runs, resume="none", new=New(name))
        try:
            for number, event in enumerate(train(started.session, lambda: False)):
                if number == 3 and disturbed:
                    add(world, day(9))
                    say(world, "preprocess", "--refit-statistics")
                    say(world, "drop", "2024-03-02", "-y")
                    for _ in range(3):
                        say(world, "preprocess", f"pipeline.features.speed.fill_limit={4 + _}")
                    say(world, "clean", "--keep", "1")
                if isinstance(event, Ended):
                    return event.state.progress.best_loss, started.dataset.generation
        finally:
            started.close()

    assert trained("quiet", disturbed=False) == trained("disturbed", disturbed=True)
    assert generation(world) > 1
    assert "continuing disturbed" not in say(world, "train", "--resume", "disturbed")  # it is complete
    Dataset.open(world.store, 1)  # pinned
    for name in ("quiet", "disturbed"):
        shutil.rmtree(runs / name)
    say(world, "clean", "--keep", "1", "-y")
    with pytest.raises(NotThereError):
        Dataset.open(world.store, 1)


def test_what_names_no_date_is_refused_and_says_where_it_looked(make_world: Make, say: Say) -> None:
    world = make_world(3)
    assert "no dump of 2024-05-01 there" in say(world, "preprocess", "2024-05-01", code=65)
    say(world, "preprocess")
    said = say(world, "preprocess", "2024-05-01", "2024-03-01", code=65)
    assert said.startswith(f"Error: {world.dump(dt.date(2024, 5, 1))}: no dump of 2024-05-01 there. Check the date")
    assert said == say(world, "plan", "2024-05-01", "2024-03-01", code=65)
    for command in ("plan", "preprocess", "status", "verify"):
        assert "'2024-03-03..2024-03-01' runs backwards" in say(world, command, "2024-03-03..2024-03-01", code=2)
    assert generation(world) == 1


def test_where_no_dump_is_read_nothing_that_reads_dumps_is_imported(make_world: Make, say: Say) -> None:
    world = make_world(4)
    say(world, "preprocess")
    config = str(world.config_file())
    code = (
        "import sys; from dateshard.cli import run; "
        f"codes = [run([*words, '-c', {config!r}]) for words in "
        "(['preprocess'], ['plan'], ['status'], ['preprocess', '--refit-statistics'], ['drop', '2024-03-02', '-y'])]; "
        "sys.exit(str((codes, {'polars', 'pyarrow', 'torch', 'zarr'} & {*sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stderr.endswith("([0, 0, 0, 0, 0], set())\n"), done.stderr


def test_before_any_dump_there_is_nothing_to_plan(make_world: Make, say: Say) -> None:
    world = make_world(0)
    for command in ("plan", "status", "preprocess"):
        assert "no dump matches the path" in say(world, command, code=65)


def test_a_generation_without_a_training_date_is_no_training(make_world: Make, say: Say) -> None:
    """One validation date asked for on a fresh store: the statistics are there, training dates are not yet."""
    world = make_world(8, split=OPEN, **SMALL)
    say(world, "preprocess", "2024-03-06")
    assert list(Dataset.open(world.store).manifest.dates) == [day(6)]
    said = say(world, "train", code=4)
    assert "none of its training dates (2024-03-01..2024-03-05) is prepared. Run: dateshard preprocess -c" in said
    say(world, "preprocess")
    say(world, "train")
