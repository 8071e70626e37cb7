"""A pretrained model from PyPI as a baseline, in an environment of its own, by the very lines of docs/metrics.md."""

from __future__ import annotations

import json
import re
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "fracast==0.1.0"
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06..2024-03-07"}


def environment_with(folder: Path, *packages: str, alone: bool = True) -> Path:
    """Returns the Python of a new environment, which sees what this one sees, and packages beside it.

    Skips where they cannot be had. `alone`: without what they depend on."""
    venv.create(folder, with_pip=True)
    (own,) = (folder / "lib").glob("python*/site-packages")
    beside = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    (own / "beside.pth").write_text(beside)
    python = folder / "bin" / "python"
    constraints = ["--no-deps"] if alone else ["-c", str(Path(__file__).parents[2] / "constraints.txt")]
    command = [python, "-m", "pip", "install", "-q", *constraints, *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be installed: {done.stderr.strip()[-200:]}")
    return python


@pytest.mark.slow
def test_the_pretrained_model_of_the_documents_is_judged_as_they_say(
    make_world: Callable[..., Any], tmp_path: Path
) -> None:
    world = make_world(7, split=SPLIT, window={"history": 12, "horizon": 4}, targets=["speed"])
    world.prepare()
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "from fracast" in block)
    (tmp_path / "fracast_rival.py").write_text(code)
    names = "repeat,mean,fracast_rival:forecast:48"
    words = ["evaluate", "-c", str(world.config_file()), "--baselines", names, "--baseline-windows", "6", "--json"]
    python = environment_with(tmp_path / "env", PACKAGE)
    done = subprocess.run([python, "-m", "dateshard", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)["sample"]
    errors = {row["name"]: row["scaled"]["mse"] for row in sample["rows"]}
    assert sample["windows"] == 6
    assert list(errors) == ["repeat", "mean", "fracast_rival:forecast:48"]
    assert 0 < errors["fracast_rival:forecast:48"] < 3 * errors["mean"]
    assert "fracast" not in sys.modules
