"""The `trainer:` half of a configuration. The defaults are those of the user's notes; example files override them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from dateshard.shardstore.errors import UsageError, shorten
from dateshard.shardstore.own_code.user_code import forbidden
from dateshard.shardstore.times.calendar import parse_step

MOST = 10**12  # steps, windows, units: far more than fits anywhere, and no sum of them wraps in 64 bits
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse_bytes(text: Any) -> Any:
    """Parses `2GiB`, `500MB` or a number to bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].upper() not in BYTES or len(match[1]) > 20:
        raise ValueError(f"'{shorten(str(text))}' is not a size; write it as 2GiB or 500MB")
    return int(float(match[1]) * BYTES[match[2].upper()])


SIZES: list[JsonValue] = [{"type": "integer"}, {"type": "string", "examples": ["2GiB", "500MB"]}]
Bytes = Annotated[int, BeforeValidator(parse_bytes), WithJsonSchema({"anyOf": SIZES})]


def _bytes_or_none(given: Any) -> Any:
    return None if given is None else parse_bytes(given)


BytesOrNone = Annotated[
    Annotated[int, Field(ge=1)] | None,
    BeforeValidator(_bytes_or_none),
    WithJsonSchema({"anyOf": [*SIZES, {"type": "null"}]}),
]


def _duration(text: str) -> str:
    if text.strip().isdigit():
        raise ValueError(f"'{text}' is a count, not an interval of time")  # so it is taken as the count
    try:
        parse_step(text)
    except UsageError as error:
        raise ValueError(f"'{text}' is not an interval of time: write it as 500ms, 30s, 5m or 1h") from error
    return text


class WindowConfig(Section):
    """Steps of a window."""

    history: Annotated[int, Field(ge=1, le=MOST)] | Annotated[str, AfterValidator(_duration)] = Field(
        12,
        description="steps; of events also an interval of time, as 30s: the records that lie so long before the anchor",
    )
    most: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="records of a history that is an interval: fewer are padded, of more the last stay",
    )
    horizon: int = Field(12, ge=0, le=MOST, description="0: targets at the history's own steps")
    stride: int = Field(1, ge=1, le=MOST)

    @model_validator(mode="after")
    def _an_interval_has_room(self) -> WindowConfig:
        if isinstance(self.history, str) and self.most is None:
            raise ValueError(f"history: {self.history} needs most, the records that a window has room for, as most: 64")
        if isinstance(self.history, str) and not self.horizon:
            raise ValueError("horizon 0 puts targets on the history's own steps: history must be a count")
        if isinstance(self.history, int) and self.most is not None:
            raise ValueError("most applies only where history is an interval of time, as 30s")
        return self

    @property
    def wrong_for_rows(self) -> str:
        """What it must be for a table, and why; empty if it is that."""
        if (self.history, self.horizon) == (1, 0):
            return ""
        got = f"got history {self.history}, horizon {self.horizon}"
        return f"must be {{history: 1, horizon: 0}} ({got}): the rows of a table are independent of each other"

    @property
    def steps(self) -> int:
        """The input steps of a window."""
        return self.history if isinstance(self.history, int) else self.most or 1

    @property
    def interval(self) -> int:
        """Nanoseconds of a history that is an interval of time, 0 of one that is a count."""
        return 0 if isinstance(self.history, int) else parse_step(self.history)


class RunsShuffle(Section):
    """Shuffling within blocks of runs of dates."""

    days_per_run: int = Field(ge=1, le=MOST)
    runs_per_block: int = Field(ge=1, le=MOST)


class Loading(Section):
    """How windows are ordered (`shuffle`, `days_per_batch`) and how that order is served (all else)."""

    policy: Literal["auto", "blocks", "mapped", "streaming"] = "auto"
    shuffle: Literal["auto", "global", "dates"] | RunsShuffle = "auto"
    days_per_batch: Annotated[int, Field(ge=1, le=MOST)] | Literal["auto"] | None = Field(
        None, description="blocks of so many days; auto: the most that memory_budget holds"
    )
    memory_budget: Bytes = 2 << 30
    prefetch: bool = True
    from_dumps: bool = Field(False, description="policy streaming: read dates that have no shard yet from their dumps")
    statistics: str | None = Field(
        None, description="from_dumps, nothing prepared yet: a dataset, or the statistics.json in one"
    )
    resident_on: Literal["device"] | None = Field(None, description="where all windows of a training lie, loaded once")

    @model_validator(mode="after")
    def _one_order(self) -> Loading:
        if self.days_per_batch is not None and self.shuffle != "auto":
            raise ValueError("days_per_batch and shuffle both set the order; give one of them")
        if self.policy == "streaming" and (self.days_per_batch is not None or self.shuffle not in ("auto", "dates")):
            raise ValueError("policy streaming means shuffle: dates; leave shuffle and days_per_batch out")
        if self.from_dumps and self.policy != "streaming":
            raise ValueError("from_dumps decodes a date each time it is read; set policy: streaming")
        if self.statistics is not None and not self.from_dumps:
            raise ValueError("statistics scale dates that are read from dumps; set from_dumps: true")
        if self.resident_on and self.policy != "auto":
            raise ValueError("resident_on and policy both say where windows are read from; leave policy out")
        return self


