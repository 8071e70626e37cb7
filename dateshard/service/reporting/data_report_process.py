"""The process that writes the page of a dataset; the server's own configuration comes on stdin, as JSON or `null`.

python -m dateshard.service.reporting.data_report_process DATA DATASET
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dateshard.insight.survey import DataSurvey
from dateshard.places import data_in, shards_folder
from dateshard.reports.data_report.data_making import write_data_report
from dateshard.service.reporting.date_calendar import config_of
from dateshard.settings import Settings
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError
from dateshard.terminal.screen import put
from dateshard.trainer.config import Trainer
from dateshard.trainer.setup import window_of


def write_page_of(data: Path, name: str, settings: Settings | None) -> int:
    """Reads every shard of the dataset and writes its page; returns the exit code."""
    with data_in(data):
        try:
            dataset = Dataset.open(shards_folder(name))
            survey = DataSurvey(dataset=dataset)
            for date in sorted(dataset.manifest.dates):
                survey.add(date)
            write_data_report(survey, config_of(dataset, settings), window_of(_trainer(dataset, settings)))
        except DateshardError as error:
            put(str(error), sys.stderr)
            return error.exit_code
    return 0


def _trainer(dataset: Dataset, settings: Settings | None) -> Trainer:
    if settings and settings.dataset == dataset.manifest.dataset:
        return settings.trainer
    rows = dataset.manifest.layout == "table"
    return Trainer.model_validate({"window": {"history": 1, "horizon": 0}} if rows else {})


if __name__ == "__main__":
    given = json.load(sys.stdin)
    sys.exit(write_page_of(Path(sys.argv[1]), sys.argv[2], None if given is None else Settings.model_validate(given)))
