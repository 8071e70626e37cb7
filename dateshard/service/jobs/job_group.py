"""A job in several processes: they are started and waited for here, and what the first cannot tell of their end is told."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from dateshard.service.jobs.job_table import JobTable
from dateshard.shardstore.errors import NotThereError
from dateshard.training.launch import LEFT_ALONE, RankEnd, run_in_processes


def run_job_in_processes(table: JobTable, job_id: str, attempt: int, words: Sequence[str], count: int) -> int:
    """Trains a job in `count` processes; returns when all of them are gone, with an exit code.

    The first takes the job, and brings it to rest unless another one, or itself, was killed or failed.
    """
    ends = run_in_processes(words, count)
    outcome = outcome_of(ends)
    try:
        if outcome is not None and (job := table.job(job_id)).attempt == attempt:
            table.settle(job, *outcome)
    except NotThereError:  # deleted since
        pass
    code = ends[0].code
    return 1 if code is None or code < 0 else code


def outcome_of(ends: Sequence[RankEnd]) -> tuple[str, str] | None:
    """The state and the reason of a job whose first process may not have brought it to rest; None: nothing is known."""
    for rank, end in enumerate(ends):
        if end.code is not None and end.code < 0:
            how = f"process {rank} of {len(ends)} was killed by {signal.Signals(-end.code).name}"
            return "interrupted", f"{how}; it goes on from its last checkpoint"
    for rank, end in enumerate(ends[1:], start=1):
        if end.code and end.code != LEFT_ALONE:
            return "failed", f"process {rank} of {len(ends)}: {end.last or f'exit code {end.code}'}"
    if ends[0].code == LEFT_ALONE:
        return "interrupted", "another of its processes is gone; it goes on from its last checkpoint"
    return None
