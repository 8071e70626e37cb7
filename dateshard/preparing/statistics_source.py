"""Where statistics come from that dumps are scaled by: a pass over them, another dataset, or a file in one."""

from __future__ import annotations

from pathlib import Path

from dateshard.pipeline.recent.statistics_alone import measure_statistics
from dateshard.places import shards_folder
from dateshard.settings import Settings
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.commit import content_of
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, Where, shorten
from dateshard.shardstore.frozen import STATISTICS_FILE
from dateshard.shardstore.manifest import generations
from dateshard.trust import admit, code_of


def dataset_named(dataset: str | Path, generation: int | None = None) -> Dataset:
    """Opens a dataset by its name (below `data/`, or where DATESHARD_DATA says) or by its folder.

    Raises:
        NotThereError: nothing was prepared under that name. DamagedError: the manifest is damaged.
    """
    folder = Path(dataset)
    named = isinstance(dataset, str) and folder.name == dataset and not (folder / "CURRENT").exists()
    if named and not shards_folder(str(dataset)).is_dir():
        there = sorted(path.name for path in shards_folder("").glob("*") if path.is_dir())
        names = ", ".join(there[:5])
        what, where = f"no dataset '{shorten(str(dataset))}'", Where(file=str(shards_folder("")))
        raise NotThereError(
            what, where=where, todo=f"There are: {names}" if there else to_run("preprocess", config=True)
        )
    return Dataset.open(shards_folder(str(dataset)) if named else folder, generation)


def dataset_of_statistics(statistics: str | Path) -> Dataset:
    """Opens the dataset that statistics are of; of a `statistics.json` in one, the newest generation that has those.

    Raises:
        NotThereError: there is no such dataset, or the file lies in none.
    """
    path = Path(statistics)
    if path.name != STATISTICS_FILE:
        return dataset_named(statistics)
    where = Where(file=str(statistics))
    if not path.exists():
        todo = f"Check the path; {command('statistics', '--measure', config=True)} measures statistics and says where they lie"
        raise NotThereError("no such file", where=where, todo=todo)
    folder = path.absolute().parent
    root, wanted = folder.parents[1], content_of(folder.name)
    for number in reversed(generations(root)):
        dataset = Dataset.open(root, number)
        if dataset.manifest.statistics == wanted:
            return dataset
    what = "no generation of a dataset around it has these statistics, and they do not say of which nodes they are"
    todo = "Name it where it was written, or bring the folder of its dataset along and name that"
    raise NotThereError(what, where=where, todo=todo)


def measure_alone(settings: Settings, workers: int | None = None) -> Dataset:
    """Measures the statistics of a configuration's dumps in one pass, and commits them without a shard.

    Raises:
        UsageError: the dataset has a generation already. DumpError, FailedDatesError: dumps that cannot be used.
    """
    root, config = shards_folder(settings.dataset), settings.preparing()
    dataset = measure_statistics(settings.dataset, config, root, workers)
    admit(root, code_of(config))
    return dataset
