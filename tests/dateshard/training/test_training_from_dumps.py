"""Dates that have no shard train a model as their shards would, and a run is bound to the bytes of their dumps."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch

import dateshard
from dateshard.insight.observed_shares import observed_cells
from dateshard.judging.judge import evaluate_config
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.loop import train
from dateshard.trainer.runs.start import New, start
from dateshard.trainer.setup import make_session
from dateshard.training.epoch_bench import bench_epoch as benching
from dateshard.training.epoch_bench.bench_epoch import bench_epoch
from dateshard.training.epoch_bench.measured_epoch import main
from dateshard.training.unprepared_dates import open_to_look, opener_of
from tests.kit.zygote import shared

LATE = dt.date(2024, 3, 4)


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Five dates of training and one of validation; the fourth has a dump and no shard."""
    split = {"train": "..2024-03-05", "validation": "2024-03-06"}
    loading = {"policy": "streaming", "from_dumps": True}
    made = make_world(6, split=split, missing=0.3, loading=loading, checkpoint={"save_freq": 3})
    made.dump(LATE).rename(made.folder / "late.csv")
    made.prepare()
    (made.folder / "late.csv").rename(made.dump(LATE))
    return made


def trained(world: Any, name: str, resume: str = "none") -> dict[str, torch.Tensor]:
    """The weights at the end of a run in this process."""
    runs, opener = world.folder / "data" / "runs", opener_of(world.settings)
    made = start(world.settings.trainer, "world", world.store, runs, resume=resume, new=New(name), opener=opener)
    with closing(made):
        for _ in train(made.session, lambda: False):
            pass
        return {key: value.clone() for key, value in made.session.model.state_dict().items()}


KILLED = """
import os, signal, dateshard
from pathlib import Path
from dateshard.trainer.checkpoint import scan

def kill(event):
    if scan(Path("data/runs/killed/checkpoints")) != ([], []):
        os.kill(os.getpid(), signal.SIGKILL)

dateshard.train("config.yaml", run="killed", progress=False, on_event=kill)
"""


def killed(world: Any) -> str:
    """A run in a process of its own, which is killed once it has saved; its name."""
    world.config_file()
    ended = shared().run([], world.folder, script=KILLED)
    assert ended.code == -signal.SIGKILL, ended.err
    return "killed"


def test_a_run_from_dumps_trains_on_the_bits_of_shards_and_continues_exactly_after_a_kill(world: Any) -> None:
    whole = trained(world, "whole")
    killed(world)
    new = world.dump(dt.date(2024, 3, 7))
    new.write_text(world.dump(LATE).read_text().replace(str(LATE), "2024-03-07"))  # it came meanwhile: not of the run
    continued = trained(world, "", "killed")
    new.unlink()
    world.prepare()
    world.tree["trainer"]["loading"] = {"policy": "streaming"}
    shards = trained(world, "shards")
    assert all(torch.equal(whole[key], continued[key]) for key in whole)
    assert all(torch.equal(whole[key], shards[key]) for key in whole)


def test_a_run_is_bound_to_the_bytes_of_its_dumps(world: Any) -> None:
    name = killed(world)
    text = world.dump(LATE).read_bytes()
    world.dump(LATE).write_bytes(text.replace(b"\n", b"\n\n", 1))
    with pytest.raises(UsageError, match=rf"{LATE}\.csv.*changed since the run read it.*Restore it"):
        dateshard.train(resume=name, progress=False)
    world.dump(LATE).unlink()
    with pytest.raises(UsageError, match=rf"{LATE}\.csv.*is gone"):
        dateshard.train(resume=name, progress=False)
    world.dump(LATE).write_bytes(text)
    run = dateshard.train(resume=name, progress=False)
    replayed = [run.replay(step, trace=True).document for step in range(1, 9)]
    assert all(document["equal"] for document in replayed)
    cells = [cell for document in replayed for window in document["trace"] or () for cell in window["cells"]]
    assert any(row["file"].endswith(f"{LATE}.csv") for cell in cells for row in cell["rows"] or ())
    assert "store was made anew" not in str(run.evaluate("validation"))


