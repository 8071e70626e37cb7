"""Running again: nothing changes nothing, one dump changes one shard, a refit equals a fresh run."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.dataset import Dataset

Make = Callable[..., Any]
SPLIT = {"train": "..2013-03-11", "validation": "2013-03-12..2013-03-13", "test": "2013-03-14.."}
FIRST, DST = dt.date(2013, 3, 6), dt.date(2013, 3, 10)
OF_THE_RUN = ("commits.jsonl", "dumps.json", "writer.lock")


@pytest.fixture
def world(make_world: Make) -> Any:
    """Nine local dates, one of them of 23 hours, prepared by the real command."""
    made = make_world(9, first="2013-03-06", zone="America/New_York", split=SPLIT)
    prepare(made)
    return made


def prepare(world: Any, *words: str) -> str:
    done = world.run("preprocess", "-c", str(world.config_file()), "--workers", "1", *words)
    assert done.stderr == "" or "--json" in words
    return str(done.stdout)


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """{path: (inode, mtime, hash)} of all files but those about the run itself."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OF_THE_RUN
    }


def change(world: Any, date: dt.date) -> None:
    world.rows[date] = [(t, node, None if speed is None else speed + 5, v) for t, node, speed, v in world.rows[date]]
    world.write(date)


def reached(store: Path) -> dict[str, str]:
    """{name: hash} of the manifest and everything that it names, by content."""
    dataset = Dataset.open(store)
    manifest = dataset.manifest
    folders = [f"shards/{date}/{entry.parts[0].id}" for date, entry in manifest.dates.items()]
    folders += [f"statistics/{manifest.statistics}", f"nodes/{manifest.nodes}"]
    files = {
        f"{folder}/{path.relative_to(store / folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted((store / folder).rglob("*"))
        if path.is_file()
    }
    path = store / "manifests" / f"g{dataset.generation:08d}.json"
    return {**files, "manifest": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_preparing_again_and_by_force_changes_nothing_and_says_so(world: Any) -> None:
    before = tree(world.store)
    assert prepare(world) == "nothing to do: generation 1, 9 dates fresh\n"
    forced = prepare(world, "2013-03-08", "--force")
    assert "generation 1: nothing changed, 1 shard as before; 1 date measured" in forced
    world.write(FIRST)  # the same bytes, another time
    assert prepare(world, "20130306", "last:2").startswith("nothing to do")
    assert "generation 1: nothing changed, 9 shards as before; 9 dates measured" in prepare(world, "--force")
    assert tree(world.store) == before
    assert prepare(world, "--refit-statistics").count("generation 1") == 1
    assert tree(world.store) == before


def test_a_rerun_of_one_date_changes_that_shard_alone_and_a_refit_equals_a_fresh_run(world: Any) -> None:
    before, files = Dataset.open(world.store).manifest, tree(world.store)
    change(world, DST)
    plan = world.run("plan", "-c", str(world.config_file())).stdout
    assert re.search(rf"stale\(dump\)\t{DST}\t1\tdump changed", plan)
    assert f"{DST} is a training date: the frozen statistics are kept, unless --refit-statistics" in plan
    said = prepare(world, str(DST))
    assert "the statistics stay frozen; computed now they would differ:  speed mean +" in said
    assert "generation 2: 1 shard written; 1 date measured" in said
    after = Dataset.open(world.store).manifest
    assert [date for date in after.dates if after.dates[date] != before.dates[date]] == [DST]
    assert (after.statistics, after.nodes, after.normalise) == (before.statistics, before.nodes, before.normalise)
    now = tree(world.store)
    assert {name: now[name] for name in files if name != "CURRENT"} == {
        name: value for name, value in files.items() if name != "CURRENT"
    }  # nothing that was published is touched
    new = {name.split("/")[0] + "/" + name.split("/")[1] for name in now.keys() - files.keys()}
    assert new == {
        f"shards/{DST}",
        f"staged/{DST}",
        f"partials/{DST}",
        "manifests/g00000002.json",
        "manifests/g00000002.sources.json",
    }
    assert Dataset.open(world.store, 1).manifest == before

    for date in world.rows:  # a refit reads no dump
        world.dump(date).rename(world.dump(date).with_suffix(".away"))
    said = prepare(world, "--refit-statistics")
    assert "merged over 6 training dates  speed mean +" in said
    assert "generation 3: 9 shards written; 0 dates measured" in said
    refitted = reached(world.store)
    for date in world.rows:
        world.dump(date).with_suffix(".away").rename(world.dump(date))
    assert prepare(world).startswith("nothing to do")
    shutil.rmtree(world.store)
    prepare(world, "--workers", "2")
    assert reached(world.store) == refitted


def test_a_changed_scale_is_committed_once_and_back_again_without_reading_a_dump(world: Any) -> None:
    first = reached(world.store)
    document = json.loads(prepare(world, "--json", "pipeline.features.volume.scale=none"))
    assert (document["measured"], document["written"], document["generation"]) == (0, 9, 2)
    document = json.loads(prepare(world, "--json"))
    assert (document["measured"], document["written"], document["generation"]) == (0, 9, 3)
    assert reached(world.store) == first


def test_another_split_alone_is_committed_and_told(world: Any) -> None:
    said = prepare(world, "pipeline.split.test=null")
    assert said.splitlines() == [
        "The split moves: test 2013-03-14 -> none.",
        "1 date is in no split: 2013-03-14. pipeline.split leaves it out",
        "no shard changed, but the manifest did: generation 2, 9 dates fresh",
    ]
    assert set(Dataset.open(world.store).manifest.split) == {"train", "validation"}


def test_a_plan_and_a_dry_run_write_nothing(world: Any) -> None:
    change(world, FIRST)
    config, before = str(world.config_file()), tree(world.folder)
    names = sorted(map(str, world.folder.rglob("*")))
    assert f"{FIRST}\tstale(dump)\tmeasure + normalise" in world.run("plan", "-c", config, "--explain").stdout
    dry = world.run("preprocess", "-c", config, "--dry-run", "--force", "2013-03").stdout
    assert "9 dates to measure, 9 to normalise." in dry
    assert world.run("status", "-c", config, code=4).stdout.count("stale(dump)") == 1
    documents = [json.loads(world.run("plan", "-c", config, "--json", word).stdout) for word in ("2013-W10", "train")]
    assert [sum(row["measure"] for row in document["dates"]) for document in documents] == [1, 1]
    assert tree(world.folder) == before
    assert sorted(map(str, world.folder.rglob("*"))) == names


def test_dates_appended_are_prepared_alone(world: Any, make_world: Make) -> None:
    before = Dataset.open(world.store).manifest
    date = dt.date(2013, 3, 20)
    world.rows[date] = [(t + 14 * 86400 * 10**9 - 3600 * 10**9, *rest) for t, *rest in world.rows[FIRST]]
    world.write(date)
    assert "generation 2: 1 shard written; 1 date measured" in prepare(world)
    after = Dataset.open(world.store)
    assert {d: entry for d, entry in after.manifest.dates.items() if d != date} == dict(before.dates)
    assert after.manifest.statistics == before.statistics
    assert [segment.num_steps for segment in after.segments] == [9 * 24 - 1, 24]
    assert after.manifest.split_of(date) == "test"  # an open end moves with the data


@pytest.mark.parametrize("workers", ["1", "2"])
def test_verify_of_a_damaged_store_names_file_and_command_and_the_command_mends_it(world: Any, workers: str) -> None:
    config = str(world.config_file())
    good = world.run("verify", "-c", config, "--full").stdout
    assert good == "generation 1: 32 of 32 verified, 0 damaged\n"
    part = Dataset.open(world.store).manifest.dates[DST].parts[0]
    path = world.store / "shards" / str(DST) / part.id / "values" / "0.0.0"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    said = world.run("verify", "-c", config, code=4).stdout
    assert str(path.relative_to(world.folder)) in said
    command = re.search(r"Run: .*dateshard (preprocess .*)", said)
    assert command
    assert command[1] == f"preprocess {DST} --force -c {config}"
    mended = world.run(*command[1].split(), "--workers", workers)
    assert "1 shard written" in mended.stdout
    assert world.run("verify", "-c", config, "--full").stdout == good.replace("generation 1", "generation 2")
