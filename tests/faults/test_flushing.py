"""What a command has said is done survives a power cut: files first, then folders, then the one name that counts.

The order of the calls is recorded in this process, so that the promise holds where nothing can be traced.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dateshard.cli import run
from tests.conftest import World, build_world
from tests.kit.durability import at_risk
from tests.kit.recording import recorded
from tests.kit.scenes import DATE, change_dump
from tests.kit.tracing import SYNCING, Call

PREPARE = "preprocess -c config.yaml --workers 1 -q"
TRAIN = "train -c config.yaml -q --run"
Changes = dict[str, list[Call]]


def cut_short(*patterns: str) -> Callable[[World], None]:
    """Takes the last bytes of every file of these patterns below data/."""

    def cut(world: World) -> None:
        files = [file for pattern in patterns for file in sorted((world.folder / "data").glob(pattern))]
        assert files
        for file in files:
            file.chmod(0o644)
            file.write_bytes(file.read_bytes()[:-9])

    return cut


STEPS = {
    "two dates first": f"{PREPARE} 2024-03-01..2024-03-02",
    "more dates": PREPARE,
    "one date again": f"{PREPARE} {DATE}",
    "a measured date mended": f"{PREPARE} {DATE} --force",
    "another format beside": f"{PREPARE} pipeline.store.formats=[zarr,parquet]",
    "a training": f"{TRAIN} cut trainer.checkpoint.export_pth=none",
    "more epochs, and run.json made again": "train --resume cut -q trainer.training.epochs=3",
    "a training with its checkpoints elsewhere": f"{TRAIN} away --save-dir data/far/elsewhere trainer.training.epochs=1",
    "an evaluation": "evaluate cut --split validation",
    "forecasts written": "predict cut --history raw/2024-03-03.csv --out data/out/forecasts.csv",
    "a checkpoint copied": "checkpoints copy cut best data/copies",
    "a checkpoint pinned": "checkpoints pin cut latest",
    "a checkpoint let go of": "checkpoints unpin cut latest",
    "a checkpoint exported": "checkpoints export cut latest data/out/latest.pth",
    "checkpoints removed": "checkpoints clean cut --keep-count 1",
    "dates exported": "export -c config.yaml train --to csv --to npy --out data/out",
    "generations removed": "clean -c config.yaml --keep 1",
}


BEFORE = {
    "one date again": change_dump,
    "a measured date mended": cut_short(f"shards/world/staged/{DATE}/*/values.f64"),
    "more epochs, and run.json made again": cut_short("runs/cut/run.json"),
}


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changes]:
    """{step: the calls of its command}."""
    split = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}
    trainer = {"checkpoint": {"save_freq": 2}, "training": {"epochs": 2, "batch_size": 16}, "baselines": ["repeat"]}
    world = build_world(tmp_path_factory.mktemp("journey"), 5, split=split, **trainer)
    world.config_file()
    changes: Changes = {}
    with contextlib.chdir(world.folder):
        Path("data/out").mkdir(parents=True)
        for step, words in STEPS.items():
            if step in BEFORE:
                BEFORE[step](world)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), recorded() as calls:
                code = run(words.split())
            assert code == 0, f"{words}: {printed.getvalue()}"
            changes[step] = calls
        yield changes


@pytest.mark.parametrize("step", STEPS)
def test_what_is_said_to_be_done_is_on_disk_before(journey: Changes, step: str) -> None:
    assert at_risk(journey[step]) == []
    assert at_risk([call for call in journey[step] if call.name not in SYNCING])
