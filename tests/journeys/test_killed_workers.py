"""Worker processes of a real preprocess that are killed: the run goes on, and ends with the bytes of a quiet one."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dateshard.cli
from dateshard.pipeline.acts import measure_date
from dateshard.pipeline.execution import measuring
from tests.pipeline.workers.test_workers import POISON, poisonous

SPLIT = {"train": "2024-03-01..2024-03-10", "validation": "2024-03-11..2024-03-14"}
PREPARE = ("preprocess", "-c", "config.yaml", "--workers", "2")
KILLED = (dt.date(2024, 3, 2), dt.date(2024, 3, 7))
PARENT = """
import sys
sys.path = {path}
from dateshard.pipeline.execution import measuring
from tests.journeys import test_killed_workers
measuring.measure_date = test_killed_workers.{measure}
from dateshard.cli import run
sys.exit(run(sys.argv[1:]))
"""


def measure_waiting(root: Path, dump: Any, date: dt.date, *rest: Any) -> Any:
    """`measure_date`, but in the middle of some dates a worker says who it is and waits for its end, the first time."""
    mark = Path(f"worker-{date}")
    if date in KILLED and not mark.exists():
        mark.with_suffix(".new").write_text(str(os.getpid()))
        mark.with_suffix(".new").rename(mark)
        time.sleep(120)
    return measure_date(root, dump, date, *rest)


def as_parent(measure: str) -> tuple[str, str]:
    """What to run in place of `-m dateshard`, so that its workers measure in another way."""
    return "-c", PARENT.format(path=sys.path, measure=measure)


def test_killed_workers_cost_their_date_a_second_try_and_the_run_ends_well(
    make_world: Any, launch: Any, committed: Any, content: Any
) -> None:
    world = make_world(14, split=SPLIT)
    world.config_file()
    process = launch(*PREPARE, "--json", prefix=as_parent("measure_waiting"))
    for date in KILLED:
        mark = Path(f"worker-{date}")
        assert process.until(mark.exists)
        os.kill(int(mark.read_text()), signal.SIGKILL)
    process.wait()
    document = json.loads(process.out)
    assert (document["failed"], document["measured"], document["dates"]) == ({}, 14, 14)
    assert process.err.count("its worker process was killed by SIGKILL; it is tried alone at the end") == 2
    found = committed(world)
    world.store.rename(world.folder / "away")
    world.prepare()
    assert found == content(world.open())


def test_the_command_names_a_poison_date_what_killed_it_and_what_goes_on(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-03"})
    words = ["preprocess", "-c", str(world.config_file()), "--workers", "2"]
    monkeypatch.setattr(measuring, "measure_date", poisonous)
    assert dateshard.cli.run(words) == 3
    out = capfd.readouterr().out
    assert f"again   {POISON}  its worker process was killed by SIGKILL; it is tried alone at the end" in out
    (failed,) = (line for line in out.splitlines() if line.startswith("failed"))
    assert failed.startswith(f"failed  {POISON}  its worker process was killed by SIGKILL, and when it ran alone")
    assert "run with --workers 1" in failed
    assert f"1 failed: {POISON}. Correct what the messages above say, then run: dateshard {' '.join(words)}\n" in out


def test_fail_fast_of_the_command_keeps_what_was_measured_and_says_how_to_go_on(
    make_world: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    world = make_world(6, split={"train": "2024-03-01..2024-03-03"})
    date = dt.date(2024, 3, 3)
    world.dump(date).write_text("time,node,speed,vehicles\n2024-03-03T00:00:00+00:00,n1,x,1\n")
    words = ["preprocess", "-c", str(world.config_file()), "--workers", "1", "--fail-fast"]
    assert dateshard.cli.run(words) == 3
    out = capfd.readouterr().out
    assert "no generation yet: 0 shards written; 2 dates measured" in out
    assert "stopped at the first failure (--fail-fast): nothing was committed after it" in out
    assert f"then run: dateshard {' '.join(words)}" in out
    assert not Path(world.store / "CURRENT").exists()
    assert dateshard.cli.run([*words[:-1], "--json"]) == 3
    document = json.loads(capfd.readouterr().out)
    assert (document["measured"], document["written"], document["cut_short"]) == (3, 5, False)
    assert document["peak_memory_bytes"] > 10 << 20
