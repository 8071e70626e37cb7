"""The commands of `jobs`: the trainings of a service, over its API."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from dateshard.cli.options import emit, json_option
from dateshard.terminal.screen import put

if TYPE_CHECKING:
    from dateshard.service.api_client import ApiClient

ASKED_SECONDS = 1.0  # between two questions for more of a log
LATEST = "latest"
ACTIVE = ("queued", "starting", "running", "pausing", "stopping")
STATES = (*ACTIVE, "paused", "stopped", "interrupted", "failed", "completed", "early_stopped")
task_argument = click.argument("task", metavar="ID|latest")


@click.group()
def jobs() -> None:
    """Start, watch, pause, resume and stop the trainings of a service.

    DATESHARD_SERVER says where it is (default http://127.0.0.1:8000); DATESHARD_TOKEN, or a file that DATESHARD_TOKEN_FILE
    names, has the token. On the server's own machine its first token is taken where it still lies.
    """


@jobs.command("list")
@click.option("--state", type=click.Choice(STATES), help="only jobs in this state")
@click.option("-n", "most", type=click.IntRange(1, 200), default=50, metavar="N", help="only the N newest")
@json_option
def list_jobs(state: str | None, most: int, as_json: bool) -> int:
    """List jobs, newest first."""
    from dateshard.service.jobs_screen import show_jobs
    from dateshard.terminal.screen import Screen

    answer = _client().call("GET", f"/jobs?limit={most}" + (f"&state={state}" if state else ""))
    if as_json:
        emit(answer)
    elif answer["jobs"]:
        show_jobs(Screen(), answer["jobs"])
    else:
        put(f"no job{f' is {state}' if state else ' yet'}", sys.stderr)
    return 0


@jobs.command()
@click.argument("words", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--body", "file", type=click.Path(), metavar="FILE", help="a JSON file with fields; -: standard input")
@click.option("--key", metavar="KEY", help="start only once, however often this is called with the same key and fields")
@click.option("--watch", "watched", is_flag=True, help="follow it until it rests")
@json_option
def start(words: tuple[str, ...], file: str | None, key: str | None, watched: bool, as_json: bool) -> int:
    """Start a training: name=NAME epochs=5 feature_columns=[a,b] target_column=c ... (docs/service.md lists all)."""
    from dateshard.service.job_fields import read_fields

    if watched and as_json:
        raise click.UsageError("Give --watch or --json.")
    client = _client()
    body = read_fields(words, file)
    answer = client.call("POST", "/start", body, {"Idempotency-Key": key} if key else None)
    if as_json:
        emit(answer)
        return 0
    put(answer["task_id"])
    return _watch(client, answer["task_id"]) if watched else 0


@jobs.command()
@task_argument
@json_option
def status(task: str, as_json: bool) -> int:
    """Show one job: its state, why, its process, and what it may be asked to do."""
    from dateshard.service.jobs_screen import show_job
    from dateshard.terminal.screen import Screen

    client = _client()
    answer = client.call("GET", f"/jobs/{_id(client, task)}")
    if as_json:
        emit(answer)
    else:
        show_job(Screen(), answer)
    return 0


@jobs.command()
@task_argument
def watch(task: str) -> int:
    """Follow a job until it rests; the exit code is 0 if it is complete, 75 if paused or stopped, 1 if it failed."""
    client = _client()
    return _watch(client, _id(client, task))


@jobs.command()
@task_argument
@click.option("-f", "--follow", is_flag=True, help="wait for more until the job rests")
def logs(task: str, follow: bool) -> int:
    """Print what the processes of a job printed."""
    client, offset = _client(), 0
    name = _id(client, task)
    while True:
        rests = "delete" in client.call("GET", f"/jobs/{name}")["job"]["moves"]
        while (piece := client.call("GET", f"/logs/{name}?after={offset}"))["text"]:
            offset = piece["next"]
            put(piece["text"].rstrip("\n"), lines=True)
        if rests or not follow:
            return 0
        time.sleep(ASKED_SECONDS)


@jobs.command()
@task_argument
def pause(task: str) -> int:
    """Have a job save at its next batch and free its memory; `jobs resume` goes on exactly there."""
    return _ask("POST", "pause", task)


@jobs.command()
@task_argument
def resume(task: str) -> int:
    """Queue a job again that was paused, stopped, interrupted or failed; it goes on from its last checkpoint."""
    return _ask("POST", "resume", task)


@jobs.command()
@task_argument
def stop(task: str) -> int:
    """End a job: one that runs saves at its next batch."""
    return _ask("POST", "stop", task)


@jobs.command()
@task_argument
def delete(task: str) -> int:
    """Take a job at rest off the list. Its run and its checkpoints stay."""
    return _ask("DELETE", "jobs", task)


def _client() -> ApiClient:
    from dateshard.service.api_client import ApiClient

    return ApiClient.of_environment()


def _id(client: ApiClient, task: str) -> str:
    """The id of a job; of the newest for `latest`."""
    from urllib.parse import quote

    if task != LATEST:
        return quote(task, safe="")
    newest: list[dict[str, Any]] = client.call("GET", "/jobs?limit=1")["jobs"]
    return str(newest[0]["task_id"]) if newest else LATEST


def _ask(method: str, act: str, task: str) -> int:
    client = _client()
    put(client.call(method, f"/{act}/{_id(client, task)}")["message"])
    return 0


def _watch(client: ApiClient, task: str) -> int:
    """Prints the events of a job; what the last one tells is the exit code."""
    from dateshard.service.jobs_screen import ENDS, event_line

    code = 1
    for event in client.follow(task):
        code = ENDS.get(event["type"], 1)
        if line := event_line(event):
            put(line)
    return code