FAMILY_NAMES = ("mlp", "stid", "cnn", "lstm", "gru", "dlinear", "nlinear", "ridge")
OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_own(name: str) -> bool:
    """Whether a model's name is `my_package.module:build`: code of the user's own."""
    return ":" in name


OWN_BASELINE = re.compile(
    rf"(?!(?:repeat|mean|majority|logistic|seasonal|ridge):)(?P<code>{OWN.pattern})(?::(?P<steps>[1-9]\d{{0,11}}))?"
)


def code_of_baseline(name: str) -> str | None:
    """The code that a baseline of the user's own names, `my_module:forecast`; None of a built-in one."""
    match = OWN_BASELINE.fullmatch(name)
    return match["code"] if match else None


def _known_model(name: str, info: ValidationInfo) -> str:
    own = "" if forbidden(info.context) else ", or your own as my_package.module:build"
    if name in FAMILY_NAMES or (own and OWN.fullmatch(name)):
        return name
    if is_own(name) and not own:
        raise ValueError(
            f"'{shorten(name)}' names code, which is not imported from here; use {', '.join(FAMILY_NAMES)}"
        )
    raise _unknown("model", name, FAMILY_NAMES, own)


def _unknown(kind: str, name: str, known: Sequence[str], own: str) -> ValueError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return ValueError(f"no {kind} '{shorten(name)}'{hint} Use {', '.join(known)}{own}")


def _no_code_of_a_client(name: str | None, info: ValidationInfo) -> str | None:
    if name is not None and forbidden(info.context):
        raise ValueError(f"'{shorten(name)}' names code, which is not imported from here; leave it out")
    return name


def _no_baseline_of_a_client(name: str, info: ValidationInfo) -> str:
    return name if code_of_baseline(name) is None else str(_no_code_of_a_client(name, info))


class ModelConfig(Section):
    """Which model, and its size. `hidden_units` and `dropout_rate` are of mlp, stid, cnn, lstm and gru."""

    name: Annotated[str, AfterValidator(_known_model)] = "mlp"
    hidden_units: tuple[Annotated[int, Field(ge=1, le=MOST)], ...] = Field(
        (64, 32), description="widths of successive layers"
    )
    dropout_rate: float = Field(0.2, ge=0, lt=1, description="after each layer")
    revin: bool | Literal["affine"] = Field(
        False, description="normalise each window's targets by their own history; affine: with learned factors"
    )
    embedding_width: int | None = Field(
        None, ge=0, le=1024, description="of a categorical input; null: by its number of codes; 0: the code as a number"
    )
    observed: bool = Field(
        False, description="give the model, beside its inputs, which of their cells were observed and which were filled"
    )
    kernel: int = Field(25, ge=1, le=MOST, description="dlinear: steps of the moving average")
    penalties: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        min_length=1,
        description="ridge: tried on validation, per window",
    )
    histories: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="ridge: tried on validation; default: the window's, a half, a quarter, an eighth",
    )
    normalisations: tuple[Literal["none", "last", "mean"], ...] = Field(
        ("none", "last", "mean"), min_length=1, description="ridge: what is subtracted from a window first; tried"
    )
    options: dict[str, JsonValue] = Field({}, description="what a model of your own finds in config.options")


LOSSES = ("mse", "mae", "huber", "quantile", "poisson", "negative_binomial", "cross_entropy")


def _known_loss(name: str, info: ValidationInfo) -> str:
    if name in LOSSES or (OWN.fullmatch(name) and _no_code_of_a_client(name, info)):
        return name
    raise _unknown("loss", name, LOSSES, "" if forbidden(info.context) else ", or your own as my_module:loss")


def _loss_or_auto(name: str, info: ValidationInfo) -> str:
    return name if name == "auto" else _known_loss(name, info)


LossName = Annotated[str, AfterValidator(_known_loss)]
ClassWeights = Literal["balanced"] | dict[str, float] | None


def _levels(levels: tuple[float, ...]) -> tuple[float, ...]:
    if outside := [level for level in levels if not 0 < level < 1]:
        raise ValueError(f"{outside[0]:g} is no quantile's level: each lies between 0 and 1, as [0.1, 0.5, 0.9]")
    for before, level in pairwise(levels):
        if before >= level:
            what = "stands twice" if before == level else f"comes after {before:g}"
            raise ValueError(f"{level:g} {what}: write each level once, in rising order, as [0.1, 0.5, 0.9]")
    return levels


