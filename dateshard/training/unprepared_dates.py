"""Opens what a run trains on: a generation, and with `loading.from_dumps` the dates that have a dump and no shard yet."""

from __future__ import annotations

from pathlib import Path

from dateshard.pipeline.generation_settings import settings_of
from dateshard.pipeline.recent.dates_from_dumps import open_unprepared
from dateshard.settings import Settings
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.checkpoint import DataIdentity
from dateshard.trainer.runs.start import Opener
from dateshard.trust import check_trust, code_of


def opener_of(settings: Settings) -> Opener:
    """What opens a run's data. A run that is continued reads the dates that it read before, whatever the settings say."""

    def opened(shards: Path, held: DataIdentity | None) -> Dataset:
        known = Dataset.open(shards, held.generation if held else None)
        if not (held.dumps if held else settings.trainer.loading.from_dumps):
            return known
        kept = settings_of(known)
        if settings.pipeline is None:
            check_trust(known.root, code_of(kept), f"dataset {settings.dataset}", trust=False)
        own = (settings.pipeline or kept).model_copy(update={"split": kept.split})  # as the shards are divided
        return open_unprepared(known, own, held.dumps if held else None)

    return opened
