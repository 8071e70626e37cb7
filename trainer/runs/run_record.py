"""What run.json says of a run: its settings, what it is bound to, and what `compare` and `tail` tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dateshard.trainer.checkpoint import Bound

KEYS = (
    "name",
    "created",
    "settings",
    "config",
    "data",
    "order",
    "environment",
    "split",
    "parameters",
    "windows",
    "batches",
)
MADE_AGAIN = ("name", "created", "made_again_from", "data", "init_from", "order", "settings", "config", "environment")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The content of run.json; what a version before did not write is None, and stays unwritten.

    Attributes:
        name: of the folder that it was made in. created: the instant, with its offset from UTC.
        made_again_from: the checkpoint that tells all this, because run.json was damaged.
        root: the folder of the shards.
        config: the whole `trainer:` half, resolved. environment: what equal bits depend on beside it.
        split: {name: ranges of dates}. parameters, windows, batches: of the model and of an epoch.
        keys: in the order in which they stand in the file, which is kept when it is written again.
    """

    bound: Bound
    config: Mapping[str, Any]
    name: str | None = None
    created: str | None = None
    made_again_from: str | None = None
    root: str | None = None
    environment: Mapping[str, Any] | None = None
    split: Mapping[str, Any] | None = None
    parameters: int | None = None
    windows: int | None = None
    batches: int | None = None
    keys: Sequence[str] = field(default=KEYS, compare=False)

    @property
    def model(self) -> str:
        """The model's name; `?` where the settings do not say it."""
        name: str = self.config.get("model", {}).get("name", "?")
        return name

    def to_json(self) -> dict[str, Any]:
        """The content of run.json, without its seal."""
        data = self.bound.data.to_json() | ({} if self.root is None else {"root": self.root})
        values = {
            **self.bound.to_json(),
            "data": data if self.made_again_from is None else dict(sorted(data.items())),  # as a checkpoint has it
            "name": self.name,
            "created": self.created,
            "made_again_from": self.made_again_from,
            "config": self.config,
            "environment": self.environment,
            "split": self.split,
            "parameters": self.parameters,
            "windows": self.windows,
            "batches": self.batches,
        }
        order = dict.fromkeys((*self.keys, *KEYS, *values))
        return {key: values[key] for key in order if values.get(key) is not None}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> RunRecord:
        """Makes the record of a file's content, once all of it is checked.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is no run's.
        """
        created = content.get("created")
        record = RunRecord(
            bound=Bound.from_json(content),
            config=content["config"],
            name=content.get("name"),
            created=created if isinstance(created, str) else None,  # else the files tell it
            made_again_from=content.get("made_again_from"),
            root=content["data"].get("root"),
            environment=content.get("environment"),
            split=content.get("split"),
            parameters=content.get("parameters"),
            windows=content.get("windows"),
            batches=content.get("batches"),
            keys=tuple(content),
        )
        texts = (record.name, record.created, record.made_again_from, record.root)
        counts = (record.parameters, record.windows, record.batches)
        tables = (record.environment, record.split)
        if not (_all(str, *texts) and _all(int, *counts) and _all(dict, *tables) and isinstance(record.config, dict)):
            raise TypeError(content)
        return record


def _all(kind: type, *values: object) -> bool:
    return {*map(type, values)} <= {kind, type(None)}