Levels = Annotated[tuple[float, ...], Field(min_length=1, max_length=99), AfterValidator(_levels)]
QUANTILES = (0.1, 0.5, 0.9)


class HeadConfig(Section):
    """One named loss: of some of the targets, with a weight in the sum that is minimised."""

    loss: LossName
    targets: tuple[str, ...] = Field(min_length=1, description="of trainer.targets; each belongs to one head")
    weight: float = Field(1.0, ge=0)
    huber_delta: float = Field(1.0, gt=0, description="huber: scaled units up to which an error counts squared")
    quantiles: Levels = Field(QUANTILES, description="levels that `quantile` learns, or that are asked of counts")
    class_weights: ClassWeights = Field(None, description="cross_entropy: balanced, or {category: weight}, others 1")


def mismatch(losses: Mapping[str, HeadConfig], targets: Sequence[str]) -> str:
    """What is wrong between several losses and the targets, each of which belongs to exactly one; empty if nothing."""
    of = {target: [name for name, head in losses.items() if target in head.targets] for target in targets}
    for name, head in losses.items():
        for target in head.targets:
            if target not in of:
                return f"loss '{name}' names '{target}', which is not one of trainer.targets ({', '.join(targets)})"
    for target, names in of.items():
        if not names:
            return f"no loss names the target '{target}'; give each of trainer.targets to one of {', '.join(losses)}"
        if len(names) > 1 or losses[names[0]].targets.count(target) > 1:
            twice = "is named twice by" if len(names) == 1 else "is named by the losses"
            return f"the target '{target}' {twice} {' and '.join(names)}; give it to one"
    return ""


class LossWeights(Section):
    """What an element of the loss weighs; divided by their mean."""

    targets: dict[str, Annotated[float, Field(ge=0)]] = Field({}, description="{target: weight}, others 1")
    steps: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(None, description="one for each target step")


class Training(Section):
    """The section `training`: how the weights are fitted."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=1, le=MOST)
    learning_rate: float = Field(0.001, gt=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(0.0, ge=0, description="adam and sgd: added to the gradient; adamw: apart from it")
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd")
    loss: Annotated[str, AfterValidator(_loss_or_auto)] = Field(
        "auto", description=f"auto: mse, for a categorical target cross_entropy; {', '.join(LOSSES)}, my_module:loss"
    )
    losses: dict[str, HeadConfig] | None = Field(None, description="several named losses, instead of `loss`")
    huber_delta: float = Field(1.0, gt=0)
    quantiles: Levels = Field(QUANTILES, description="levels that `quantile` learns, or that are asked of counts")
    class_weights: ClassWeights = None
    weights: LossWeights | None = Field(None, description="of targets and of target steps in the loss")
    seed: int = Field(7, ge=0)
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="in which the layers of a step compute")
    compile: bool = Field(False, description="compile the model's forward (torch.compile)")
    clip_norm: float | None = Field(None, gt=0)
    drop_last: bool = Field(False, description="leave out an epoch's last training batch if it is short")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    micro_batches: int | None = Field(
        None,
        ge=2,
        le=1 << 16,
        description="parts of a batch, for equal bits in any number of processes that divides it",
    )
    max_skipped: int = Field(10, ge=1, description="steps without a finite gradient in a row that end the run")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps after which the run ends, whatever `epochs`")
    memory_limit: BytesOrNone = Field(
        None,
        description="private memory of the run's processes on a machine, as 8GiB: beyond it it is saved and stops; null: none",
    )
    sample_size: int | None = Field(
        None, ge=1, description="training windows that are used, spread evenly over the training data; null: all"
    )

    @model_validator(mode="after")
    def _one_objective(self) -> Training:
        if self.losses is not None and self.loss != "auto":
            raise ValueError("loss and losses both set the objective; give one of them")
        if self.losses is not None and not self.losses:
            raise ValueError("losses is empty; leave it out for one loss over all targets")
        return self

    @model_validator(mode="after")
    def _equal_halves(self) -> Training:
        if self.micro_batches is not None and self.micro_batches & (self.micro_batches - 1):
            raise ValueError(f"micro_batches must be a power of two, as 4 or 8 (got {self.micro_batches})")
        if self.micro_batches is not None and self.accumulate > 1:
            raise ValueError("micro_batches and accumulate both cut a step; set batch_size to the windows of a step")
        return self


class Schedule(Section):
    """What all schedules share."""

    warmup_steps: int = Field(0, ge=0, description="optimizer steps over which the rate rises to its value")


class StepSchedule(Schedule):
    """Multiplies the rate by gamma every step_size epochs."""

    type: Literal["step"] = "step"
    step_size: int = Field(30, gt=0)
    gamma: float = Field(0.1, gt=0, le=1)


class PlateauSchedule(Schedule):
    """Multiplies the rate by factor after more than `patience` validations in a row without a lower loss."""

    type: Literal["plateau"]
    patience: int = Field(5, ge=0)
    factor: float = Field(0.5, gt=0, lt=1)
    threshold: float = Field(1e-4, ge=0, description="relative improvement that counts as lower")
    min_lr: float = Field(0.0, ge=0)


class CosineSchedule(Schedule):
    """Half a cosine from the rate to eta_min over T_max epochs, eta_min from there on."""

    type: Literal["cosine"]
    T_max: int = Field(100, ge=1)
    eta_min: float = Field(0.0001, ge=0)


class NoSchedule(Schedule):
    """Keeps the rate."""

    type: Literal["none"]


AnySchedule = Annotated[StepSchedule | PlateauSchedule | CosineSchedule | NoSchedule, Field(discriminator="type")]


class EarlyStopping(Section):
    """Ends the run after `patience` validations in a row without an improvement of more than min_delta."""

    patience: int = Field(10, ge=1)
    min_delta: float = Field(0.001, ge=0)


class CheckpointConfig(Section):
    """When checkpoints are written (every save_freq batches and after each validation), and which of them stay."""

    save_freq: int | None = Field(100, ge=1)
    max_overhead: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the time since the last save that one within an epoch may cost; until then it is put off",
    )
    keep_last: int | None = Field(None, ge=1, description="the newest so many stay; null: all, as long as they fit")
    keep_best: int = Field(1, ge=1, description="and so many with the lowest validation loss")
    max_bytes: BytesOrNone = Field(None, description="of all together: the oldest go; never the best, newest or pinned")
    export_pth: Literal["none", "best", "all"] = Field("best", description="also as .pth beside the folders")


class BufferConfig(Section):
    """Batches' worth of windows that a sample holds, uniform over the whole epoch."""

    train: int = Field(1000, ge=0)
    evaluation: int = Field(500, ge=0, description="validation and test")


