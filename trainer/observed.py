"""Whether anything of a split was observed: a split of which nothing was is a pass over cells that count nowhere."""

from __future__ import annotations

import numpy as np

from shardstore.calendar import collapse
from shardstore.commands import command
from shardstore.dataset import Dataset
from shardstore.errors import UsageError, Where
from trainer.state import Session


def any_observed(dataset: Dataset, split: str, features: tuple[int, ...]) -> bool:
    """Whether any cell of these features was observed on a date of the split. Reads masks up to the first such cell."""
    for day in dataset.days:
        if dataset.manifest.split_of(day.date) == split:
            mask = dataset.map(day.date, "observed")
            if mask is None or np.asarray(mask)[..., list(features)].any():
                return True
    return False


def blind_validation(session: Session) -> UsageError | None:
    """Why validation would tell nothing: there are windows, and not one observed target in them; else None."""
    if session.validation is None:
        return None
    dataset, targets = session.train.dataset, session.train.wanted.targets
    if any_observed(dataset, "validation", targets):
        return None
    dates = [day.date for day in dataset.days if dataset.manifest.split_of(day.date) == "validation"]
    names = ", ".join(dataset.feature_names[place] for place in targets)
    return UsageError(
        f"no cell of the targets ({names}) was observed on the validation dates ({collapse(dates)}): nothing would say "
        "which weights are best",
        where=Where(file=str(dataset.root)),
        todo=f"Set pipeline.split, or look at them: {command('inspect', 'validation', config=True)}",
    )
