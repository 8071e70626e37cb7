"""Opens what a run trains on: a generation, and with `loading.from_dumps` the dates that have a dump and no shard yet."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from dateshard.pipeline.generation_settings import settings_of
from dateshard.pipeline.recent.dates_from_dumps import open_dumps, open_unprepared
from dateshard.pipeline.recent.statistics_alone import measuring_command, take_statistics
from dateshard.places import shards_folder
from dateshard.preparing.statistics_source import dataset_of_statistics
from dateshard.settings import Settings
from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, NotThereError, UntrustedError, UsageError, Where
from dateshard.shardstore.objects.bucket_store import has_store
from dateshard.shardstore.times.calendar import collapse
from dateshard.trainer.checkpoint import DataIdentity
from dateshard.trainer.runs.start import Opener
from dateshard.trust import check_trust, code_of


def opener_of(settings: Settings) -> Opener:
    """What opens a run's data. A run that is continued reads the dates that it read before, whatever the settings say.

    A new run with `loading.statistics` on a dataset without a generation commits one that holds them, and no shard.
    """

    def opened(shards: Path, held: DataIdentity | None) -> Dataset:
        if not (held.dumps if held else settings.trainer.loading.from_dumps):
            return Dataset.open(shards, held.generation if held else None)
        known = Dataset.open(shards, held.generation) if held else _scaled(settings, shards)
        kept = settings_of(known)
        if settings.pipeline is None:
            check_trust(known.root, code_of(kept), f"dataset {settings.dataset}", trust=False)
        own = (settings.pipeline or kept).model_copy(update={"split": kept.split})  # as the shards are divided
        return open_unprepared(known, own, held.dumps if held else None)

    return opened


def open_of_run(settings: Settings, data: DataIdentity, *, needs_dates: bool = True) -> tuple[Dataset, list[str]]:
    """Opens the data of a run to be judged or forecast from; says which dates are left out, and why.

    Where a dump that the run read is gone or changed, these are all dates that have no shard.

    Args:
        needs_dates: raise that where no date would be left.

    Raises:
        UsageError, StoreError, DumpError: what happened, where, and what to do next.
    """
    shards = shards_folder(settings.dataset)
    try:
        return opener_of(settings)(shards, data), []
    except UntrustedError:
        raise
    except (UsageError, DumpError) as error:
        known = Dataset.open(shards, data.generation)
        if not data.dumps or (needs_dates and not known.days):
            raise
        left_out = collapse(map(dt.date.fromisoformat, data.dumps))
        return known, [f"without {left_out}, which the run read from dumps: {error}"]


def open_to_look(settings: Settings) -> Dataset:
    """Opens what a new run would train on, to be looked at: nothing is committed."""
    shards, statistics = shards_folder(settings.dataset), settings.trainer.loading.statistics
    if statistics is None or has_store(shards):
        return opener_of(settings)(shards, None)
    return open_dumps(settings.dataset, settings.preparing(), shards, dataset_of_statistics(statistics))


def _scaled(settings: Settings, shards: Path) -> Dataset:
    """The generation by which dumps are scaled; made of `loading.statistics` where there is none.

    Raises:
        NotThereError: there is neither.
    """
    statistics = settings.trainer.loading.statistics
    if statistics is not None:
        return take_statistics(settings.dataset, settings.preparing(), shards, dataset_of_statistics(statistics))
    if has_store(shards):
        return Dataset.open(shards)
    ways = f"or name a dataset that has them in trainer.loading.statistics; or prepare: {command('preprocess', config=True)}"
    what = "no committed dataset here, and no statistics to scale its dumps by"
    raise NotThereError(what, where=Where(file=str(shards)), todo=f"Measure them: {measuring_command()}; {ways}")
