"""A run on dumps that no generation was made of, scaled by statistics that one pass measured or another dataset has."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dateshard
from dateshard.shardstore.errors import NotThereError, UsageError
from tests.dateshard.training.test_training_from_dumps import killed, trained

SPLIT = {"train": "..2024-03-02", "validation": "2024-03-03", "test": "2024-03-04"}
FROM_DUMPS = {"policy": "streaming", "from_dumps": True}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Four dates with dumps, of which nothing is prepared."""
    made = make_world(4, split=SPLIT, missing=0.3, loading=FROM_DUMPS, checkpoint={"save_freq": 3})
    made.config_file()
    return made


def measured(world: Any) -> Path:
    """The statistics of the same dumps as another dataset, `known`; their file."""
    tree = {**world.tree, "dataset": "known"}
    return dateshard.measure_statistics(tree, workers=1)


def test_a_pass_commits_the_statistics_of_shards_and_no_shard(world: Any) -> None:
    document = json.loads(world.run("statistics", "-c", "config.yaml", "--measure", "--json").stdout)
    alone = world.open()
    assert Path(document["file"]).samefile(alone.root / "statistics" / alone.manifest.statistics / "statistics.json")
    assert not alone.days
    assert (
        "generation 1 has statistics already"
        in world.run("statistics", "-c", "config.yaml", "--measure", code=2).stderr
    )
    weights = trained(world, "dumps")
    world.prepare()
    shards = world.open()
    assert (shards.manifest.statistics, shards.manifest.split) == (alone.manifest.statistics, alone.manifest.split)
    world.tree["trainer"]["loading"] = {"policy": "streaming"}
    again = trained(world, "shards")
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_a_terminal_shows_what_reads_dumps_in_unbroken_words(world: Any, ds: Any, terminal: Any) -> None:
    terminal.of(60)
    lines = ds("statistics", "-c", "config.yaml", "--measure").out.splitlines()
    assert Path(lines[-1].strip()).name == "statistics.json"
    words = " ".join(lines[:-1])
    for word in ("policy=streaming", "from_dumps=true;", "statistics="):
        assert f"trainer.loading.{word}" in words
    assert max(map(len, lines[-6:-1])) <= 60


def test_a_run_by_a_statistics_file_continues_exactly_and_is_opened_by_every_command(world: Any) -> None:
    file = measured(world)
    world.tree["trainer"]["loading"] = {**FROM_DUMPS, "statistics": str(file)}
    whole = trained(world, "whole")
    name = killed(world)
    shutil.rmtree(Path("data/shards/known"))  # a run does not need it any more
    run = dateshard.train(resume=name, progress=False)
    continued = trained(world, "", name)
    assert all(torch.equal(whole[key], continued[key]) for key in whole)
    assert run.replay(4).document["equal"]
    assert name in [each.name for each in dateshard.runs("world", "ended")]
    world.run("show", name)
    world.run("report", name)
    forecast_document = world.run("predict", name, "--json")
    assert " of dumps, " in forecast_document.stderr
    assert json.loads(forecast_document.stdout)["history"]["source"] == "dumps"
    world.run("checkpoints", "load", "latest")
    judged, forecast = run.evaluate(), run.predict()
    assert "" not in judged.document["notes"]
    assert str(forecast["date"][0]) == "2024-03-05"
    world.prepare()
    world.tree["trainer"]["loading"] = {"policy": "streaming"}
    trained(world, "shards")
    same = dateshard.runs("world")[0]
    assert same.name == "shards"
    assert same.evaluate().document["rows"] == judged.document["rows"]


def changed(world: Any, **pipeline: Any) -> Any:
    world.tree["pipeline"] |= pipeline
    return world


def with_other_nodes(world: Any) -> Any:
    for date in world.rows:
        world.dump(date).write_text(world.dump(date).read_text().replace(",n", ",x").replace("xode", "node"))
    return world


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda world: changed(world, step="30m"), r"pipeline\.step"),
        (lambda world: changed(world, features={"rate": {"column": "vehicles"}}), r"pipeline\.features\.rate"),
        (with_other_nodes, r"2024-03-01\.csv.*its nodes \(x0, x1, x2\).*\(n0, n1, n2\).*statistics --measure"),
    ],
)
def test_statistics_of_other_settings_or_nodes_are_refused_by_name(world: Any, change: Any, why: str) -> None:
    file = measured(world)
    change(world).tree["trainer"]["loading"] = {**FROM_DUMPS, "statistics": str(file)}
    with pytest.raises(UsageError, match=why):
        trained(world, "strange")
    assert not world.store.exists()


def test_without_statistics_a_run_says_how_they_are_made_and_other_ones_do_not_replace_them(world: Any) -> None:
    with pytest.raises(NotThereError, match=r"no statistics.*statistics --measure.*trainer\.loading\.statistics"):
        trained(world, "none")
    file = measured(world)
    world.dump(dt.date(2024, 3, 1)).unlink()
    world.prepare()
    world.tree["trainer"]["loading"] = {**FROM_DUMPS, "statistics": str(file)}
    with pytest.raises(UsageError, match=r"scaled by other statistics.*Leave loading\.statistics out"):
        trained(world, "other")


def test_what_only_looks_commits_nothing(world: Any) -> None:
    world.tree["trainer"]["loading"] = {**FROM_DUMPS, "statistics": str(measured(world))}
    world.config_file()
    world.run("estimate", "-c", "config.yaml")
    world.run("train", "-c", "config.yaml", "--dry-run")
    assert not world.store.exists()
