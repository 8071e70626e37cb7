"""What the page of a training run shows: its history, its verdict, its checkpoints; whatever of it there is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dateshard.bookkeeping.run_history import RunHistory, history
from dateshard.judging.judge import verdict_on
from dateshard.judging.verdict import Verdict
from dateshard.places import shards_folder
from dateshard.settings import validate
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, NotThereError, StoreError, UntrustedError
from dateshard.trainer import checkpoint
from dateshard.trainer.binding import data_identity
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.run_record import RunRecord
from dateshard.trainer.runs.status import standing
from dateshard.training.unprepared_dates import open_of_run

SPLITS = ("test", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """All that the page is made of.

    Attributes:
        record: run.json, or as the newest good checkpoint tells it; None where both are damaged.
        verdict: of the best checkpoint; None with the reason in `unjudged`. fresh: it was evaluated just now.
        dataset: the generation that the run was trained on; None where it is gone.
        checkpoints: oldest first. passed: why others do not count.
    """

    run: TrainingRun
    record: RunRecord | None
    history: RunHistory
    verdict: Verdict | None
    unjudged: str
    fresh: bool
    dataset: Dataset | None
    checkpoints: Sequence[Checkpoint]
    passed: Sequence[str]

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved `trainer:` half."""
        return self.record.config if self.record else {}

    @property
    def timezone(self) -> str:
        """The zone of the data; UTC where they are gone."""
        return self.dataset.manifest.timezone if self.dataset else "UTC"

    @property
    def newest(self) -> Checkpoint | None:
        """The checkpoint of the latest position."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def created(self) -> str:
        """When the run began, as people write it; empty where nothing tells."""
        with suppress(ValueError):
            if self.record and self.record.created is not None:
                return f"{dt.datetime.fromisoformat(self.record.created):%-d %B %Y, %H:%M}"
        return ""


def gather(run: TrainingRun, split: str | None = None) -> RunFacts:
    """Everything about a run; evaluates its best checkpoint where no verdict on it lies there yet.

    Args:
        split: None: test where it has windows, else validation.
    """
    record = run.facts_or_recovered()
    dataset = _dataset(record) if record else None
    verdict, unjudged, fresh = _verdict(run, dataset, (split,) if split else SPLITS)
    saved, passed = checkpoint.scan(run.checkpoints)
    return RunFacts(
        run=run,
        record=record,
        history=history(run),
        verdict=verdict,
        unjudged=unjudged,
        fresh=fresh,
        dataset=dataset,
        checkpoints=saved,
        passed=passed,
    )


def _verdict(run: TrainingRun, dataset: Dataset | None, splits: Sequence[str]) -> tuple[Verdict | None, str, bool]:
    reasons = list[str]()
    for split in splits:
        if dataset is not None and len(splits) > 1 and split not in dataset.manifest.split:
            reasons.append(f"no {split} dates")
            continue
        try:
            verdict, fresh = verdict_on(run, split)
        except UntrustedError:
            raise
        except NotThereError as error:
            return None, error.what, False
        except DateshardError as error:
            reasons.append(error.what)
        else:
            return verdict, "", fresh
    return None, "; ".join(dict.fromkeys(reasons)), False


def _dataset(record: RunRecord) -> Dataset | None:
    """The data of the run, if they are still there and the same."""
    with suppress(StoreError):
        data = record.bound.data
        dataset = Dataset.open(shards_folder(data.name), data.generation)
        if data.dumps:
            with suppress(DateshardError):
                dataset, _ = open_of_run(validate({"dataset": data.name, "trainer": record.config}), data)
        return dataset if data_identity(dataset).id == data.id else None
    return None


def told_standing(run: TrainingRun, newest: Checkpoint | None = None) -> str:
    """Tells `finished (epochs)`, `being trained now`, or where it stopped; looks for its newest checkpoint if not given."""
    if newest is None:
        checkpoints, _ = checkpoint.scan(run.checkpoints)
        newest = checkpoints[-1] if checkpoints else None
    stands = standing(run, newest)
    why = f" ({stands.why})" if stands.why else ""
    if stands.state in ("running", "ended"):
        return "being trained now" if stands.state == "running" else f"finished{why}"
    if newest is None:
        return f"{stands.state} before its first checkpoint{why}"
    saved = newest.state
    return f"{stands.state} at epoch {saved.epoch + 1}, batch {saved.batch:,} of {saved.num_batches:,}{why}"
