"""The public names of the packages: they exist, say what they are, cost nothing until used, and the page tells them."""

from __future__ import annotations

import builtins
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dateshard.documents.python_page import PACKAGES, python_page
from tests.test_architecture import is_sentence

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
NAMES = [(package, name) for package in PACKAGES for name in (PACKAGES[package] or import_module(package).__all__)]


def test_the_page_is_what_the_docstrings_say() -> None:
    assert python_page() == PAGE.read_text()


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_is_there_and_says_what_it_is(package: str, name: str) -> None:
    thing: Any = getattr(import_module(package), name)
    assert is_sentence((thing.__doc__ or "").strip().split("\n")[0])


def test_a_star_hides_no_built_in() -> None:
    names: dict[str, Any] = {}
    exec("from dateshard import *", names)  # as a notebook does
    assert names["predict"] is import_module("dateshard").predict
    assert not {name for name in names if hasattr(builtins, name)} - {"__doc__", "__name__", "__builtins__"}


def test_importing_the_packages_loads_no_library() -> None:
    words = (
        f"import sys; import {', '.join(PACKAGES)}; print(*sorted({{'numpy', 'torch', 'polars'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_is_no_public_name_is_no_attribute() -> None:
    for package in PACKAGES:
        with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'nothing'"):
            import_module(package).nothing
