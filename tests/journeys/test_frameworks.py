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
from typing import Any

import pytest

from tests.conftest import build_world, environment
from tests.journeys.test_pretrained import environment_with
from tests.kit import framework_loops
from tests.kit.framework_loops import EPOCHS, STOP

PAGE = Path(__file__).parents[2] / "docs" / "notebooks.md"
FRAMEWORKS = ("lightning==2.6.6", "transformers==5.24.0", "accelerate==1.15.0", "torchdata==0.11.0")
SPLIT = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """loop(framework, what it is given, workers, folder, resumed=) -> [epoch, batch] that its model saw, in order."""
    folder = tmp_path_factory.mktemp("frameworks")
    python = environment_with(folder / "env", *FRAMEWORKS)
    world = build_world(folder, 7, missing=0.3, split=SPLIT)
    world.prepare()

    def run(name: str, given: str = "own", workers: int = 0, save: Path = folder, *, resumed: bool = False) -> Any:
        words = [name, given, str(workers), str(world.store), str(save), "resumed" if resumed else "fresh"]
        own = {**environment(), "PYTHONPATH": str(PAGE.parents[1]), "PYTHONWARNINGS": "ignore"}
        command = [python, framework_loops.__file__, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=save)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.partition("SEEN ")[2])

    return run


def rows() -> list[tuple[str, str, int, bool, bool]]:
    """The table of the page: (framework, what it is given, workers, the order is kept, a resume is exact)."""
    pattern = r"^\| (\w+) [\d.]+ \| `([\w-]+)` \| (\d) \| (yes|no)\b[^|]*\| (yes|no)\b"
    found = re.findall(pattern, PAGE.read_text(), re.MULTILINE)
    return [(name, given, int(workers), kept == "yes", exact == "yes") for name, given, workers, kept, exact in found]
