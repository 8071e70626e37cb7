"""The service's application without a server: routes are called in this process, and no job is ever started."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from dateshard.service.forecasts.warm_forecasts import WarmForecasts
from dateshard.service.jobs.job_table import JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.jobs.supervisor import Supervisor
from dateshard.service.tokens import Tokens
from dateshard.service.web.app import make_app
from dateshard.service.web.desk import Desk
from dateshard.service.web.orders import OrderDesk
from dateshard.service.web.output_root import OutputRoot
from dateshard.service.web.streams import EventStreams
from dateshard.settings import Settings


class PageClient:
    """Calls the application, without a token unless one is given in the headers."""

    def __init__(self, app: FastAPI, desk: Desk) -> None:
        self.app, self.desk = app, desk

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """One request that only reads."""
        return self.ask("GET", path, **options)

    def close(self) -> None:
        """Closes the database."""
        self.desk.table.database.close()

    def bearer(self, scope: str) -> dict[str, str]:
        """Headers with a new token."""
        return {"Authorization": f"Bearer {self.desk.tokens.make(scope)[1]}"}


def page_client(folder: Path, settings: Settings | None = None) -> PageClient:
    """A client of an application whose data are in `folder/data`."""
    service = ServiceFolder(folder / "data")
    table = JobTable.open(service.path)
    desk = Desk(
        folder=service,
        table=table,
        tokens=Tokens(table.database),
        orders=OrderDesk(service.data, OutputRoot.of(str(folder / "models")), settings),
        supervisor=Supervisor(table, service, 1),
        streams=EventStreams(table, 1, lambda: False),
        forecasts=WarmForecasts(service.data, service.path / "forecasts.log"),
        start_only=False,
        ending=lambda: False,
    )
    return PageClient(make_app(desk), desk)
