"""A command on many nodes makes the calls that it makes on few: what is done of each node is done by arrays."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bench.nodes import Nodes

Run = Callable[..., Any]
FEW, MANY = 200, 2_000
UNCOUNTED = (
    "/threading.py",
    "/asyncio/",
    "/concurrent/",
    "/selectors.py",
    "/hypothesis/",
)  # as threads and gc happen to run
HARDLY = 200  # calls more: as many as a loop over a ninth of the nodes would make
COMMANDS = {
    "plan": ("plan", "-c", "config.yaml"),
    "status": ("status", "-c", "config.yaml"),
    "verify": ("verify", "--full", "-c", "config.yaml"),
    "inspect": ("inspect", "-c", "config.yaml"),
    "report --data": ("report", "--data", "-c", "config.yaml"),
    "statistics --drift": ("statistics", "--drift", "-c", "config.yaml"),
    "clean": ("clean", "--dry-run", "-c", "config.yaml"),
    "evaluate": ("evaluate", "r"),
    "evaluate --json": ("evaluate", "r", "--json"),
    "report": ("report", "r"),
    "predict": ("predict", "r", "--out", "forecast.parquet"),
    "predict of dumps": ("predict", "r", "--history", "raw/{date}.csv", "--out", "forecast.parquet"),
    "export --to npy": ("export", "latest", "--to", "npy", "--force", "-c", "config.yaml"),
}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each function is called in it, generators that go on included, by its place in the code."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if any(part in frame.f_code.co_filename for part in UNCOUNTED):
            return
        if event == "call":
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_firstlineno} {frame.f_code.co_name}"] += 1
        elif event == "c_call":
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_firstlineno} {argument.__name__}()"] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of few and of many nodes, prepared, with a trained and evaluated run."""
    from dateshard.cli import run

    before, folders = Path.cwd(), {}
    for num_nodes in (FEW, MANY):
        folder = folders[num_nodes] = tmp_path_factory.mktemp(str(num_nodes))
        Nodes(folder=folder, num_nodes=num_nodes).write()
        spots = [f"s{index:06},{index % FEW // 20},{index % 20}\n" for index in range(num_nodes)]  # as many circles
        (folder / "nodes.csv").write_text("id,lat,lon\n" + "".join(spots))
        os.chdir(folder)
        assert run(["preprocess", "--workers", "1", "-c", "config.yaml"]) == 0
        assert run(["train", "--run", "r", "-c", "config.yaml"]) == 0
        assert run(["evaluate", "r"]) == 0  # a report shows what is kept
    os.chdir(before)
    return folders


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_makes_hardly_more_calls_on_ten_times_the_nodes(
    name: str, stores: dict[int, Path], ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for num_nodes, calls in ((FEW, None), (FEW, Counter()), (MANY, Counter())):  # the first call imports and warms up
        monkeypatch.chdir(stores[num_nodes])
        shutil.rmtree("data/runs/r/intervals", ignore_errors=True)
        if calls is None:
            ds(*COMMANDS[name])
            continue
        with counted() as found:
            ds(*COMMANDS[name])
        counts[num_nodes] = found
    more = counts[MANY] - counts[FEW]
    total = counts[MANY].total() - counts[FEW].total()
    assert total < HARDLY, more.most_common(12)
