"""Errors as problem details (RFC 9457): what happened, which field of the request, what to do next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from dateshard.service.jobs.job_states import IllegalMoveError
from dateshard.shardstore.errors import DateshardError, DiskFullError, NotThereError, ResourceError, UsageError, shorten

MEDIA = "application/problem+json"
MOST_ERRORS = 20


class FieldFault(BaseModel):
    """One field of a request and what is wrong with it."""

    field: str
    message: str


class ProblemDetails(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldFault] = []
    state: str | None = None


class ProblemError(Exception):
    """An answer that is a problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[FieldFault] = (),
        state: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.state = status, detail, list(errors), state
        self.headers = dict(headers or {})


class NothingMore(Exception):  # noqa: N818 - it is no error
    """Ends a request for events with 204, on which a browser asks no more."""


def field_problem(field: str, message: str) -> ProblemError:
    """A request that names, in one field, what cannot be used."""
    return ProblemError(422, f"{field}: {message}", errors=[FieldFault(field=field, message=message)])


def answer(error: ProblemError) -> JSONResponse:
    """A problem as a response."""
    title = HTTPStatus(error.status).phrase
    details = ProblemDetails(
        title=title, status=error.status, detail=error.detail, errors=error.errors, state=error.state
    )
    content = jsonable_encoder(details, exclude_none=True, exclude=set() if error.errors else {"errors"})
    return JSONResponse(content, error.status, media_type=MEDIA, headers=error.headers)


def problem_of(error: DateshardError) -> ProblemError:
    """Our own errors as problems, in their own words."""
    if isinstance(error, IllegalMoveError):
        return ProblemError(409, str(error), state=error.state)
    kinds = ((NotThereError, 404), (UsageError, 422), (DiskFullError, 507), (ResourceError, 503))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 500)
    return ProblemError(status, str(error))


def add_problems(app: FastAPI) -> None:
    """Has every error of the app answered as a problem."""
    app.add_exception_handler(ProblemError, lambda _, error: answer(error))
    app.add_exception_handler(DateshardError, lambda _, error: answer(problem_of(error)))
    app.add_exception_handler(RequestValidationError, _of_fields)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _of_http)  # type: ignore[arg-type]
    app.add_exception_handler(NothingMore, lambda *_: Response(status_code=204))
    app.add_exception_handler(Exception, _unexpected)


def _of_fields(_: Request, error: RequestValidationError) -> JSONResponse:
    """What pydantic refused, without the values: they may hold what nobody shall read."""
    faults = [FieldFault(field=_name(fault["loc"]), message=_message(fault)) for fault in error.errors()[:MOST_ERRORS]]
    first = f"{faults[0].field}: {faults[0].message}" if faults else "the request cannot be read"
    return answer(ProblemError(422, first, errors=faults))


def _name(place: Sequence[str | int]) -> str:
    """The field as it is written in the body: `hidden_units[1]`."""
    kept = [step for step in place if step not in ("body", "query", "path", "header")]
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in kept)
    return shorten(text.removeprefix("."), 100) or "body"


def _message(fault: Mapping[str, Any]) -> str:
    text = re.sub(r"^\w+ should ", "must ", str(fault["msg"]).removeprefix("Value error, "))
    return shorten({"extra_forbidden": "unknown field", "missing": "is missing"}.get(fault["type"], text), 300)


def _of_http(_: Request, error: HTTPException) -> JSONResponse:
    return answer(ProblemError(error.status_code, str(error.detail), headers=error.headers))


def _unexpected(_: Request, error: Exception) -> JSONResponse:
    return answer(ProblemError(500, f"{type(error).__name__}: the server's log says more"))
