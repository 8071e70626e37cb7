"""The routes of datasets: what a start may name, and the calendar of a dataset's dates."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from dateshard.service.web.desk import READ, Desk, ToDesk
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.start_body import SCHEDULER_KEYS, StartBody
from dateshard.service.web.training_routes import PREFIX, PROBLEMS
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, NotThereError, shorten
from dateshard.trainer.config import FAMILY_NAMES, Trainer, Training

router = APIRouter(prefix=PREFIX, tags=["datasets"], responses=PROBLEMS)
DatasetName = Annotated[str, PathParameter(pattern=r"^\w[\w.-]{0,63}$", max_length=64)]
LOOKING = threading.Lock()  # one look at the dumps at a time: more would only keep each other waiting
WAIT_SECONDS = 10.0


class DatasetChoice(BaseModel):
    """One dataset that is prepared; `problem` says why it cannot be opened, else it is empty."""

    name: str
    default: bool = Field(description="taken where a start names none")
    problem: str = ""
    layout: str = ""
    generation: int = 0
    dates: int = 0
    features: list[str] = []


class ChoicesAnswer(BaseModel):
    """What a start may name."""

    success: bool = True
    datasets: list[DatasetChoice]
    models: list[str]
    precisions: list[str]
    schedulers: dict[str, dict[str, float]] = Field(description="each with the defaults of its own fields")
    defaults: dict[str, Any] = Field(description="of the fields of a start")
    max_jobs: int


class DateState(BaseModel):
    """How many dates are in a state; `mark` is what is drawn over them, as SVG."""

    state: str
    count: int
    mark: str


class AttentionRow(BaseModel):
    """Dates that need work, and why."""

    dates: str
    state: str
    reason: str


class CalendarAnswer(BaseModel):
    """The dates of a dataset; `drawing` is SVG, empty where rows have no date."""

    success: bool = True
    dataset: str
    generation: int
    drawing: str
    states: list[DateState]
    attention: list[AttentionRow]


@router.get("/choices", dependencies=[READ])
def choices(desk: ToDesk) -> ChoicesAnswer:
    """The datasets, models and defaults of a start."""
    fields = StartBody.model_fields.items()
    return ChoicesAnswer(
        datasets=list(_datasets(desk)),
        models=list(FAMILY_NAMES),
        precisions=list(get_args(Training.model_fields["precision"].annotation)),
        schedulers=_schedulers(),
        defaults={
            name: field.default for name, field in fields if not field.is_required() and field.default is not None
        },
        max_jobs=desk.supervisor.max_jobs,
    )


def _schedulers() -> dict[str, dict[str, float]]:
    made = {name: Trainer.model_validate({"scheduler": {"type": name}}).scheduler for name in SCHEDULER_KEYS}
    return {name: {key: getattr(made[name], key) for key in keys} for name, keys in SCHEDULER_KEYS.items()}


def _datasets(desk: Desk) -> Iterable[DatasetChoice]:
    settings = desk.orders.settings
    folders = sorted(path.parent for path in (desk.folder.data / "shards").glob("*/CURRENT"))
    for folder in folders:
        default = folder.name == settings.dataset if settings else len(folders) == 1
        choice = DatasetChoice(name=folder.name, default=default)
        try:
            dataset = Dataset.open(folder)
        except DateshardError as error:
            yield choice.model_copy(update={"problem": str(error)})
            continue
        manifest = dataset.manifest
        opened = {"layout": manifest.layout, "dates": len(manifest.dates), "generation": dataset.generation}
        yield choice.model_copy(update={**opened, "features": list(dataset.feature_names)})


def folder_of(desk: Desk, name: str) -> Path:
    """The folder of a dataset that is prepared.

    Raises:
        NotThereError: there is none of that name.
    """
    folder = desk.folder.data / "shards" / name
    if not (folder / "CURRENT").exists():
        raise NotThereError(f"there is no dataset '{shorten(name)}'", todo=f"List them: GET {PREFIX}/choices")
    return folder


@router.get("/calendar/{dataset}", dependencies=[READ])
def calendar(dataset: DatasetName, desk: ToDesk) -> CalendarAnswer:
    """The dates of a dataset with their states as they are now: dumps are looked at, nothing is written."""
    from dateshard.service.reporting.date_calendar import calendar_of  # 0.2 s that a server's start does without

    folder = folder_of(desk, dataset)
    if not LOOKING.acquire(timeout=WAIT_SECONDS):
        raise ProblemError(429, "another look at the dumps takes long", headers={"retry-after": "10"})
    try:
        shown = calendar_of(folder, desk.orders.settings)
    finally:
        LOOKING.release()
    return CalendarAnswer(
        dataset=dataset,
        generation=shown.generation,
        drawing=shown.drawing,
        states=[DateState(state=state, count=count, mark=mark) for state, count, mark in shown.states],
        attention=[AttentionRow(dates=dates, state=state, reason=reason) for dates, state, reason in shown.attention],
    )
