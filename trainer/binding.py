"""What a run is bound to: the data, settings and order without which a checkpoint cannot be continued to the same bits."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, Where
from dateshard.shardstore.identity import identity
from dateshard.trainer.checkpoint import Bound, DataIdentity
from dateshard.trainer.checkpoint.bound_settings import binding, that_bind
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.shuffle import Shuffle


def data_identity(dataset: Dataset) -> DataIdentity:
    """Which data a run is bound to: name, generation, the manifest's content, and what is read straight from dumps."""
    dates, published = dataset.manifest.dates, dataset.published
    dumps = {str(date): dates[date].parts[0].id for date in sorted(dates.keys() - published.dates.keys())}
    return DataIdentity(published.dataset, dataset.generation, identity(published.to_json()), dumps)


def environment(device: torch.device, processes: int = 1, *, compiled: bool = False) -> dict[str, Any]:
    """What equal bits depend on beside configuration and data. A difference is warned of, not refused.

    Args:
        processes: on whose number they depend. compiled: whether the model's forward is.
    """
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "machine": platform.machine(),
        **({"processes": processes} if processes > 1 else {}),
        **({"compiled": True} if compiled else {}),
    }


def bound(config: Trainer, dataset: Dataset, shuffle: Shuffle) -> Bound:
    """What stands in every checkpoint and must be the same to continue from it."""
    return Bound(binding(config), data_identity(dataset), asdict(shuffle))


def refuse_difference(held: Bound, wanted: Bound, where: Path) -> None:
    """Refuses to continue a checkpoint that was made with other data, another order or other settings.

    Raises:
        UsageError: naming everything in which the two differ.
    """
    sections = {
        "data": (held.data.to_json(), wanted.data.to_json()),
        "order": (held.order, wanted.order),
        "settings": (that_bind(held.settings), that_bind(wanted.settings)),
    }
    differences = []
    for section, (old, new) in sections.items():
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                prefix = "trainer" if section == "settings" else section
                differences.append(f"{prefix}.{key}: checkpoint {old.get(key)!r}, now {new.get(key)!r}")
    if differences:
        raise UsageError(
            "this checkpoint cannot be continued exactly: " + "; ".join(differences),
            where=Where(file=str(where)),
            todo=f"Set them back, or start a new run: {command('train', config=True)}",
        )
