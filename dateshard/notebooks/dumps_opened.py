"""The dumps of a configuration as a dataset, opened to be read by date. Nothing is prepared, and nothing written."""

from __future__ import annotations

from pathlib import Path

from dateshard.notebooks.configured import Config, settings_from
from dateshard.notebooks.opened import open_dataset
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.recent.dates_from_dumps import DumpDataset, open_dumps
from dateshard.places import shards_folder
from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import content_of
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, Where
from dateshard.shardstore.manifest import generations

STATISTICS = "statistics.json"


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
    known = None if statistics is None else _known(statistics)
    return open_dumps(settings.dataset, own, shards_folder(settings.dataset), known, workers), own


def _known(statistics: str | Path) -> Dataset:
    """The dataset that statistics are of; the newest generation that has those of a file."""
    path = Path(statistics)
    if path.name != STATISTICS:
        return open_dataset(statistics).dataset
    folder = path.absolute().parent
    root, wanted = folder.parents[1], content_of(folder.name)
    for number in reversed(generations(root)):
        dataset = Dataset.open(root, number)
        if dataset.manifest.statistics == wanted:
            return dataset
    what = "no generation of a dataset around it has these statistics, and they do not say of which nodes they are"
    raise NotThereError(what, where=Where(file=str(statistics)), todo=to_run("preprocess", config=True))
