"""`dateshard` is the only importable name: in a wheel, beside a script whose author has names of their own, and in the
code that was written when there were four."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel puts into an empty environment."""
    made = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(made)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = made.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(made / "site")
    return made / "site"


def python(code: str, cwd: Path, *path: Path) -> str:
    """What a script prints that stands in `cwd`."""
    (cwd / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    words = [sys.executable, "script.py"]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_has_one_package_with_every_module_of_the_four(site: Path, tmp_path: Path) -> None:
    assert sorted(path.name.partition("-")[0] for path in site.iterdir()) == ["dateshard", "dateshard"]  # and its facts
    ours = {
        str(path.relative_to(ROOT))
        for name in ("shardstore", "pipeline", "trainer")
        for path in (ROOT / name).rglob("*.*")
    }
    front = [folder for folder in (ROOT / "dateshard").iterdir() if folder.is_dir() and not folder.is_symlink()]
    ours |= {str(path.relative_to(ROOT / "dateshard")) for folder in front for path in folder.rglob("*.*")}
    there = {str(path.relative_to(site / "dateshard")) for path in (site / "dateshard").rglob("*.*")}
    assert {name for name in ours if "__pycache__" not in name} <= there
    code = "import dateshard.trainer.loop as loop, dateshard.pipeline.planning.plan as plan; print(loop.__file__, plan.__file__)"
    assert all(path.startswith(str(site)) for path in python(code, tmp_path, site).split())
    for name in ("shardstore", "pipeline", "trainer"):
        assert python(f"from importlib.util import find_spec; print(find_spec('{name}'))", tmp_path, site) == "None\n"


def test_names_of_ones_own_beside_a_script_change_nothing(site: Path, make_world: Any) -> None:
    world = make_world()
    world.prepare()
    for name in ("pipeline", "trainer", "shardstore"):
        (world.folder / f"{name}.py").write_text("raise SystemExit('mine')\n")
    code = "import dateshard\nprint(len(dateshard.open('data/shards/world').dates))\n"
    assert python(code, world.folder, site) == f"{len(world.rows)}\n"


FORMER = """
from trainer.models.shape import Shape as Former
from dateshard.trainer.models.shape import Shape
import pipeline.formats
import dateshard.pipeline.raw.formats
def build(shape, config):
    assert Former is Shape and isinstance(shape, Former)
    assert pipeline.formats is dateshard.pipeline.raw.formats and pipeline.formats.__spec__.name.endswith('pipeline.raw.formats')
"""


def test_a_model_that_was_written_for_the_former_names_is_built(site: Path, tmp_path: Path) -> None:
    (tmp_path / "former.py").write_text(FORMER)
    make = (
        "from dateshard.shardstore.own_code.user_code import load; from dateshard.trainer.models.shape import Shape;"
        "load('former:build', 'model.name')(Shape.__new__(Shape), None); print('built')"
    )
    assert python(make, tmp_path, site) == "built\n"


def test_a_module_of_ones_own_goes_before_a_former_name(site: Path, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("NAME = 'mine'\n")
    (tmp_path / "model.py").write_text("import trainer\ndef build(*_):\n    print(trainer.NAME)\n")
    assert (
        python("from dateshard.shardstore.own_code.user_code import load; load('model:build', 'x')()", tmp_path, site)
        == "mine\n"
    )
