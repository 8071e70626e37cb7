"""What a preprocess shows as it goes, when nobody reads it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dateshard.terminal import progress as module
from dateshard.terminal.progress import Progress
from dateshard.terminal.screen import Screen


def test_a_reader_that_went_away_ends_the_log_lines_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """`dateshard preprocess | head -3`: the thread of the log lines says nothing, the work itself tells."""
    asked, traces = threading.Event(), list[Any]()

    class Gone:
        def isatty(self) -> bool:
            return False

        def write(self, _text: str) -> int:
            asked.set()
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(threading, "excepthook", traces.append)
    screen = Screen()
    screen.out = Gone()  # type: ignore[assignment]
    with Progress(screen) as progress:
        progress.begin("measure", 3)
        assert asked.wait(10)
    assert not traces
