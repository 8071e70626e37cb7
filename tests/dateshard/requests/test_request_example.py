"""The example `requests`: what init writes is read as a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from dateshard.cli import run
from dateshard.requests.trace import read_trace


def test_init_writes_a_trace_that_is_known_by_its_header_and_prints_how_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATESHARD_DATA", raising=False)
    assert run(["init", "--example", "requests"]) == 0
    assert "next: dateshard requests train --data-path data/raw/requests/requests.csv" in capsys.readouterr().out
    trace = read_trace("data/raw/requests/requests.csv")
    assert trace.format == "BurstGPT"
    assert trace.counts.raw > 60_000
    assert [*trace.counts.dropped] == ["failed (no output tokens)"]
    assert not len(trace.hole_starts())
