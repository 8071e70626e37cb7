"""Lightning, HuggingFace's Trainer, accelerate, torchdata and torch's own loader, in an environment that has them.

What docs/notebooks.md says of each is what is measured here: whether the order is kept with two workers, and whether a second
process goes on at the very next batch of the epoch in which the first one stopped.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import build_world, environment
from tests.journeys.test_pretrained import environment_with
from tests.kit import framework_loops

PAGE = Path(__file__).parents[2] / "docs" / "notebooks.md"
FRAMEWORKS = ("lightning==2.6.6", "transformers==5.24.0", "accelerate==1.15.0", "torchdata==0.11.0")
SPLIT = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}


ROW = re.compile(r"^\| (\w+) [\d.]+ \| `(\w+)`( of torchdata)? \| (\d) \| (yes|no)\b[^|]*\| (yes|no)\b", re.MULTILINE)
TABLE = [
    (name.lower(), f"{'torchdata ' if of else ''}{given}", int(workers), kept == "yes", exact == "yes")
    for name, given, of, workers, kept, exact in ROW.findall(PAGE.read_text())
]
Loop = Callable[..., list[tuple[int, str]]]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """loop(framework, what it is given, workers, folder, resumed=) -> (epoch, print of a batch) in the order of training."""
    folder = tmp_path_factory.mktemp("frameworks")
    python = environment_with(folder / "env", *FRAMEWORKS, alone=False)
    world = build_world(folder, 7, missing=0.3, split=SPLIT)
    world.prepare()

    def run(name: str, given: str, workers: int, save: Path, *, resumed: bool = False) -> list[tuple[int, str]]:
        words = [name, given, str(workers), str(world.store), str(save), "resumed" if resumed else "fresh"]
        own = {**environment(), "PYTHONPATH": str(PAGE.parents[1]), "PYTHONWARNINGS": "ignore"}
        command = [str(python), framework_loops.__file__, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=save)
        assert done.returncode == 0, done.stderr
        return [tuple(seen) for seen in json.loads(done.stdout.partition("SEEN ")[2])]

    return run


@pytest.fixture(scope="module")
def wanted(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """What dateshard's own loop sees."""
    return loop("reference", "windows", 0, tmp_path_factory.mktemp("reference"))


def test_the_page_says_how_each_framework_goes_on() -> None:
    assert {name for name, *_ in TABLE} == set(framework_loops.LOOPS)
    assert len(TABLE) >= 8


@pytest.mark.slow
@pytest.mark.parametrize(("name", "given", "workers", "kept", "exact"), TABLE)
def test_a_framework_keeps_the_order_and_resumes_as_the_page_says(
    loop: Loop,
    wanted: list[tuple[int, str]],
    tmp_path: Path,
    name: str,
    given: str,
    workers: int,
    kept: bool,
    exact: bool,
) -> None:
    stop = len(wanted) // framework_loops.EPOCHS + framework_loops.STOP
    assert (loop(name, given, workers, tmp_path) == wanted[:stop]) is kept
    assert (loop(name, given, workers, tmp_path, resumed=True) == wanted[stop:]) is exact
