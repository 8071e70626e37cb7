"""The dumps of a configuration as a dataset, opened to be read by date. Nothing is prepared, and nothing written."""

from __future__ import annotations

from pathlib import Path

from dateshard.notebooks.configured import Config, settings_from
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.recent.dates_from_dumps import DumpDataset, open_dumps
from dateshard.places import shards_folder
from dateshard.preparing.statistics_source import dataset_of_statistics


def dumps_of(config: Config, statistics: str | Path | None, workers: int | None) -> tuple[DumpDataset, Pipeline]:
    """Opens them; returns the settings too.

    Args:
        statistics: a prepared dataset by its name, its folder or a `statistics.json` in it; None: those of the
            configuration's own dataset, or of one pass over the dumps.

    Raises:
        UsageError, NotThereError: the statistics do not fit or are not there.
        DumpError: dumps that cannot be used.
    """
    settings = settings_from(config, {})
    own = settings.preparing()
    known = None if statistics is None else dataset_of_statistics(statistics)
    return open_dumps(settings.dataset, own, shards_folder(settings.dataset), known, workers), own
