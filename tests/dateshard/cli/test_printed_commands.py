"""What is printed to be run runs as it is printed; and which configuration is taken where none is named."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from dateshard.cli import COMMANDS, root, run
from dateshard.pipeline.workers.pool import Workers
from dateshard.shardstore.commands import Door, by_door, command, door, stand_at
from dateshard.terminal.chosen import configuration_of
from tests.conftest import World, environment
from tests.kit.chores import printed

Run = Callable[..., Any]
ROOT = Path(__file__).parents[3]


def ways(folder: Path) -> dict[str, list[str]]:
    """The words with which people start it; a folder has a blank in its name."""
    script = folder / "my tools" / "dateshard"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom dateshard.__main__ import main\nmain()\n")
    script.chmod(0o755)
    module = [sys.executable, "-W", "error", "-m", "dateshard"]
    return {"relative": ["my tools/dateshard"], "absolute": [str(script)], "module": module}


@pytest.mark.parametrize("way", ["relative", "absolute", "module", "on the path"])
def test_printed_commands_begin_as_this_one_did_and_run(way: str, tmp_path: Path) -> None:
    words = {**ways(tmp_path), "on the path": ["dateshard"]}[way]
    around = {**environment(), "PYTHONPATH": str(ROOT), "DATESHARD_DATA": str(tmp_path / "data")}
    if way == "on the path":
        around["PATH"] = f"{tmp_path / 'my tools'}:{around['PATH']}"

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", line], env=around, text=True, capture_output=True, cwd=tmp_path)

    first = shell(shlex.join([*words, "init"]))
    following = re.search(r"^then: (.*)$", first.stdout, re.MULTILINE)
    assert following, first.stderr
    assert following[1] == shlex.join([*words, "preprocess", "-c", "configs/mydata.yaml"])
    if way == "relative":
        there = shell(shlex.join([*words, "init", "new folder"]))
        assert shell(there.stdout.partition("then: ")[2].replace("preprocess", "config check")).returncode == 0
    assert shell(f"{following[1]} --help").stdout.startswith(f"Usage: {shlex.join(words)} preprocess ")


def test_a_make_target_is_not_told_to_do_what_it_does_next(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "next: dateshard preprocess -c configs/traffic.yaml\n"
        in ds("init", "--example", "traffic", "--dates", "10").out
    )
    makefile = (ROOT / "Makefile").read_text()
    assert "\ntrain: export DATESHARD_STEP := 1\n" in makefile
    monkeypatch.setenv("DATESHARD_STEP", "1")
    assert "next:" not in ds("init", "--example", "traffic", "--dates", "10").out


def test_words_with_blanks_and_shell_characters_are_quoted_in_what_is_printed(
    ds: Run, make_world: Callable[..., World]
) -> None:
    world = make_world(3)
    world.config_file().rename("my $settings;.yaml")
    told = ds("status", "-c", "my $settings;.yaml", "dataset=other", code=4).out
    mend = re.search(r"Run: (.*)$", told, re.MULTILINE)
    assert mend
    assert shlex.split(mend[1]) == ["dateshard", "preprocess", "-c", "my $settings;.yaml", "dataset=other"]
    assert run([*shlex.split(mend[1])[1:], "--workers", "1", "-q"]) == 0
    assert ds("status", "-c", "my $settings;.yaml", "dataset=other").code == 0


def test_an_error_of_a_worker_names_the_command_as_its_parent_was_started() -> None:
    before = stand_at(Door(("bin/dateshard",), ("plan",), ("-c", "a b.yaml")))
    try:
        with Workers(2) as workers:
            found = [outcome for _, outcome in workers.run([(k, printed, ("status",)) for k in range(2)])]
    finally:
        stand_at(before)
    assert found == ["bin/dateshard status -c 'a b.yaml'"] * 2


def test_hints_are_those_of_the_command_line_only_while_a_command_runs(ds: Run) -> None:
    assert by_door("shell", "python") == "python"
    ds("version")
    assert (door(), by_door("shell", "python")) == (Door(), "python")
    assert command("status", config=True) == "dateshard status -c CONFIG"


def configurations(*names: str) -> None:
    Path("configs").mkdir(exist_ok=True)
    for name in names:
        Path("configs", name).write_text(f"dataset: {name.split('.')[0]}\n")


def test_the_only_configuration_is_taken_and_said(ds: Run) -> None:
    configurations("mine.yaml")
    Path("configs/overlay.yaml").write_text("trainer: {training: {epochs: 1}}\n")  # names no dataset: none alone
    Path("configs/notes.txt").write_text("dataset: notes\n")
    for words in (("config", "check"), ("status",), ("estimate",), ("train",), ("train", "--resume", "auto")):
        done = ds(*words, code=None)
        assert done.err.startswith("configuration configs/mine.yaml, the only one in configs/\n"), words
    assert "no committed dataset here. Run: dateshard preprocess -c configs/mine.yaml\n" in ds("inspect", code=4).err
    assert "configuration " not in ds("train", "-q", code=4).err
    assert "configuration " not in ds("status", "-c", "configs/overlay.yaml", code=2).err


def test_of_several_configurations_none_is_taken_and_the_first_is_in_the_command(ds: Run) -> None:
    configurations("b.yaml", "a x.yml")
    error = ds("plan", "2013-03-05", "--explain", code=2).err
    assert "there are 2: configs/a x.yml, configs/b.yaml" in error
    assert error.endswith("dateshard plan 2013-03-05 --explain -c 'configs/a x.yml'\n")
    assert configuration_of(("plan",)) == ("-c", "CONFIG")


def test_without_any_configuration_init_is_named(ds: Run) -> None:
    assert (
        "configs/ holds none. Write one by a look at your data: dateshard init --from FILE; or name one with -c"
        in ds("preprocess", code=2).err
    )


def worded(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    """Every command that takes words."""
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(click.Context(group)):
        inner = group.get_command(click.Context(group), name)
        if isinstance(inner, click.Group):
            found += worded(inner, *before, name)
        elif inner and any(
            isinstance(p, click.Argument) and not isinstance(p.type, click.Choice) for p in inner.params
        ):
            found.append((*before, name))
    return found


def test_a_configuration_as_a_word_of_any_command_hints_at_its_option(ds: Run) -> None:
    configurations("a.yaml", "b.yaml")
    commands = worded(root)  # type: ignore[arg-type]
    assert {words[0] for words in commands} >= set(COMMANDS) - {"doctor", "version", "completion", "runs"}
    for words in commands:
        error = ds(*words, "configs/a.yaml", code=2).err
        assert f"name a configuration with -c: dateshard {shlex.join([*words, '-c', 'configs/a.yaml'])}\n" in error, (
            words
        )


def test_settings_given_beside_the_only_configuration_stay_in_what_is_printed(
    ds: Run, make_world: Callable[..., World]
) -> None:
    world = make_world(3)
    Path("configs").mkdir()
    Path("configs/only.yaml").write_text(f"dataset: world\npipeline: {json.dumps(world.tree['pipeline'])}\n")
    for command_of in ("plan", "status"):
        said = ds(command_of, "dataset=other", code=None).out
        assert said.endswith("Run: dateshard preprocess -c configs/only.yaml dataset=other\n"), command_of
    kept = ("pipeline.step=1h", "dataset=other", "trainer.training.epochs=1")
    assert configuration_of(("plan", *kept, "a=b.csv")) == ("-c", "configs/only.yaml", *kept)
