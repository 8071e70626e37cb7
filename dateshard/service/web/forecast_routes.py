"""The route that forecasts with the model of a finished job."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from dateshard.documents.serving import PredictAnswer
from dateshard.service.jobs.job_states import DONE
from dateshard.service.web.desk import READ, ToDesk
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.training_routes import PREFIX, PROBLEMS, TaskId

router = APIRouter(prefix=PREFIX, tags=["forecasts"], responses=PROBLEMS)
STATUS = {"usage": 422, "not there": 404}


class PredictBody(BaseModel):
    """Raw values to forecast from: [steps][nodes][inputs], null where nothing was observed."""

    history: list[list[list[float | None]]]
    until: str = Field(max_length=64, description="the end of the last step: 2013-12-01T14:00, local or with an offset")
    interval: float | None = Field(0.9, gt=0, lt=1, description="share of targets between low and high; null: none")
    checkpoint: str = Field("best", pattern=r"^(best|latest|checkpoint_epoch_\d{1,9}_batch_\d{1,9}(-\d{1,3})?)$")


@router.post("/predict/{task_id}", dependencies=[READ], response_model=PredictAnswer)
def predict(task_id: TaskId, body: PredictBody, desk: ToDesk) -> Response:
    """Forecasts, in raw units, what comes after a raw history. The first call of a job loads its model."""
    job = desk.table.job(task_id)
    if job.state not in DONE:
        detail = f"{job.id} is {job.state}; predict is for a job that is {' or '.join(DONE)}"
        raise ProblemError(409, detail, state=job.state)
    answer = desk.forecasts.ask({"run": job.id, **body.model_dump()})
    if "error" in answer:
        raise ProblemError(STATUS.get(answer["kind"], 500), answer["error"])
    data = to_json({"success": True, "task_id": task_id, **answer["forecast"]})  # as it came: of our own process
    return Response(data, media_type="application/json")
