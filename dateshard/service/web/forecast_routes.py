"""The route that forecasts with the model of a finished job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from dateshard.documents.serving import PredictAnswer
from dateshard.service.forecasts.predict_body import PredictBody
from dateshard.service.forecasts.warm_forecasts import RefusedForecastError
from dateshard.service.jobs.job_states import DONE
from dateshard.service.web.desk import READ, ToDesk
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.training_routes import PREFIX, PROBLEMS, TaskId

router = APIRouter(prefix=PREFIX, tags=["forecasts"], responses=PROBLEMS)
STATUS = {"usage": 422, "not there": 404}
BODY = {"required": True, "content": {"application/json": {"schema": PredictBody.model_json_schema()}}}


async def _body(request: Request) -> bytes:
    return await request.body()


@router.post(
    "/predict/{task_id}", dependencies=[READ], response_model=PredictAnswer, openapi_extra={"requestBody": BODY}
)
def predict(task_id: TaskId, body: Annotated[bytes, Depends(_body)], desk: ToDesk) -> Response:
    """Forecasts, in raw units, what comes after a raw history. The first call of a job loads its model."""
    job = desk.table.job(task_id)
    if job.state not in DONE:
        detail = f"{job.id} is {job.state}; predict is for a job that is {' or '.join(DONE)}"
        raise ProblemError(409, detail, state=job.state)
    try:
        return Response(desk.forecasts.ask(job.id, body), media_type="application/json")
    except RefusedForecastError as refused:
        if refused.faults:
            raise RequestValidationError(refused.faults) from None
        raise ProblemError(STATUS.get(refused.kind, 500), str(refused)) from None
