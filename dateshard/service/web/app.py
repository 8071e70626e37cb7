"""The application: guards before all, a problem for every error, and one router for each group of routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import metadata

from fastapi import FastAPI

from dateshard.service.web import forecast_routes, health_routes, job_routes, training_routes
from dateshard.service.web.desk import Desk
from dateshard.service.web.guards import Guard
from dateshard.service.web.page import dataset_routes, page_routes, report_routes
from dateshard.service.web.page.page_desk import PageDesk
from dateshard.service.web.problems import add_problems

ROUTERS = (
    training_routes.router,
    job_routes.router,
    forecast_routes.router,
    health_routes.router,
    page_routes.router,
    dataset_routes.router,
    report_routes.router,
)


def make_app(desk: Desk, hosts: tuple[str, ...] = ()) -> FastAPI:
    """Makes the application of one server.

    Args:
        hosts: names that it may be called by beside `localhost` and plain addresses.
    """
    app = FastAPI(
        title="dateshard",
        version=metadata.version("dateshard"),
        summary="Start, watch, pause and resume trainings.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=_living,
    )
    app.state.desk = desk
    app.state.page_desk = PageDesk.beside(desk)
    add_problems(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(Guard, hosts=hosts)
    return app


@asynccontextmanager
async def _living(app: FastAPI) -> AsyncIterator[None]:
    desk: Desk = app.state.desk
    desk.supervisor.start()
    watching = asyncio.create_task(desk.streams.watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        desk.supervisor.end()
        desk.forecasts.close()
        app.state.page_desk.reports.end()
