"""The `trainer:` half of a configuration. The defaults are those of the user's notes; example files override them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from shardstore.errors import shorten

BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse_bytes(text: Any) -> Any:
    """`2GiB`, `500MB` or a number -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].upper() not in BYTES or len(match[1]) > 20:
        raise ValueError(f"'{shorten(str(text))}' is not a size; write it as 2GiB or 500MB")
    return int(float(match[1]) * BYTES[match[2].upper()])


Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "examples": ["2GiB", "500MB"]}]}),
]


class WindowConfig(Section):
    """Steps of a window."""

    history: int = Field(12, ge=1)
    horizon: int = Field(12, ge=0, description="0: targets at the history's own steps")
    stride: int = Field(1, ge=1)


class RunsShuffle(Section):
    """Shuffling within blocks of runs of dates."""

    days_per_run: int = Field(ge=1)
    runs_per_block: int = Field(ge=1)


class Loading(Section):
    """How windows are ordered (`shuffle`, `days_per_batch`) and how that order is served (all else)."""

    policy: Literal["auto", "blocks", "mapped", "streaming"] = "auto"
    shuffle: Literal["auto", "global", "dates"] | RunsShuffle = "auto"
    days_per_batch: int | None = Field(None, ge=1)
    memory_budget: Bytes = 2 << 30
    prefetch: bool = True

    @model_validator(mode="after")
    def _one_order(self) -> Loading:
        if self.days_per_batch is not None and self.shuffle != "auto":
            raise ValueError("days_per_batch and shuffle both set the order; give one of them")
        if self.policy == "streaming" and (self.days_per_batch is not None or self.shuffle not in ("auto", "dates")):
            raise ValueError("policy streaming means shuffle: dates; leave shuffle and days_per_batch out")
        return self


class ModelConfig(Section):
    """Which model, and its size."""

    name: Literal["mlp", "dlinear", "ridge"] = "mlp"
    hidden_units: tuple[int, ...] = (64, 32)
    dropout_rate: float = Field(0.2, ge=0, lt=1)
    kernel: int = Field(25, ge=1, description="dlinear: steps of the moving average")
    penalties: tuple[float, ...] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1, description="ridge: tried on validation, per window"
    )


class Training(Section):
    """One optimisation."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(0.001, gt=0)
    optimizer: Literal["adam"] = "adam"
    loss: Literal["mse"] = "mse"
    seed: int = Field(7, ge=0)
    device: str = "auto"
    clip_norm: float | None = Field(None, gt=0)


class StepSchedule(Section):
    """Multiplies the rate by gamma every step_size epochs."""

    type: Literal["step"] = "step"
    step_size: int = Field(30, gt=0)
    gamma: float = Field(0.1, gt=0, le=1)


class NoSchedule(Section):
    """Keeps the rate."""

    type: Literal["none"]


class EarlyStopping(Section):
    """Ends the run after `patience` validations in a row without an improvement of more than min_delta."""

    patience: int = Field(10, ge=1)
    min_delta: float = Field(0.001, ge=0)


class CheckpointConfig(Section):
    """When checkpoints are written: every save_freq batches and after each validation. All are kept."""

    save_freq: int | None = Field(100, ge=1)


class Trainer(Section):
    """The online stage."""

    window: WindowConfig = WindowConfig()
    inputs: tuple[str, ...] | None = Field(None, description="default: all features")
    targets: tuple[str, ...] | None = Field(None, description="default: all features")
    loading: Loading = Loading()
    model: ModelConfig = ModelConfig()
    training: Training = Training()
    scheduler: Annotated[StepSchedule | NoSchedule, Field(discriminator="type")] = StepSchedule()
    early_stopping: EarlyStopping | None = EarlyStopping()
    checkpoint: CheckpointConfig = CheckpointConfig()
    baselines: tuple[str, ...] = Field(("repeat", "mean", "ridge"), description="repeat, mean, seasonal:STEPS, ridge")


# Settings that may differ between a checkpoint and the run that continues it: they never change a batch or a weight.
FREE = (
    "training.epochs",
    "training.device",
    "loading.policy",
    "loading.memory_budget",
    "loading.prefetch",
    "checkpoint",
    "baselines",
)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted path: leaf} of a configuration's JSON form."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flatten(inner, f"{prefix}.{name}" if prefix else name)
    return found


def binding(config: Trainer) -> dict[str, Any]:
    """{dotted path: value} of all settings that a resumed run must share with its checkpoint."""
    leaves = flatten(config.model_dump(mode="json"))
    return {path: value for path, value in leaves.items() if not path.startswith(FREE)}
