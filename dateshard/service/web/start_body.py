"""The body of a start: the names and defaults of the user's notes, which are also those of the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from dateshard.trainer.config import FAMILY_NAMES, MOST, is_own

MOST_UNITS, MOST_LAYERS, MOST_COLUMNS, MOST_PROCESSES = 1 << 16, 64, 10_000, 1024
SCHEDULER_KEYS = {
    "step": ("step_size", "gamma"),
    "plateau": ("patience", "factor"),
    "cosine": ("T_max", "eta_min"),
    "none": (),
}


def _plain(text: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError("holds control characters")
    return text


def _deep_learning(name: str) -> str:
    if name != "deep_learning":
        raise ValueError(f"'{name[:60]}' is not trained here, deep_learning is")
    return name


def _torch(name: str) -> str:
    if name == "tensorflow":
        raise ValueError("models are trained with PyTorch alone; leave framework out")
    if name not in ("pytorch", "torch"):
        raise ValueError(f"'{name[:60]}' is no framework here; leave it out")
    return name


def _registered(name: str) -> str:
    if name in FAMILY_NAMES:
        return name
    if is_own(name) or "." in name:
        raise ValueError(
            f"'{name[:60]}' names code, which a client cannot have imported; use {', '.join(FAMILY_NAMES)}"
        )
    raise ValueError(f"there is no model '{name[:60]}'; use {', '.join(FAMILY_NAMES)}")


def _processes(asked: object) -> int | str:
    if asked == "all" or (type(asked) is int and 1 <= asked <= MOST_PROCESSES):
        return asked
    raise ValueError(f"must be a number of processes from 1 to {MOST_PROCESSES}, or 'all'")


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
Word = Annotated[str, Field(max_length=100)]
Width = Annotated[int, Field(ge=1, le=MOST_UNITS)]
Column = Annotated[str, Field(min_length=1, max_length=500)]
Positive = Annotated[float, Field(gt=0)]
Devices = Annotated[  # plain, so that a fault is of this field and not of one of its two types
    int | Literal["all"],
    PlainValidator(_processes, json_schema_input_type=Annotated[int, Field(ge=1, le=MOST_PROCESSES)] | Literal["all"]),
]
Factor = Annotated[float, Field(gt=0, lt=1)]


class StartBody(BaseModel):
    """What a training is asked for. All but `name` may be left out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"name": "深度学习模型训练", "epochs": 5, "feature_columns": ["a"], "target_column": "b"}]
        },
    )

    name: Text
    algorithm_type: Annotated[Word, AfterValidator(_deep_learning)] = "deep_learning"
    framework: Annotated[Word | None, AfterValidator(lambda name: name if name is None else _torch(name))] = None
    dataset: Annotated[str, Field(max_length=64)] | None = Field(None, description="default: the server's")
    model_type: Annotated[Word, AfterValidator(_registered)] = Field("mlp", description=", ".join(FAMILY_NAMES))
    hidden_units: Annotated[list[Width], Field(min_length=1, max_length=MOST_LAYERS)] = [64, 32]
    dropout_rate: float = Field(0.2, ge=0, lt=1)
    epochs: int = Field(100, ge=1, le=MOST)
    batch_size: int = Field(32, ge=1, le=1 << 20)
    learning_rate: float = Field(0.001, gt=0)
    early_stopping_patience: int = Field(10, ge=1, le=MOST)
    min_delta: float = Field(0.001, ge=0)
    learning_rate_scheduler: Literal["step", "plateau", "cosine", "none"] = "step"
    step_size: int | None = Field(None, ge=1, le=MOST, description="of step; default 30")
    gamma: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="of step; default 0.1")
    patience: int | None = Field(None, ge=0, le=MOST, description="of plateau; default 5")
    factor: Factor | None = Field(None, description="of plateau; default 0.5")
    T_max: int | None = Field(None, ge=1, le=MOST, description="of cosine; default 100")
    eta_min: Annotated[float, Field(ge=0)] | None = Field(None, description="of cosine; default 0.0001")
    feature_columns: Annotated[list[Column], Field(min_length=1, max_length=MOST_COLUMNS)] | None = Field(
        None, description="inputs; default: the server's, else all features"
    )
    target_column: Column | None = Field(None, description="default: the server's targets, else all features")
    output_path: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        None, description="a folder below the server's output root; the job's checkpoints go into a folder in it"
    )
    devices: Devices = Field(1, description="processes, at most one a core or accelerator; all: every accelerator")
    precision: Word = "fp32"

    @model_validator(mode="after")
    def _keys_of_its_scheduler(self) -> StartBody:
        allowed = SCHEDULER_KEYS[self.learning_rate_scheduler]
        for scheduler, names in SCHEDULER_KEYS.items():
            for name in names:
                if name not in allowed and getattr(self, name) is not None:
                    raise ValueError(f"{name} is of the scheduler {scheduler}, not of {self.learning_rate_scheduler}")
        return self

    def scheduler(self) -> dict[str, Any]:
        """The section `scheduler` of the configuration."""
        given = {name: getattr(self, name) for name in SCHEDULER_KEYS[self.learning_rate_scheduler]}
        kept = {name: value for name, value in given.items() if value is not None}
        return {"type": self.learning_rate_scheduler, **kept}
