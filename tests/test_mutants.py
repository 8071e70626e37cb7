"""The list of changes fits the source, and `make mutants` fails for what no test notices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants import run as mutants
from tests.mutants.run import ROOT, Change, load, main, stale

LIMIT = 77
CODE = "def larger(a, b):\n    return a if a > b else b\n"
TESTS = """
from code_of import larger
def test_larger(): assert larger(1, 2) == larger(2, 1) == 2
def test_another(): assert True
"""
SPENT = f"""
    import resource, signal
    if resource.getrlimit(resource.RLIMIT_CPU)[0] == {LIMIT}:
        signal.raise_signal(signal.SIGXCPU)  # as the kernel does when the limit is reached
    return"""
CAUGHT = Change("smaller", "code_of.py", "a > b", "a < b", ("test_code.py::test_larger",))
SURVIVOR = Change("a tie", "code_of.py", "a > b", "a >= b", ("test_code.py",))
ENDLESS = Change("endless", "code_of.py", "    return", SPENT, ("test_code.py",))
NO_CODE = Change("no code", "code_of.py", "def", "define", ("test_code.py",))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a second each
    monkeypatch.setattr(mutants, "PYTEST", ("-m", "pytest", "-q", "-p", "no:cacheprovider"))
    (tmp_path / "code_of.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TESTS)
    return tmp_path


def run(tree: Path, *changes: Change) -> int:
    before = {path: path.read_bytes() for path in tree.iterdir()}
    code = main(tree, ["code_of.py", "test_code.py"], changes, jobs=1, limit=LIMIT)
    assert {path: path.read_bytes() for path in tree.iterdir()} == before
    return code


def test_every_change_of_the_list_applies_and_names_tests_that_exist() -> None:
    assert stale(ROOT, load()) == []


def test_only_changes_that_a_test_notices_pass(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tree, CAUGHT, SURVIVOR, ENDLESS, NO_CODE) == 1
    smaller, tie, endless, *_, last = capsys.readouterr().out.splitlines()
    assert smaller.split() == ["caught", "code_of.py", "smaller", "<-", "test_code.py::test_larger"]
    assert tie.startswith("survived")
    assert endless.endswith(f"endless  <- more than {LIMIT} s of processor time")
    assert last == "4 changes: 2 caught, 1 survived, 1 broken"
    assert run(tree, CAUGHT) == 0


def test_a_change_that_does_not_apply_fails_the_run_before_anything_is_run(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "0 times in code_of.py: a = b": replace(CAUGHT, before="a = b"),
        "4 times in code_of.py: a": replace(CAUGHT, before="a"),
        "0 times in gone.py: a > b": replace(CAUGHT, file="gone.py"),
        "no test test_code.py::test_gone": replace(CAUGHT, tests=("test_code.py::test_gone",)),
        "1 times in code_of.py: a > b": replace(CAUGHT, after=CAUGHT.before),
    }
    for text, change in wrong.items():
        assert run(tree, change) == 1
        assert capsys.readouterr().out == f"smaller: {text}\n1 faults in the list: nothing was run\n"


def test_tests_that_fail_without_any_change_fail_the_run(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "test_code.py").write_text(TESTS.replace("== 2", "== 1"))
    assert run(tree, CAUGHT) == 1
    assert "the tests fail before anything is changed" in capsys.readouterr().out
