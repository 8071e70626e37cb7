"""What a checkpoint's manifest says beside its files: the position, its losses, and what the run is bound to.

A key that a version before did not write is None here, and is not written then: a state that is read and written again
keeps its bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dateshard.trainer.optimization.loss_scale import LossScale
from dateshard.trainer.optimization.schedule import LossHistory


@dataclass(frozen=True, slots=True)
class DataIdentity:
    """Which data a run is bound to.

    Attributes:
        id: of the manifest's content; None of a version that did not note it.
        dumps: {date that the run reads straight from its dump: identity of the dump's content and of how it is read}.
    """

    name: str
    generation: int
    id: str | None = None
    dumps: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The section as it is written."""
        some = {"id": self.id, "dumps": dict(self.dumps)}
        known = {name: value for name, value in some.items() if value}
        return {"name": self.name, "generation": self.generation} | known

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> DataIdentity:
        """Makes it of a file's section; what else stands there is not of the identity.

        Raises:
            ValueError, KeyError, TypeError: it is no such section.
        """
        dumps = {str(dt.date.fromisoformat(date)): key for date, key in content.get("dumps", {}).items()}
        data = DataIdentity(content["name"], content["generation"], content.get("id"), dumps)
        if type(data.generation) is not int or not 0 < data.generation < 10**8:
            raise ValueError(data.generation)
        texts = (data.name, data.id, *dumps.values())
        if not isinstance(data.name, str) or not all(isinstance(text, str | None) for text in texts):
            raise TypeError(data)
        return data


@dataclass(frozen=True, slots=True)
class Bound:
    """What must be the same to continue a run to the same bits.

    Attributes:
        settings: {dotted key below trainer: value} of those that bind. order: how windows are shuffled.
        init_from: the weights that it began with: source and hashes; None: its own.
    """

    settings: Mapping[str, Any]
    data: DataIdentity
    order: Mapping[str, Any]
    init_from: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The section as it is written, which run.json holds as well."""
        sections = {"settings": dict(self.settings), "data": self.data.to_json(), "order": dict(self.order)}
        return sections | ({} if self.init_from is None else {"init_from": dict(self.init_from)})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Bound:
        """Makes it of a checkpoint's section, or of run.json.

        Raises:
            ValueError, KeyError, TypeError: what a run is bound to is not there whole.
        """
        settings, order, init_from = content["settings"], content["order"], content.get("init_from")
        _refuse_unlike(dict, settings, order, init_from or {})
        return Bound(settings, DataIdentity.from_json(content["data"]), order, init_from)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointState:
    """The state of training at one position.

    Attributes:
        epoch, batch: from 0; batches of the epoch that are done. step: optimizer steps so far.
        skipped, skipped_in_a_row: steps whose gradient was not finite, of the epoch and up to this one.
        validated: the epoch's validation is done.
        judged: the figure that ranks it, the lower the better; None where that is the loss.
        losses: {name: loss} of the epoch so far.
        without_moments: trained parameters that the optimizer keeps nothing of.
        parameters: those that it has, in its order; None of a version that did not note them.
        learning_rate: of the step that is due; None of a version that did not note it.
        loss_scale: of the step that is due; None of a run in another precision than fp16.
        config: the whole `trainer:` half, resolved. environment: what equal bits depend on beside it.
    """

    epoch: int
    batch: int
    step: int
    num_batches: int
    bound: Bound
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    progress: LossHistory
    validated: bool = False
    skipped: int = 0
    skipped_in_a_row: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    judged: float | None = None
    losses: Mapping[str, float | None]
    without_moments: Sequence[str] = ()
    parameters: Sequence[str] | None = None
    learning_rate: float | None = None
    loss_scale: LossScale | None = None

    def to_json(self) -> dict[str, Any]:
        """The state as it is written."""
        content = {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "num_batches": self.num_batches,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "validated": self.validated,
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            "losses": dict(self.losses),
            "progress": asdict(self.progress),
            "without_moments": list(self.without_moments),
            "bound": self.bound.to_json(),
            "config": dict(self.config),
            "environment": dict(self.environment),
        }
        if self.parameters is not None:
            content["parameters"] = list(self.parameters)
        if self.loss_scale is not None:
            content["loss_scale"] = asdict(self.loss_scale)
        if self.judged is not None:
            content["judged"] = self.judged
        return content | ({} if self.learning_rate is None else {"learning_rate": self.learning_rate})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> CheckpointState:
        """Makes the state of a manifest's content, once all of it is checked.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: a state that no training has.
        """
        progress = content["progress"]
        counts = [content[key] for key in ("epoch", "batch", "num_batches", "step", "skipped", "skipped_in_a_row")]
        counts += [progress[key] for key in ("bad_epochs", "plateau_epochs", "cuts")] + [progress["best_epoch"] + 1]
        losses = [content["train_loss"], content["val_loss"], content.get("learning_rate"), content.get("judged")]
        losses += [progress[key] for key in ("best_loss", "reference_loss", "plateau_loss")]
        losses += content["losses"].values()
        if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
            raise ValueError(counts)
        if not all(loss is None or isinstance(loss, int | float) for loss in losses):
            raise ValueError(losses)
        _refuse_unlike(str, *content["without_moments"], *(content.get("parameters") or ()))
        _refuse_unlike(dict, content["config"], content["environment"])
        _refuse_unlike(bool, content["validated"])
        return CheckpointState(
            epoch=content["epoch"],
            batch=content["batch"],
            step=content["step"],
            num_batches=content["num_batches"],
            bound=Bound.from_json(content["bound"]),
            config=content["config"],
            environment=content["environment"],
            progress=LossHistory(**progress),
            validated=content["validated"],
            skipped=content["skipped"],
            skipped_in_a_row=content["skipped_in_a_row"],
            train_loss=content["train_loss"],
            val_loss=content["val_loss"],
            judged=content.get("judged"),
            losses=content["losses"],
            without_moments=content["without_moments"],
            parameters=content.get("parameters"),
            learning_rate=content.get("learning_rate"),
            loss_scale=LossScale.from_json(content["loss_scale"]) if "loss_scale" in content else None,
        )


def _refuse_unlike(kind: type, *values: object) -> None:
    if not {*map(type, values)} <= {kind}:
        raise TypeError(values)
