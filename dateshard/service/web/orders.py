"""Makes a training's configuration of the body of a start, and refuses what it names that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dateshard.service.jobs.job_table import JobOrder
from dateshard.service.web.machine_devices import choose_devices
from dateshard.service.web.output_root import OutputRoot
from dateshard.service.web.problems import FieldFault, ProblemError, field_problem
from dateshard.service.web.start_body import SCHEDULER_KEYS, StartBody
from dateshard.settings import Settings, validate
from dateshard.settings.setting_faults import ConfigurationError
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError, shorten

FIELDS = {  # place in the configuration -> field of the body
    "trainer.model.name": "model_type",
    "trainer.model.hidden_units": "hidden_units",
    "trainer.model.dropout_rate": "dropout_rate",
    "trainer.training.epochs": "epochs",
    "trainer.training.batch_size": "batch_size",
    "trainer.training.learning_rate": "learning_rate",
    "trainer.training.precision": "precision",
    "trainer.early_stopping.patience": "early_stopping_patience",
    "trainer.early_stopping.min_delta": "min_delta",
    "trainer.inputs": "feature_columns",
    "trainer.targets": "target_column",
}


@dataclass(frozen=True, slots=True)
class OrderDesk:
    """Takes orders for one data folder.

    Attributes:
        settings: the server's own configuration: its dataset, and what a body does not name; None without one.
    """

    data: Path
    output: OutputRoot
    settings: Settings | None = None

    def take(self, body: StartBody) -> JobOrder:
        """An order that can be queued.

        Raises:
            ProblemError: naming the field that cannot be followed.
        """
        save_dir = None if body.output_path is None else self.output.below(body.output_path)
        dataset = self._dataset(body)
        tree = self._tree(body, dataset)
        refuse_unknown(dataset.feature_names, tree["trainer"])
        try:
            settings = validate(tree, own_models=self._own_code_is_named())
        except ConfigurationError as error:
            faults = [FieldFault(field=_field(fault.key), message=fault.message) for fault in error.faults]
            raise ProblemError(422, f"{faults[0].field}: {faults[0].message}", errors=faults) from None
        devices = choose_devices(body.devices, settings.trainer)
        return JobOrder(_echo(body, settings) | {"devices": devices}, settings.model_dump(mode="json"), save_dir)

    def _own_code_is_named(self) -> bool:
        """Whether the operator's own configuration may name code; a body cannot in any case."""
        return self.settings is not None

    def _dataset(self, body: StartBody) -> Dataset:
        name = body.dataset or (self.settings.dataset if self.settings else None)
        there = sorted(path.name for path in (self.data / "shards").glob("*") if (path / "CURRENT").exists())
        if name is None and len(there) == 1:
            name = there[0]
        if name is None:
            raise field_problem("dataset", f"name one of {', '.join(there) or '(none is prepared yet)'}")
        if name not in there:
            known = shorten(", ".join(there), 300) or "none is prepared yet"
            raise field_problem("dataset", f"there is no dataset '{shorten(name)}' ({known})")
        try:
            return Dataset.open(self.data / "shards" / name)
        except StoreError as error:
            raise field_problem("dataset", str(error)) from None

    def _tree(self, body: StartBody, dataset: Dataset) -> dict[str, Any]:
        """The body above the server's own configuration, which counts for its own dataset alone."""
        name, own = dataset.manifest.dataset, self.settings
        trainer: dict[str, Any] = own.trainer.model_dump(mode="json") if own and own.dataset == name else {}
        if not trainer and dataset.manifest.layout == "table":
            trainer["window"] = {"history": 1, "horizon": 0}
        model = {"name": body.model_type, "hidden_units": body.hidden_units, "dropout_rate": body.dropout_rate}
        training: dict[str, Any] = {
            "epochs": body.epochs,
            "batch_size": body.batch_size,
            "learning_rate": body.learning_rate,
        }
        if body.precision != "fp32":
            training["precision"] = body.precision
        trainer |= {
            "model": {**trainer.get("model", {}), **model},
            "training": {**trainer.get("training", {}), **training},
            "scheduler": body.scheduler(),
            "early_stopping": {"patience": body.early_stopping_patience, "min_delta": body.min_delta},
        }
        if body.feature_columns is not None:
            trainer["inputs"] = body.feature_columns
        if body.target_column is not None:
            trainer["targets"] = [body.target_column]
        return {"dataset": name, "trainer": trainer}


def refuse_unknown(known: Sequence[str], trainer: Mapping[str, Any]) -> None:
    """Refuses columns that the dataset does not have.

    Raises:
        ProblemError: naming each of them, with the nearest that there is.
    """
    faults = []
    for key, field in (("inputs", "feature_columns"), ("targets", "target_column")):
        for place, name in enumerate(trainer.get(key) or ()):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"there is {shorten(', '.join(known), 300)}"
                here = f"{field}[{place}]" if field == "feature_columns" else field
                faults.append(FieldFault(field=here, message=f"there is no feature '{shorten(name)}'; {hint}"))
    if faults:
        raise ProblemError(422, f"{faults[0].field}: {faults[0].message}", errors=faults[:20])


def _field(key: str) -> str:
    """The body's field that a place in the configuration comes from."""
    near = next((place for place in FIELDS if key == place or key.startswith(f"{place}.")), None)
    if near is not None:
        return FIELDS[near] + key.removeprefix(near)
    return key.removeprefix("trainer.scheduler.") if key.startswith("trainer.scheduler.") else key


def _echo(body: StartBody, settings: Settings) -> dict[str, Any]:
    """The body with its defaults, as the answer to a start shows it."""
    given = {name: value for name, value in body.model_dump().items() if value is not None}
    scheduler = settings.trainer.scheduler.model_dump()
    keys = SCHEDULER_KEYS[body.learning_rate_scheduler]
    return {**given, "dataset": settings.dataset, **{name: scheduler[name] for name in keys}}
