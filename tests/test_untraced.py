"""What a test run says last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.untraced import NO_STRACE, NOT_ALLOWED

TESTS = f"""
import pytest
@pytest.fixture(scope="module")
def traced(): pytest.skip("{NO_STRACE}")
def test_one(traced): pass
def test_two(traced): pass
def test_three(): pass
def test_four(): pytest.skip("another reason")
def test_five(): pytest.skip("{NOT_ALLOWED}")
"""


@pytest.mark.parametrize(
    ("chosen", "last"),
    [
        (
            "one or two or three or four",
            f"NOT RUN: 2 of the tests of failing system calls and sudden ends, because {NO_STRACE}",
        ),
        ("five", f"NOT RUN: 1 of the tests of failing system calls and sudden ends, because {NOT_ALLOWED}"),
        ("three or four", "1 passed, 1 skipped, 3 deselected"),
    ],
)
def test_the_last_line_of_a_test_run_says_what_was_not_traced(tmp_path: Path, chosen: str, last: str) -> None:
    (tmp_path / "conftest.py").write_text("from tests.kit.untraced import pytest_unconfigure\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": root}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith(last)
