"""Writing the page of a run beside the run, and what `report --json` tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dateshard.documents.reporting import ReportDocument
from dateshard.reports.run import gather
from dateshard.reports.run_page import run_report
from dateshard.shardstore.disk.durable import appearing
from dateshard.trainer.runs.run_folder import TrainingRun

MoreSections = Callable[[Path], list[tuple[str, str, list[str]]]]  # (name, heading, parts) each


def _none(_folder: Path) -> list[tuple[str, str, list[str]]]:
    return []


def page_of(run: TrainingRun) -> Path:
    """Where a run's page lies unless another place is named."""
    return run.folder / "report.html"


def page_is_old(run: TrainingRun) -> bool:
    """Whether there is no page, or rows of metrics or a checkpoint came after it."""
    page = page_of(run)
    if not page.exists():
        return True
    written = page.stat().st_mtime
    return any(
        path.exists() and path.stat().st_mtime > written for path in (run.folder / "metrics.jsonl", run.checkpoints)
    )


def write_page(path: Path, data: bytes) -> None:
    """Writes a page, and its folder where that is not there: the old one or the new, never half of one.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as temporary:
        temporary.write_bytes(data)


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
    path = Path(output) if output else page_of(run)
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
