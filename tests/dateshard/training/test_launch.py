"""The processes of one training: none is left behind by another, and nothing connects them when they end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dateshard.training.launch import RankEnd, run_in_processes


def test_a_process_does_not_wait_for_a_first_one_that_ended_before_they_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dateshard.training.launch.PARTING", 1e9)  # so one that is waited for ends by itself, with 0
    ends = run_in_processes(["sh", "-c", '[ "$RANK" = 0 ] || { echo waits; exec sleep 60; }'], 2)
    assert ends in ([RankEnd(0, ""), RankEnd(None, "waits")], [RankEnd(0, ""), RankEnd(None, "")])


JOINED = """
import atexit, os, sys
from pathlib import Path
import torch
atexit.register(lambda: Path(sys.argv[1], os.environ["RANK"]).write_text(str(torch.distributed.is_initialized())))
from dateshard.trainer.devices.mesh import join, mesh_of
join(mesh_of(os.environ), torch.device("cpu"))
assert torch.distributed.is_initialized()
"""


def test_nothing_connects_the_processes_once_they_end(tmp_path: Path) -> None:
    """Else C++ takes threads apart that still run, and now and then ends a finished training by SIGABRT."""
    assert run_in_processes([sys.executable, "-c", JOINED, str(tmp_path)], 2) == [RankEnd(0, ""), RankEnd(0, "")]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["False", "False"]
