"""Writing the page of a run beside the run, and what `report --json` tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dateshard.documents.reporting import ReportDocument
from dateshard.reports.page_files import page_of, write_page
from dateshard.reports.run import gather
from dateshard.reports.run_page import run_report
from dateshard.trainer.runs.run_folder import TrainingRun

MoreSections = Callable[[Path], list[tuple[str, str, list[str]]]]  # (name, heading, parts) each


def _none(_folder: Path) -> list[tuple[str, str, list[str]]]:
    return []


def write_report(
    run: TrainingRun, output: str | None = None, split: str | None = None, more: MoreSections = _none
) -> ReportDocument:
    """Writes the page at once, the old one or the new.

    Evaluates first where no evaluation of the best checkpoint lies beside the run.

    Args:
        more: gives further sections of the page for the run's folder.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    facts = gather(run, split)
    data, verdict = run_report(facts, more(run.folder)).encode(errors="backslashreplace"), facts.verdict
    path = Path(output) if output else page_of(run.folder)
    write_page(path, data)
    return {
        "run": run.name,
        "file": str(path),
        "bytes": len(data),
        "split": verdict.split if verdict else None,
        "checkpoint": verdict.checkpoint if verdict else None,
        "evaluated_seconds": verdict.seconds if verdict and facts.fresh else None,
        "not_evaluated": facts.unjudged or None,
        "windows": None,
    }