class MetricsConfig(Section):
    """What is counted beside the exact sums, which are always there, and which figure decides."""

    judge: Literal["loss", "mse", "rmse", "mae", "accuracy"] = Field(
        "loss", description="of validation: what ranks checkpoints, stops early and decides the verdict"
    )
    buffer: BufferConfig = BufferConfig()
    buffer_bytes: Bytes = Field(64 << 20, ge=0, description="a sample's memory, whatever `buffer` says")
    custom: Annotated[str | None, AfterValidator(_no_code_of_a_client)] = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="my_module:function, called with the sampled (targets, predictions), returns {name: number}",
    )
    mape_floor: float = Field(0.001, ge=0, description="raw units: MAPE leaves targets nearer to 0 out")


class LoggingConfig(Section):
    """Where the figures of a training go beside run.log and metrics.jsonl."""

    tensorboard: bool = Field(False, description="scalars in the run's folder tensorboard/")


End = Annotated[float, Field(allow_inf_nan=False)] | None


def _an_interval(bounds: tuple[End, End]) -> tuple[End, End]:
    low, high = bounds
    if low is None and high is None:
        raise ValueError("names no bound: leave it out, or write one of [low, high]")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"must be [low, high] with low below high (got {[low, high]})")
    return bounds


class Trainer(Section):
    """The online stage."""

    window: WindowConfig = WindowConfig()
    inputs: tuple[str, ...] | None = Field(None, description="default: all features")
    targets: tuple[str, ...] | None = Field(None, description="default: all features")
    loading: Loading = Loading()
    model: ModelConfig = ModelConfig()
    training: Training = Training()
    scheduler: AnySchedule = StepSchedule()
    early_stopping: EarlyStopping | None = EarlyStopping()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()
    logging: LoggingConfig = LoggingConfig()
    bounds: dict[str, Annotated[tuple[End, End], AfterValidator(_an_interval)]] = Field(
        {}, description="{feature: [low, high]}, raw units, null for an open end: what no forecast of it goes beyond"
    )
    baselines: tuple[Annotated[str, AfterValidator(_no_baseline_of_a_client)], ...] | None = Field(
        None,
        description="repeat, mean, majority, seasonal:STEPS, ridge, ridge:last, ridge:STEPS, or a function of your own as "
        "my_module:forecast or my_module:forecast:STEPS; null: repeat, the seasons of a day and of a week, mean, ridge",
    )
    baseline_windows: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="windows of the split on which functions of your own are judged, in a table of its own; null: all",
    )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted path: leaf} of a configuration's JSON form."""
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves |= flatten(inner, f"{prefix}.{name}" if prefix else name)
    return leaves
