"""The processes of one training: none is left behind by another that ended before they met."""

from __future__ import annotations

import pytest

from dateshard.training.launch import RankEnd, run_in_processes


def test_a_process_does_not_wait_for_a_first_one_that_ended_before_they_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dateshard.training.launch.PARTING", 1e9)  # so one that is waited for ends by itself, with 0
    ends = run_in_processes(["sh", "-c", '[ "$RANK" = 0 ] || { echo waits; exec sleep 60; }'], 2)
    assert ends in ([RankEnd(0, ""), RankEnd(None, "waits")], [RankEnd(0, ""), RankEnd(None, "")])
