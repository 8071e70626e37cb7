"""`dateshard jobs` and `dateshard token` against a real server whose jobs only pose as trainings."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dateshard.documents import document_schema
from dateshard.service.api_client import ApiClient
from tests.kit.service_fuzz import SCRIPT
from tests.kit.serving import Server, service_world, serving

Run = Callable[..., Any]
FIELDS = ("epochs=5", "feature_columns=[feature1, feature2]", "target_column=target")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("jobs"), "--max-jobs", "4", script=SCRIPT) as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("DATESHARD_SERVER", running.url)
    monkeypatch.setenv("DATESHARD_TOKEN", running.token)
    return running


def document(ds: Run, name: str, *words: str) -> Any:
    """What a command prints as JSON, held to its schema."""
    made = ds(*name.split(), *words, "--json").document
    jsonschema.validate(made, document_schema(name), cls=jsonschema.Draft202012Validator)
    return made


def test_a_job_is_started_watched_listed_and_deleted(server: Server, ds: Run) -> None:
    task = document(ds, "jobs start", "name=completed", *FIELDS)["task_id"]
    lines = ds("jobs", "watch", task).out.splitlines()
    assert lines[-1] == "completed"
    assert [line.split(" - ")[0] for line in lines if line.startswith("Epoch")] == ["Epoch 1/9", "Epoch 2/9"]
    assert "Val Acc: 1" in next(line for line in lines if line.startswith("Epoch"))
    assert document(ds, "jobs status", "latest")["job"]["training_state"] == "completed"
    assert task in ds("jobs", "list", "--state", "completed").out
    assert [row["task_id"] for row in document(ds, "jobs list", "-n", "1")["jobs"]] == [task]
    assert ds("jobs", "delete", task).out == f"{task} is deleted; its run stays\n"
    done = ds("jobs", "status", task, code=4)
    assert f"there is no job '{task}'" in done.err


@pytest.mark.parametrize(("end", "code"), [("failed", 1), ("interrupted", 1), ("early_stopped", 0)])
def test_the_exit_code_of_watch_tells_how_a_job_ended(server: Server, ds: Run, end: str, code: int) -> None:
    done = ds("jobs", "start", f"name={end}", *FIELDS, "--watch", code=code)
    assert done.out.splitlines()[-1].startswith(end)


def test_a_job_is_paused_resumed_and_stopped(server: Server, ds: Run) -> None:
    task = ds("jobs", "start", "name=running", *FIELDS).out.strip()
    server.wait(task, "running")
    assert "4" not in ds("jobs", "pause", task).out.split("_")[0]
    assert ds("jobs", "watch", task, code=75).out.splitlines()[-1] == "paused"
    ds("jobs", "resume", task)
    server.wait(task, "running")
    refused = ds("jobs", "resume", task, code=1)
    assert f"{task} is running; resume is for a job that is paused, stopped, interrupted, failed" in refused.err
    ds("jobs", "stop", task)
    assert ds("jobs", "watch", task, code=75).out.splitlines()[-1] == "stopped"


def test_fields_come_from_a_file_and_words_above_it(server: Server, ds: Run, tmp_path: Path) -> None:
    fields = {"name": "深度学习", "epochs": 7, "feature_columns": ["feature1"], "target_column": "target"}
    (tmp_path / "body.json").write_text(json.dumps(fields))
    answer = document(ds, "jobs start", "--body", "body.json", "epochs=9", "--key", "k1")
    assert (answer["config"]["name"], answer["config"]["epochs"]) == ("深度学习", 9)
    again = document(ds, "jobs start", "--body", "body.json", "epochs=9", "--key", "k1")
    assert again == answer
    assert "with another body" in ds("jobs", "start", "--body", "body.json", "--key", "k1", code=1).err
    for words, what in (
        (("epochs",), "is not FIELD=VALUE"),
        (("--body", "nowhere.json"), "nowhere.json: cannot be read"),
        (("name=x", "epochs=0"), "epochs: must be greater than or equal to 1"),
        (("name=x", "epoch=[5"), "is not a value"),
    ):
        assert what in ds("jobs", "start", *words, code=2).err


def test_a_client_that_follows_a_job_goes_on_with_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service_world(tmp_path)
    server = Server(tmp_path, "--port", str(port), script=SCRIPT)
    task = server.start(name="running")
    server.reach(task, 2)
    events = ApiClient(server.url, server.token).follow(task)
    seen = [next(events)["type"] for _ in range(3)]
    server.kill()  # with the job, which only poses
    server.begin()
    seen += [event["type"] for event in events]
    assert seen == ["queued", "starting", "running", "progress", "progress", "interrupted"]
    server.close()


def test_a_database_of_a_newer_version_or_none_at_all_is_refused_by_its_name(ds: Run) -> None:
    ds("token", "list")
    file = Path("data/service/service.sqlite")
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 99")
    assert f"{file.resolve()}: was written by a newer version of dateshard" in ds("token", "list", code=4).err
    for left in file.parent.glob("service.sqlite*"):
        left.unlink()
    file.write_bytes(b"no database at all" * 100)
    assert f"{file.resolve()}: is no database" in ds("token", "list", code=4).err


def test_a_log_is_printed_as_it_is(server: Server, ds: Run) -> None:
    task = ds("jobs", "start", "name=completed", *FIELDS).out.strip()
    server.wait(task, "completed")
    log = server.data / "service" / "logs" / f"{task}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("one\n深度\n" * 9000)
    assert ds("jobs", "logs", task, "-f").out == log.read_text()


def test_without_a_token_or_a_server_the_way_to_one_is_told(
    server: Server, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATESHARD_TOKEN", "wrong")
    assert "send a token of this server" in ds("jobs", "list", code=2).err
    monkeypatch.setenv("DATESHARD_TOKEN", "schlüssel")
    assert "characters that no token has" in ds("jobs", "list", code=2).err
    monkeypatch.delenv("DATESHARD_TOKEN")
    assert "token create --scope train" in ds("jobs", "list", code=2).err
    monkeypatch.setenv("DATESHARD_TOKEN", server.token)
    monkeypatch.setenv("DATESHARD_SERVER", "http://127.0.0.1:1")
    refused = ds("jobs", "list", code=1)
    assert "no service answers at http://127.0.0.1:1: Connection refused" in refused.err
    monkeypatch.setenv("DATESHARD_SERVER", "ftp://x")
    assert "is no address" in ds("jobs", "list", code=2).err


def test_a_token_is_shown_once_and_revoked_at_once(server: Server, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATESHARD_DATA", str(server.data))
    made = document(ds, "token create", "--scope", "read")
    assert server.answer("GET", "/metrics", token=made["token"]).status_code == 200
    assert made["token"] not in ds("token", "list").out
    assert made["id"] in ds("token", "list").out
    ds("token", "revoke", made["id"])
    assert server.answer("GET", "/metrics", token=made["token"]).status_code == 401
    assert "there is no token" in ds("token", "revoke", made["id"], code=4).err


def test_one_data_folder_has_one_server(server: Server, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATESHARD_DATA", str(server.data))
    assert "another server has this data folder" in ds("serve", "--port", "0", code=75).err
    monkeypatch.setenv("DATESHARD_DATA", str(server.folder / "other"))
    port = server.url.rpartition(":")[2]
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in ds("serve", "--port", port, code=1).err
    refused = ds("serve", "--port", "0", "--host", "0.0.0.0", "--auth", "start-only", code=2)
    assert "leaves routes open to whoever reaches 0.0.0.0" in refused.err
    assert "--output-root" in ds("serve", "--port", "0", "--output-root", "x=y", code=2).err
