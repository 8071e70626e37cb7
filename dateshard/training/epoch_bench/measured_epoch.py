"""One epoch in a process of its own: `python -m dateshard.training.epoch_bench.measured_epoch FOLDER`.

It reads what is asked of asked.json there, and writes answer.json. Its parent watches its memory while the epoch runs:
from when the file `begun` lies there until `trained` does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError
from dateshard.trainer.config import Trainer
from dateshard.trainer.loop import set_learning_rate, validate
from dateshard.trainer.memory.process_memory import private_bytes
from dateshard.trainer.setup import make_session
from dateshard.trainer.step import Step
from dateshard.training.epoch_bench.feeds import config_of, feed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """What one epoch took.

    Attributes:
        idle_bytes: private memory with the model made and no value read.
        first_batch_seconds, epoch_seconds: from there to the first batch, and to the last step.
        val_loss: null where no validation is asked for, or there is no window of it.
    """

    idle_bytes: int
    windows: int
    batches: int
    first_batch_seconds: float
    epoch_seconds: float
    train_loss: float | None
    val_loss: float | None


def measure_epoch(
    way: str, config: Trainer, dataset: Dataset, days_per_batch: int, mark: Callable[[str], None]
) -> EpochFigures:
    """Trains one epoch that way, one thread computing.

    Args:
        mark: is called with `begun` and `trained`.

    Raises:
        DateshardError: this way cannot feed the model, or training failed.
    """
    torch.set_num_threads(1)
    chosen = config_of(way, config)
    session = make_session(chosen, dataset, dataset.root)  # nothing here saves a checkpoint
    feed = feed_of(way, chosen, session.train, days_per_batch)
    session.model.train()
    windows, batches, first = 0, 0, 0.0
    mark("begun")
    idle, began = private_bytes(), time.perf_counter()
    for batch in feed.batches(0):
        first = first or time.perf_counter() - began
        set_learning_rate(session)
        step = Step(session=session, num_windows=batch.size)
        step.add(batch)
        step.finish()
        session.state.step += 1
        windows, batches = windows + batch.size, batches + 1
    seconds = time.perf_counter() - began
    mark("trained")
    report = validate(session, lambda: False)
    return EpochFigures(
        idle_bytes=idle,
        windows=windows,
        batches=batches,
        first_batch_seconds=first,
        epoch_seconds=seconds,
        train_loss=session.metrics.loss(),
        val_loss=report["loss"] if report else None,
    )


def _opened(config: Trainer, wish: dict[str, Any]) -> Dataset:
    if not config.loading.from_dumps:
        return Dataset.open(wish["store"], wish["generation"])
    from dateshard.settings import Settings  # these take half a second, and memory, that shards do not need
    from dateshard.training.unprepared_dates import open_to_look

    return open_to_look(Settings.model_validate(wish["settings"]))


def main(folder: Path) -> None:
    """Measures what asked.json asks for, and writes the figures, or why there are none."""
    wish: dict[str, Any] = json.loads((folder / "asked.json").read_text())
    try:
        config = Trainer.model_validate(wish["settings"]["trainer"])
        dataset = _opened(config, wish)
        figures = measure_epoch(
            wish["way"], config, dataset, wish["days_per_batch"], lambda name: (folder / name).touch()
        )
        answer = asdict(figures)
    except DateshardError as error:
        answer = {"skipped": str(error)}
    except MemoryError:
        answer = {"skipped": "there was not enough memory"}
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
