"""Whether anything of a split was observed: a split of which nothing was is a pass over cells that count nowhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dateshard.shardstore.commands import command
from dateshard.shardstore.coverage.observed import not_scaled, unscaled
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, StoreError, UsageError, Where
from dateshard.shardstore.times.calendar import collapse
from dateshard.trainer.session import Session


def unobserved(dataset: Dataset, split: str, features: Sequence[int]) -> list[int]:
    """Lists features without an observed cell on any date of the split; none where it has no date.

    Reads masks until each was seen.
    """
    dates = [day.date for day in dataset.days if dataset.manifest.split_of(day.date) == split]
    left = list(features) if dates else []
    for date in dates:
        if not left:
            break
        mask = dataset.map(date, "observed")
        left = [] if mask is None else [place for place in left if not np.asarray(mask)[..., place].any()]
    return left


def blind_splits(session: Session) -> list[DateshardError]:
    """Why training or its validation would tell nothing: targets without a single observed or scaled value."""
    dataset, targets = session.train.dataset, session.train.wanted.targets
    reasons: list[DateshardError] = []
    if unseen := unobserved(dataset, "train", targets):
        what = f"no cell of the target {_names(dataset, unseen)} was observed in the training data "
        what += f"({_dates(dataset, 'train')}): there is nothing to learn"
        todo = "Leave it out of trainer.targets, set pipeline.split, or look at it: "
        todo += command("inspect", "train", config=True)
        reasons.append(UsageError(what, where=Where(file=str(dataset.root)), todo=todo))
    if bare := [place for place in unscaled(dataset.manifest, dataset.statistics) if place in {*targets} - {*unseen}]:
        what, todo = not_scaled(_names(dataset, bare))
        reasons.append(StoreError(what, where=Where(file=str(dataset.root)), todo=todo))
    if session.validation is not None and len(unobserved(dataset, "validation", targets)) == len({*targets}):
        what = f"no cell of the targets ({_names(dataset, targets)}) was observed on the validation dates "
        what += f"({_dates(dataset, 'validation')}): nothing would say which weights are best"
        todo = f"Set pipeline.split, or look at them: {command('inspect', 'validation', config=True)}"
        reasons.append(UsageError(what, where=Where(file=str(dataset.root)), todo=todo))
    return reasons


def refuse_blind(session: Session) -> None:
    """Refuses to begin a training that would tell nothing.

    Raises:
        UsageError: no value of a target on the training dates, or of any on the validation dates.
        StoreError: the statistics are of a time when a target had no value.
    """
    for reason in blind_splits(session):
        raise reason


def blind_inputs(session: Session) -> list[str]:
    """Sentences on inputs of which the model sees nothing while it is trained, or what is not scaled."""
    dataset, wanted = session.train.dataset, session.train.wanted
    inputs = [place for place in wanted.inputs if place not in wanted.targets]
    sentences = []
    if unseen := unobserved(dataset, "train", inputs):
        sentences.append(
            f"no cell of the input {_names(dataset, unseen)} was observed in the training data "
            f"({_dates(dataset, 'train')}): it tells the model nothing. Leave it out of trainer.inputs"
        )
    if bare := [place for place in unscaled(dataset.manifest, dataset.statistics) if place in {*inputs} - {*unseen}]:
        sentences.append(". ".join(not_scaled(_names(dataset, bare))))
    return sentences


def _names(dataset: Dataset, places: Sequence[int]) -> str:
    return ", ".join(dataset.feature_names[place] for place in places)


def _dates(dataset: Dataset, split: str) -> str:
    dates = [day.date for day in dataset.days if dataset.manifest.split_of(day.date) == split]
    return collapse(dates, undated=dataset.manifest.undated)
