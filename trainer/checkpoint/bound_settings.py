"""Which settings a run that continues must share with its checkpoint, and how older ones are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dateshard.trainer.config import QUANTILES, Trainer, flatten

# Settings that may differ between a checkpoint and the run that continues it: they never change a batch or a weight,
# only when a run ends, how it is served and what is kept and told of it.
FREE = (
    "training.epochs",
    "training.device",
    "training.compile",
    "training.max_skipped",
    "training.max_steps",
    "training.memory_limit",
    "early_stopping",
    "loading.policy",
    "loading.memory_budget",
    "loading.prefetch",
    "loading.resident_on",
    "loading.from_dumps",  # the data of a run says which dates it reads so
    "loading.statistics",  # likewise: its generation has them
    "checkpoint",
    "metrics.custom",
    "metrics.buffer",
    "metrics.buffer_bytes",
    "metrics.mape_floor",
    "logging",
    "bounds",
    "baselines",
    "baseline_windows",
)

# Settings that older runs do not name, as which they behave; and those of each of their named losses.
NEWER = {
    "training.drop_last": False,
    "training.micro_batches": None,
    "training.precision": "fp32",
    "training.quantiles": list(QUANTILES),
    "training.weights": None,
    "model.observed": False,
    "metrics.judge": "loss",
}
NEWER_OF_A_LOSS = {"quantiles": list(QUANTILES)}


def binding(config: Trainer) -> dict[str, Any]:
    """Returns {dotted path: value} of all settings that a resumed run must share with its checkpoint."""
    return that_bind(flatten(config.model_dump(mode="json")))


def that_bind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that bind; an older version may have bound a run to more, or had one of them not yet."""
    losses = [path for path in settings if path.startswith("training.losses.") and path.endswith(".loss")]
    of_losses = {path.removesuffix("loss") + name: value for path in losses for name, value in NEWER_OF_A_LOSS.items()}
    return {path: value for path, value in {**NEWER, **of_losses, **settings}.items() if not path.startswith(FREE)}
