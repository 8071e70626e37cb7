"""The commands serve, token and jobs: the training service, who may call it, and calls to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from dateshard.cli.options import config_option, emit, json_option, split_arguments
from dateshard.shardstore.commands import command
from dateshard.terminal.chosen import configurations, taken
from dateshard.terminal.screen import put

if TYPE_CHECKING:
    from dateshard.service.tokens import Tokens


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@config_option
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0: any that is free")
@click.option("--max-jobs", type=click.IntRange(1, 64), default=1, help="jobs that train at one time; others wait")
@click.option(
    "--auth",
    type=click.Choice(["always", "start-only"]),
    default="always",
    help="start-only, on loopback: progress, history, stream-progress, pause and resume need no token",
)
@click.option(
    "--output-root",
    metavar="DIR|NAME=DIR",
    help="clients may have checkpoints written below it, and call it NAME (default: data/models)",
)
@click.option(
    "--allowed-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="a name that the server may be called by; repeatable",
)
def serve(
    words: tuple[str, ...],
    files: tuple[str, ...],
    host: str,
    port: int,
    max_jobs: int,
    auth: str,
    output_root: str | None,
    allowed: tuple[str, ...],
) -> int:
    """Start, watch, pause and resume trainings over HTTP. Trainings go on when the server ends.

    The dataset of -c FILE, or of the only file in configs/, is the default, and its trainer section counts where a request
    says nothing.
    """
    from dateshard.places import data_folder
    from dateshard.settings import load_settings
    from dateshard.shardstore.errors import UsageError
    from dateshard.terminal.screen import Screen

    try:
        from dateshard.service.web.serving import ServeOptions
        from dateshard.service.web.serving import serve as run_server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise UsageError(
            f"serve needs {error.name}, which is not installed", todo="Install it: pip install 'dateshard[service]'"
        ) from None
    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"serve takes KEY=VALUE, not '{stray[0]}'.")
    named = taken(files) if len(configurations()) == 1 else files
    options = ServeOptions(
        data=data_folder(),
        host=host,
        port=port,
        max_jobs=max_jobs,
        start_only=auth == "start-only",
        output_root=output_root,
        allowed_hosts=allowed,
        settings=load_settings(named, overrides) if named or overrides else None,
    )
    return run_server(options, Screen(works=True))


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that callers of the service send. A token is shown once, when it is made."""


@token.command()
@click.option("--scope", type=click.Choice(["read", "train"]), required=True, help="train may read as well")
@click.option("--name", default="", metavar="TEXT", help="what it is for")
@json_option
def create(scope: str, name: str, as_json: bool) -> int:
    """Make a token and print it, this once."""
    with _tokens() as tokens:
        identity, made = tokens.make(scope, name)
    if as_json:
        emit({"id": identity, "scope": scope, "name": name, "token": made})
        return 0
    put(made)
    put(f"{identity}, scope {scope}: only its hash is kept, it is not shown again", sys.stderr)
    return 0


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> int:
    """List tokens by their ids; the tokens themselves are not kept."""
    import datetime as dt

    from dateshard.terminal.screen import Screen

    with _tokens() as tokens:
        rows = tokens.all()
    created = [dt.datetime.fromtimestamp(row.created).astimezone().isoformat(timespec="seconds") for row in rows]
    if as_json:
        emit(
            [
                {"id": row.id, "scope": row.scope, "name": row.name, "created": at}
                for row, at in zip(rows, created, strict=True)
            ]
        )
    elif rows:
        cells = [[row.id, row.scope, at, row.name] for row, at in zip(rows, created, strict=True)]
        Screen().table([["id", "scope", "created", "name"], *cells])
    else:
        put(f"no token yet; make one: {command('token', 'create', '--scope', 'train')}", sys.stderr)
    return 0


@token.command()
@click.argument("identity", metavar="ID")
def revoke(identity: str) -> int:
    """Make a token worthless at once, also for a server that runs."""
    with _tokens() as tokens:
        tokens.revoke(identity)
    put(f"revoked {identity}")
    return 0


@contextmanager
def _tokens() -> Iterator[Tokens]:
    """The tokens of this data folder's service."""
    from dateshard.places import data_folder
    from dateshard.service.jobs.database import Database
    from dateshard.service.jobs.service_folder import ServiceFolder
    from dateshard.service.tokens import Tokens

    database = Database(ServiceFolder(data_folder().resolve()).path)
    try:
        yield Tokens(database)
    finally:
        database.close()
