"""Code that a configuration names: where it is looked for, and what stays of it on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.own_code.user_code import describe_error, load

NAME = "named_in_a_test"


@pytest.fixture(autouse=True)
def _path_as_a_console_script_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(tmp_path))])
    yield
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        del sys.modules[name]


def write(folder: Path, value: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.py").write_text(f"def get():\n    return {value}\n")


def test_the_working_directory_is_looked_in_first_and_stands_last_afterwards(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path / "installed", 2)
    sys.path.insert(0, str(tmp_path / "installed"))
    before = [*sys.path]
    assert load(f"{NAME}:get", "model.name")() == 1
    assert sys.path == [*before, str(tmp_path)]
    load(f"{NAME}:get", "model.name")
    assert sys.path == [*before, str(tmp_path)]


def test_a_module_in_a_package_and_one_that_is_installed_are_found_too(tmp_path: Path) -> None:
    package = tmp_path / f"{NAME}_package"
    write(package, 3)
    assert load(f"{NAME}_package.{NAME}:get", "model.name")() == 3
    assert load("json:dumps", "model.name")([1]) == "[1]"


def test_the_path_is_as_before_after_a_module_that_is_not_there() -> None:
    before = set(sys.path)
    with pytest.raises(UsageError, match=r"model\.name: there is no module 'nowhere_at_all'"):
        load("nowhere_at_all:get", "model.name")
    assert set(sys.path) - before <= {str(Path.cwd())}


def test_an_error_of_somebody_elses_code_is_told_with_its_own_last_line(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.py").write_text("import json\ndef get():\n    return json.loads('{')\n")
    with pytest.raises(ValueError, match="Expecting") as caught:
        load(f"{NAME}:get", "model.name")()
    assert describe_error(caught.value).endswith(f"({tmp_path / NAME}.py, line 3)")
    assert describe_error(KeyboardInterrupt()) == "KeyboardInterrupt"
