"""Which runs the jobs of a service still have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dateshard.service.jobs.database import FILE
from dateshard.service.jobs.job_states import DONE
from dateshard.service.jobs.job_table import JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import NotThereError, UsageError, Where


def refuse_runs_of_jobs(data: Path, names: Sequence[str]) -> None:
    """Refuses to remove runs of jobs that may go on. Opens nothing where no service has run.

    Raises:
        UsageError: a job that is not complete has one of these runs.
    """
    folder = ServiceFolder(data)
    if not (folder.path / FILE).exists():
        return
    table = JobTable.open(folder.path)
    for name in names:
        try:
            job = table.job(name)
        except NotThereError:
            continue
        if job.state not in DONE:
            todo = f"Stop and delete the job first: {command('jobs', 'delete', name)}"
            raise UsageError(
                f"a job of the service has this run, and is {job.state}", where=Where(file=name), todo=todo
            )
