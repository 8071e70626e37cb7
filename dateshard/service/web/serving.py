"""Runs a server until it is asked to end. Jobs go on without it, and the next server takes them up again."""

from __future__ import annotations

import fcntl
import gc
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from dateshard.service.api_client import address_of
from dateshard.service.forecasts.warm_forecasts import WarmForecasts
from dateshard.service.jobs.job_table import JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.jobs.supervisor import Launch, Supervisor, launch_process
from dateshard.service.tokens import Tokens
from dateshard.service.web.app import make_app
from dateshard.service.web.desk import Desk
from dateshard.service.web.orders import OrderDesk
from dateshard.service.web.output_root import OutputRoot
from dateshard.service.web.streams import EventStreams
from dateshard.settings import Settings
from dateshard.shardstore.commands import command
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import BusyError, DateshardError, UsageError, Where, counted, shorten
from dateshard.terminal.screen import Screen
from dateshard.terminal.signals import StopSignal

MOST_STREAMS = 128
MOST_CONNECTIONS = 512
END_SECONDS = 5  # that answers on their way may take once the server is asked to end
TOKEN_FILE = "first_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a server is started: the options of `serve`."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    max_jobs: int = 1
    start_only: bool = False
    output_root: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    settings: Settings | None = None


def serve(options: ServeOptions, screen: Screen, launch: Launch = launch_process) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Raises:
        UsageError: the options contradict each other. BusyError: another server has this data folder.
        DateshardError: the address cannot be listened on.
    """
    if options.start_only and not _is_loopback(options.host):
        what = f"--auth start-only leaves routes open to whoever reaches {options.host}"
        raise UsageError(what, todo="It is for 127.0.0.1 alone; leave one of the two out")
    folder, asked = ServiceFolder(options.data.resolve()), threading.Event()
    root = OutputRoot.of(options.output_root or str(folder.data / "models"))
    with _sole(folder), _listening(options.host, options.port) as listener, _tables(folder) as (table, followed):
        desk = Desk(
            folder=folder,
            table=table,
            tokens=Tokens(table.database),
            orders=OrderDesk(folder.data, root, options.settings),
            supervisor=Supervisor(table, folder, options.max_jobs, launch),
            streams=EventStreams(followed, MOST_STREAMS, asked.is_set),
            forecasts=WarmForecasts(folder.data, folder.path / "forecasts.log"),
            start_only=options.start_only,
            ending=asked.is_set,
        )
        _show(screen, options, desk, listener)
        _first_token(screen, desk)
        gc.freeze()  # what is there now stays; looking through it for garbage costs single requests some 60 ms
        _Server(_config(make_app(desk, options.allowed_hosts)), asked).run(sockets=[listener])
        left = len(table.active())
        screen.say(f"ended; {counted(left, 'job')} {'goes' if left == 1 else 'go'} on" if left else "ended")
    return 0


class _Server(uvicorn.Server):
    """A server that ends in order at the first signal, as every command here, and returns."""

    def __init__(self, config: uvicorn.Config, asked: threading.Event) -> None:
        super().__init__(config)
        self.asked = asked

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end() -> None:
            self.asked.set()
            self.should_exit = True

        with StopSignal(end):
            yield


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # of no use behind a proxy, and addresses may hold what nobody shall read
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=END_SECONDS,
    )


@contextmanager
def _tables(folder: ServiceFolder) -> Iterator[tuple[JobTable, JobTable]]:
    """The table on two connections: for all requests, and for streams, which must not wait for one that writes."""
    table, followed = JobTable.open(folder.path), JobTable.open(folder.path)
    try:
        yield table, followed
    finally:
        table.database.close()
        followed.database.close()


def _show(screen: Screen, options: ServeOptions, desk: Desk, listener: socket.socket) -> None:
    address, jobs = address_of(options.host, listener.getsockname()[1]), counted(options.max_jobs, "job")
    screen.tell(f"{address}  {jobs} at a time  data in {desk.folder.data}  models in {desk.orders.output.folder}")
    if not _is_loopback(options.host):
        screen.tell(
            "warning: whoever reaches this address can try tokens, and reads what is not encrypted: docs/service.md"
        )


def _first_token(screen: Screen, desk: Desk) -> None:
    """Makes the first token: shown on a terminal; elsewhere, where a log would keep it, in a file for its user alone."""
    if desk.tokens.all():
        return
    _, token = desk.tokens.make("train", "first start")
    more = command("token", "create", "--scope", "read")
    if screen.terminal:
        screen.tell(f"token (shown this once; others: {more}): {token}")
        return
    path = desk.folder.path / TOKEN_FILE
    with suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    screen.tell(f"the first token is in {path}: take it from there and remove the file; others: {more}")


@contextmanager
def _sole(folder: ServiceFolder) -> Iterator[None]:
    """Holds the data folder for this server.

    Raises:
        BusyError: another server has it.
    """
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        take_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, folder.lock)
        yield
    except BlockingIOError:
        what, where = "another server has this data folder", Where(file=str(folder.path))
        raise BusyError(what, where=where, todo="End it, or set another DATESHARD_DATA") from None
    finally:
        os.close(descriptor)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        UsageError: there is no such address. DateshardError: it is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        what = f"--host: there is no address '{shorten(host)}' here"
        raise UsageError(what, todo="Name 127.0.0.1, or an address of this machine") from None
    with socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    ) as listener:  # so that answers are never held back
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            todo = "Name another --port, or end what listens there"
            raise DateshardError(f"{host}:{port} cannot be listened on: {error.strerror}", todo=todo) from None
        listener.set_inheritable(False)
        yield listener


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
