"""Commands run in this process: what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from dateshard.cli import run

if TYPE_CHECKING:
    from tests.kit.trained_trace import TrainedTrace


@dataclass(frozen=True, slots=True)
class Done:
    """One command's end."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def ds(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """ds("plan", "-c", "config.yaml") -> Done; the exit code must be `code` unless that is None."""

    def call(*arguments: str, code: int | None = 0) -> Done:
        capsys.readouterr()
        found = run(list(arguments))
        out, err = capsys.readouterr()
        assert code is None or found == code, f"exit {found}\n{out}\n{err}"
        return Done(found, out, err)

    return call


class Terminal:
    """Makes stdout look like a terminal of a given width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def of(self, width: int) -> None:
        import sys

        self.monkeypatch.setenv("COLUMNS", str(width))
        self.monkeypatch.setenv("TERM", "xterm")
        self.monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """terminal.of(80): what is printed from here on goes to a terminal."""
    return Terminal(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedTrace:
    """Models of a small trace."""
    from tests.kit.trained_trace import trained_in

    return trained_in(tmp_path_factory.mktemp("trace"))
