"""Writing the page of a dataset, and what `report --data --json` tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dateshard.insight.survey import DataSurvey
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.reports.data_report.data_facts import gather
from dateshard.reports.data_report.data_page import data_report
from dateshard.reports.page_files import data_page_of, write_page
from dateshard.shardstore.commit import load_sources
from dateshard.trainer.data.order import Window

if TYPE_CHECKING:
    from dateshard.documents.reporting import ReportDocument, SplitWindowsDocument


def write_data_report(
    survey: DataSurvey, config: Pipeline, window: Window, output: str | None = None
) -> tuple[ReportDocument, Sequence[str]]:
    """Writes the page at once, the old one or the new; returns the document and notes on what was passed over.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    dataset = survey.dataset
    plan, _, notes = look(config, dataset.root, Wish())
    facts = gather(survey, plan, load_sources(dataset.root, dataset.generation), window)
    data = data_report(facts).encode(errors="backslashreplace")
    path = Path(output) if output else data_page_of(dataset.manifest.dataset)
    write_page(path, data)
    document: ReportDocument = {
        "run": None,
        "file": str(path),
        "bytes": len(data),
        "split": None,
        "checkpoint": None,
        "evaluated_seconds": None,
        "not_evaluated": None,
        "windows": [cast("SplitWindowsDocument", asdict(of)) for of in facts.windows],
    }
    return document, notes
