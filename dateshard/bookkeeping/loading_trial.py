"""Loads a checkpoint as a trial: it becomes a model again, strictly, and computes one batch."""

from __future__ import annotations

from dateshard.bookkeeping.checkpoint_chores import Named, open_named
from dateshard.documents.checkpoints import CheckpointLoadDocument
from dateshard.places import shards_folder
from dateshard.settings import Settings, validate
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.devices.acceleration import without_acceleration
from dateshard.trainer.models import num_parameters
from dateshard.trainer.rehearsal.trial import try_batch
from dateshard.trainer.session import restore
from dateshard.trainer.setup import make_session
from dateshard.training.unprepared_dates import open_of_run
from dateshard.trust import check_trust, code_of


def load(wanted: Named, *, trust: bool = False) -> CheckpointLoadDocument:
    """Verifies a checkpoint, builds the model of its own settings on its dataset, and takes every tensor strictly.

    Raises:
        DamagedError: naming the file. UsageError: the dataset of today does not fit these settings.
        UntrustedError: they name code, and neither the run nor the copy was made here.
    """
    saved = open_named(wanted)
    state = saved.state
    settings = validate({"dataset": state.bound.data.name, "trainer": state.config})
    place = wanted.place
    folder, what = (place.folder.parent, f"run {place.run}") if place.run else (saved.folder, saved.name)
    check_trust(folder, code_of(settings.trainer), what, trust=trust)
    dataset, notes = _dataset_of(settings, saved)
    session = make_session(without_acceleration(settings.trainer), dataset, saved.folder.parent)
    restore(session, saved)
    trial = try_batch(session)
    return {
        "name": saved.name,
        "folder": str(saved.folder),
        "model": settings.trainer.model.name,
        "parameters": num_parameters(session.model),
        "train_loss": state.train_loss,
        "val_loss": state.val_loss,
        "losses": dict(state.losses),
        "dataset": settings.dataset,
        "generation": dataset.generation,
        "forward": {
            "split": trial.split,
            "windows": trial.windows,
            "loss": trial.loss,
            "losses": trial.losses,
        },
        "notes": notes,
    }


def _dataset_of(settings: Settings, saved: Checkpoint) -> tuple[Dataset, list[str]]:
    """The generation that it was trained on; where that was cleaned away (a copy pins nothing), the current one."""
    data = saved.state.bound.data
    root = shards_folder(data.name)
    try:
        return open_of_run(settings, data)
    except NotThereError:
        dataset = Dataset.open(root)
        note = f"generation {data.generation} is gone: tried on generation {dataset.generation}"
        return dataset, [note]
