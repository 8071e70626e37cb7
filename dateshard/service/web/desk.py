"""What the routes of a server share, and who may call them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from dateshard.service.forecasts.warm_forecasts import WarmForecasts
from dateshard.service.jobs.job_table import JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.jobs.supervisor import Supervisor
from dateshard.service.tokens import Tokens
from dateshard.service.web.orders import OrderDesk
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.streams import EventStreams

SCHEME = HTTPBearer(auto_error=False, description="a token that `token create` made")
SCOPES = {"read": ("read", "train"), "train": ("train",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """All that answers need.

    Attributes:
        start_only: the other five routes of the notes are open to whoever reaches the server; on loopback alone.
        ending: whether the server is about to end.
    """

    folder: ServiceFolder
    table: JobTable
    tokens: Tokens
    orders: OrderDesk
    supervisor: Supervisor
    streams: EventStreams
    forecasts: WarmForecasts
    start_only: bool
    ending: Callable[[], bool]


def desk_of(request: Request) -> Desk:
    """The desk of the server that a request came to."""
    desk: Desk = request.app.state.desk
    return desk


ToDesk = Annotated[Desk, Depends(desk_of)]


class Allowed:
    """A dependency that lets a request pass if its token has the scope.

    Args:
        scope: read or train. of_the_notes: the notes call this route without a token.
    """

    def __init__(self, scope: str, *, of_the_notes: bool = False) -> None:
        self.scope, self.of_the_notes = scope, of_the_notes

    def __call__(self, request: Request, _scheme: Annotated[object, Depends(SCHEME)], desk: ToDesk) -> None:
        """Raises ProblemError: no token, an unknown one, or one that may not do this."""
        if desk.start_only and self.of_the_notes:
            return
        given = next((value for name, value in request.headers.raw if name == b"authorization"), b"")
        word, _, token = given.strip().partition(b" ")
        scope = desk.tokens.scope(token.strip()) if word.lower() == b"bearer" else None
        if scope is None:
            detail = "send a token of this server: Authorization: Bearer TOKEN (the command `token create` makes one)"
            raise ProblemError(401, detail, headers={"www-authenticate": "Bearer"})
        if scope not in SCOPES[self.scope]:
            raise ProblemError(403, f"this token may {scope}, and this needs one of scope {self.scope}")


READ, TRAIN = Depends(Allowed("read")), Depends(Allowed("train"))
NOTES_READ = Depends(Allowed("read", of_the_notes=True))
NOTES_TRAIN = Depends(Allowed("train", of_the_notes=True))
