"""What a run's checkpoints take on disk, and what is done where all of them would take too much."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dateshard.trainer.checkpoint import scan
from dateshard.trainer.checkpoint.removal import bytes_of
from dateshard.trainer.config import CheckpointConfig
from dateshard.trainer.optimization.optimizer import moments_a_weight
from dateshard.trainer.session import Session

SHARE = 2  # retention switches itself on where all checkpoints would take more than 1 / SHARE of the free disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Checkpoints of a whole run.

    Attributes:
        an_epoch: how many. bytes_each: of the largest, its export included. bytes_epoch, bytes_all: of an epoch, and of
            all epochs, if all are kept. present: of those that are there. free: on their disk now.
    """

    an_epoch: int
    bytes_each: int
    bytes_epoch: int
    bytes_all: int
    present: int
    free: int


def need(session: Session, folder: Path) -> Need:
    """What the session's run writes into `folder`, which need not exist yet."""
    config, freq, batches = session.config, session.config.checkpoint.save_freq, session.train.order.num_batches
    within = (batches - 1) // freq if freq and session.optimizer else 0  # an epoch's last batch: after its validation
    each, sample = state_bytes(session), session.metrics.sample.most_bytes if session.metrics.sample else 0
    if config.checkpoint.export_pth == "all":
        each *= 2
    epoch = within * (each + sample) + each
    best = state_bytes(session) if config.checkpoint.export_pth != "none" else 0
    epochs = config.training.epochs if session.optimizer else 1
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    free = shutil.disk_usage(there).free
    present = sum(bytes_of(checkpoint.folder) for checkpoint in scan(folder)[0])
    return Need(
        an_epoch=within + 1,
        bytes_each=each + (sample if within else 0),
        bytes_epoch=epoch,
        bytes_all=epochs * epoch + best,
        present=present,
        free=free,
    )


def state_bytes(session: Session) -> int:
    """Weights, moments and metric sums."""
    weights = sum(tensor.nbytes for tensor in session.model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in session.model.parameters() if parameter.requires_grad)
    sums = sum(tensor.nbytes for tensor in session.metrics.tensors().values())
    return int(weights + sums + moments_a_weight(session.config.training) * trained)


def fitting(needed: Need, config: CheckpointConfig) -> CheckpointConfig | None:
    """A retention that keeps to the free disk; None where all checkpoints fit, or one is configured.

    All of them together may take half of what is free, or was before they were there.
    """
    share = (needed.free + needed.present) // SHARE
    if needed.bytes_all <= share or config.keep_last is not None or config.max_bytes is not None:
        return None
    beside = config.keep_best + 1 + (config.export_pth != "none")  # the best, the one being written, the export
    most = share // max(1, needed.bytes_each) - beside
    return config.model_copy(update={"keep_last": max(1, most)})