def judged(world: Any, name: str) -> list[Any]:
    """What evaluates a run, its baselines alone, forecasts and measures an epoch say of its data."""
    run, plain = dateshard.Run(name), evaluate_config(world.settings, "test", ["mean"])[0]
    session = make_session(world.settings.trainer, open_to_look(world.settings), world.folder)
    sums = [batch.target_BPNF.sum().item() for batch in session.train.batches(0)]
    rows = [plain.to_json()["rows"], run.evaluate(baselines=["ridge"]).document["rows"]]
    return [*rows, sums, run.predict().to_dicts(), run.predict(at="2024-03-05").to_dicts()]


@pytest.fixture
def late(make_world: Callable[..., Any]) -> Any:
    """Seven dates; one of training and that of the test have a dump and no shard."""
    split = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07"}
    loading = {"policy": "streaming", "from_dumps": True}
    made = make_world(7, split=split, missing=0.3, loading=loading)
    dumps = {date: made.dump(date).read_text() for date in (LATE, dt.date(2024, 3, 7))}
    for date in dumps:
        made.dump(date).unlink()
    made.prepare()
    for date, text in dumps.items():
        made.dump(date).write_text(text)
    return made


def test_a_run_from_dumps_is_judged_and_forecasts_as_one_from_shards(
    late: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        benching, "_watch_process", lambda folder: (main(folder), 0)
    )  # a process of its own costs seconds
    trained(late, "dumps")
    dumps = judged(late, "dumps")
    benched = bench_epoch(late.settings, ways=["streaming", "mapped"])["ways"]
    late.prepare()
    late.tree["trainer"]["loading"] = {"policy": "streaming"}
    trained(late, "shards")
    shards = judged(late, "shards")
    assert dumps == shards
    (row,) = bench_epoch(late.settings, ways=["streaming"])["ways"]
    assert (benched[0]["windows"], benched[0]["train_loss"]) == (row["windows"], row["train_loss"])
    assert benched[1]["skipped"] == "dates without a shard cannot be mapped"


def test_where_a_dump_of_a_run_is_gone_it_is_judged_on_its_shards_and_told_so(late: Any) -> None:
    trained(late, "dumps")
    late.dump(LATE).unlink()
    run = dateshard.Run("dumps")
    (note,) = [
        line for line in run.evaluate("validation").document["notes"] if "without 2024-03-04, 2024-03-07" in line
    ]
    assert "the dump that the run read is gone" in note
    assert str(run.predict()["date"][0]) == "2024-03-07"


def test_dates_without_a_shard_are_left_out_of_what_was_observed(late: Any) -> None:
    """Nobody knows it before they are decoded, and no training decodes them for a line on a terminal."""
    looked = open_to_look(late.settings)
    shares = observed_cells(looked, [0])
    assert LATE in looked.manifest.dates
    assert shares == observed_cells(Dataset.open(late.store), [0])
    assert "test" not in shares
    assert shares["train"].share < 1


@pytest.mark.parametrize(
    ("split", "why"),
    [
        (None, r"2024-03-02 would move from the validation dates.*Name the split"),
        ({"train": 0.5, "validation": 0.5}, r"2024-03-03.*lie in no split.*ranges of dates"),
    ],
)
def test_a_split_does_not_move_and_dates_outside_of_it_are_refused(
    make_world: Callable[..., Any], split: Any, why: str
) -> None:
    made = make_world(3, split=split, loading={"policy": "streaming", "from_dumps": True})
    made.dump(dt.date(2024, 3, 3)).rename(late := made.folder / "late.csv")
    made.prepare()
    late.rename(made.dump(dt.date(2024, 3, 3)))
    with pytest.raises(UsageError, match=why):
        trained(made, "moved")


def test_dates_are_decoded_under_streaming_alone(world: Any) -> None:
    world.tree["trainer"]["loading"] = {"policy": "blocks", "from_dumps": True}
    with pytest.raises(UsageError, match="set policy: streaming"):
        _ = world.settings
