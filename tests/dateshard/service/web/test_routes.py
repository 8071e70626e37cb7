"""Routes, problems and guards of a real server whose jobs only pose as trainings."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.service_fuzz import SCRIPT, fuzz, posing_server
from tests.kit.serving import API, Server, asked, service_world, serving

NAME = "深度学习模型训练"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--allowed-host", "Train.example.org")
    with serving(tmp_path_factory.mktemp("routes"), *options, script=SCRIPT) as server:
        yield server


@pytest.fixture(scope="module")
def done(server: Server) -> str:
    """A job that is complete."""
    task = server.start(name="completed")
    server.wait(task, "completed")
    return str(task)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"algorithm_type": "random_forest"}, "algorithm_type", "is not trained here"),
    ({"framework": "tensorflow"}, "framework", "PyTorch alone"),
    ({"model_type": "my_package.module:build"}, "model_type", "names code"),
    ({"model_type": "os.system"}, "model_type", "names code"),
    ({"model_type": "transformer"}, "model_type", "there is no model"),
    ({"output_path": "/etc/cron.d/x"}, "output_path", "must lie below"),
    ({"output_path": "../x"}, "output_path", "without '..'"),
    ({"output_path": "."}, "output_path", "plain names"),
    ({"dataset": "../rows"}, "dataset", "there is no dataset '../rows' (rows)"),
    ({"feature_columns": ["feature1", "feature22"]}, "feature_columns[1]", "did you mean 'feature2'?"),
    ({"target_column": "nothing"}, "target_column", "there is feature1, feature2, feature3, target"),
    ({"epochs": 0}, "epochs", "greater than or equal to 1"),
    ({"epochs": "5"}, "epochs", "must be a valid integer"),
    ({"hidden_units": [64, 0]}, "hidden_units[1]", "greater than or equal to 1"),
    ({"learning_rate_scheduler": "cosine", "gamma": 0.5}, "body", "gamma is of the scheduler step"),
    ({"learning_rate_scheduler": "warm"}, "learning_rate_scheduler", "'step', 'plateau', 'cosine' or 'none'"),
    ({"devices": 1024}, "devices", "1024 is more than this machine has"),
    ({"devices": 0}, "devices", "must be a number of processes from 1 to 1024, or 'all'"),
    ({"devices": True}, "devices", "must be a number"),
    ({"precision": "fp7"}, "precision", ""),
    ({"name": "a\x1b[31m"}, "name", "control characters"),
    ({"epoch": 5}, "epoch", "unknown field"),
]


@pytest.mark.parametrize(("body", "field", "reason"), REFUSED, ids=[f"{f} {i}" for i, (_, f, _) in enumerate(REFUSED)])
def test_a_body_that_cannot_be_followed_is_refused_by_its_field(
    server: Server, body: dict[str, Any], field: str, reason: str
) -> None:
    before = server.call("GET", "/jobs")
    answer = server.answer("POST", f"{API}/start", json=asked(**body))
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert problem["errors"][0]["field"] == field
    assert reason in problem["errors"][0]["message"]
    assert problem["detail"] == f"{field}: {problem['errors'][0]['message']}"
    assert server.call("GET", "/jobs") == before


def test_an_illegal_move_names_the_state(server: Server, done: str) -> None:
    running = server.start(name="running")
    server.wait(running, "running")
    for method, path, state in (
        ("POST", f"/pause/{done}", "completed"),
        ("POST", f"/resume/{done}", "completed"),
        ("POST", f"/stop/{done}", "completed"),
        ("POST", f"/resume/{running}", "running"),
        ("DELETE", f"/jobs/{running}", "running"),
        ("POST", f"/predict/{running}", "running"),
    ):
        options = {"json": {"history": [], "until": "2024-01-01"}} if "predict" in path else {}
        problem = server.call(method, path, 409, **options)
        assert problem["state"] == state
        assert f"is {state}; " in problem["detail"]
    server.call("POST", f"/stop/{running}")
    server.wait(running, "stopped")


@pytest.mark.parametrize("state", ["failed", "interrupted", "completed", "early_stopped"])
def test_a_stream_ends_with_the_type_of_how_the_job_ended(server: Server, state: str) -> None:
    task = server.start(name=state)
    types = [event["type"] for event in server.events(task)]
    assert types[-1] == ("complete" if state in ("completed", "early_stopped") else state)
    assert ("complete" in types) == (state in ("completed", "early_stopped"))
    assert types.count("progress") == 2
    assert server.state(task) == state


def test_jobs_wait_for_their_turn_and_are_told_where_they_stand(server: Server) -> None:
    first = server.start(name="running")
    server.wait(first, "running")
    second, third = server.start(name=NAME), server.start(name="completed")
    rows = {row["task_id"]: row for row in server.call("GET", "/jobs?state=queued")["jobs"]}
    assert {task: row["position"] for task, row in rows.items()} == {second: 1, third: 2}
    assert rows[second]["name"] == NAME
    moved = server.call("POST", f"/pause/{second}")
    assert (moved["training_state"], moved["message"]) == (
        "paused",
        f"{second} is paused; it has not begun to train yet",
    )
    assert server.call("GET", f"/jobs/{third}")["job"]["position"] == 1
    with server.following(third) as events:
        assert [event["position"] for _, event in zip(range(2), events, strict=False)] == [2, 1]
    server.call("POST", f"/stop/{first}")
    server.wait(third, "completed")
    assert server.call("DELETE", f"/jobs/{second}")["message"] == f"{second} is deleted"
    server.call("GET", f"/jobs/{second}", 404)
    assert server.call("DELETE", f"/jobs/{third}")["message"] == f"{third} is deleted; its run stays"


def test_the_list_comes_in_pages_newest_first(server: Server, done: str) -> None:
    for _ in range(4):
        task = server.start(name="running")
        server.call("POST", f"/stop/{task}")
    every = [row["task_id"] for row in server.call("GET", "/jobs?limit=200")["jobs"]]
    paged, cursor = [], ""
    while cursor is not None:
        page = server.call("GET", f"/jobs?limit=3{cursor and '&cursor=' + cursor}")
        paged += [row["task_id"] for row in page["jobs"]]
        cursor = page["next"]
    assert paged == every
    assert done in every
    server.call("GET", "/jobs?cursor=x", 400)


def test_a_key_starts_a_job_once_and_refuses_another_body(server: Server) -> None:
    headers = {"Idempotency-Key": "night-1"}
    first = server.call("POST", "/start", json=asked(name="completed"), headers=headers)
    again = server.call("POST", "/start", json=asked(name="completed"), headers=headers)
    assert again == first
    problem = server.call("POST", "/start", 409, json=asked(name="failed"), headers=headers)
    assert first["task_id"] in problem["detail"]
    other = server.call("POST", "/start", json=asked(name="completed"), headers={"Idempotency-Key": "night-2"})
    assert other["task_id"] != first["task_id"]


def routes(server: Server) -> list[tuple[str, str]]:
    """All routes of the OpenAPI, with a task that there is none of."""
    paths = server.answer("GET", "/openapi.json").json()["paths"]
    return [(method.upper(), path.replace("{task_id}", "none")) for path, ways in paths.items() for method in ways]


def test_every_route_but_that_of_health_wants_a_token_and_those_that_change_something_one_that_may(
    server: Server,
) -> None:
    for method, path in routes(server):
        if path in ("/healthz", "/readyz"):
            assert server.client.request(method, server.url + path).status_code == 200
            continue
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {server.token}"}):
            bare = server.client.request(method, server.url + path, headers=headers)
            assert (bare.status_code, bare.headers["www-authenticate"]) == (401, "Bearer"), path
        odd = server.client.request(method, server.url + path, headers={"Authorization": "Bearer schlüssel".encode()})
        assert odd.status_code == 401
        read = server.answer(method, path, token=server.reading).status_code
        makes = method == "POST" and path.endswith("/reports/{kind}/{name}")
        changes = makes or method == "DELETE" or any(word in path for word in ("start", "pause", "resume", "stop"))
        assert (read == 403) == changes, path


def test_no_page_of_another_site_can_call_the_server(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for host in ("evil.example.com", f"evil.example.com:{port}", "localhost.evil.com", ""):
        assert server.answer("GET", "/healthz", headers={"Host": host}).status_code == 421, host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "train.example.org", "TRAIN.example.org:1"):
        assert server.answer("GET", "/healthz", headers={"Host": host}).status_code == 200, host
    others = [("http", "evil.example.com"), ("http", f"127.0.0.1:{int(port) - 1}"), ("https", "train.example.org")]
    for origin in ("null", *(f"{scheme}://{host}" for scheme, host in others)):
        assert server.answer("POST", f"{API}/pause/x", headers={"Origin": origin}).status_code == 403, origin
    assert server.answer("GET", "/healthz", headers={"Origin": server.url}).status_code == 200
    answer = server.answer("OPTIONS", f"{API}/start", headers={"Origin": server.url})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_body_is_json_and_at_most_a_mebibyte_however_it_comes(server: Server) -> None:
    plain = server.answer("POST", f"{API}/start", content=b"{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    large = json.dumps({"name": "x" * (1 << 20)}).encode()
    kind = {"Content-Type": "application/json"}
    assert server.answer("POST", f"{API}/start", content=large, headers=kind).status_code == 413
    assert server.answer("POST", f"{API}/start", content=iter([large[:1000]] * 2000), headers=kind).status_code == 413
    deep = b'{"name":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    for odd in (deep, b'{"name": "\\ud800"}', b'{"epochs": 1e999}', b'{"epochs": ' + b"9" * 5000 + b"}", b"\xff", b"{"):
        assert server.answer("POST", f"{API}/start", content=odd, headers=kind).status_code in (400, 422), odd[:30]


HOSTILE = [
    "..",
    "../..",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..",
    "%00",
    "a" * 4000,
    "x;ls",
    "深度",
    "%0d%0aX:1",
    "*",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_an_id_is_never_used_as_a_path(server: Server, name: str) -> None:
    for path in ("progress", "history", "logs", "checkpoints", "stream-progress", "jobs"):
        assert server.answer("GET", f"{API}/{path}/{name}").status_code in (404, 405, 422)
    assert server.answer("DELETE", f"{API}/jobs/{name}").status_code in (404, 405, 422)


def test_the_log_comes_in_pieces_that_end_with_a_line(server: Server, done: str) -> None:
    log = server.data / "service" / "logs" / f"{done}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(f"{number} 深度\n" for number in range(9000)))
    text, offset = "", 0
    while piece := server.call("GET", f"/logs/{done}?after={offset}"):
        if not piece["text"]:
            break
        assert piece["text"].endswith("\n")
        text, offset = text + piece["text"], piece["next"]
    assert text == log.read_text()


def test_figures_for_prometheus_are_read_by_its_parser(server: Server, done: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(server.answer("GET", "/metrics").text)}
    states = {sample.labels["state"]: sample.value for sample in families["dateshard_jobs"].samples}
    assert states["completed"] >= 1
    assert sum(states.values()) == len(server.call("GET", "/jobs?limit=200")["jobs"])
    assert families["dateshard_max_jobs"].samples[0].value == 1


def test_streams_beyond_the_limit_are_told_to_come_again(server: Server) -> None:
    running = server.start(name="running")
    port = int(server.url.rpartition(":")[2])
    request = f"GET {API}/stream-progress/{running} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    streams = [socket.create_connection(("127.0.0.1", port)) for _ in range(128)]
    try:
        for stream in streams:
            stream.sendall(request.encode())
            assert stream.recv(20).startswith(b"HTTP/1.1 200")
        refused = server.answer("GET", f"{API}/stream-progress/{running}")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    finally:
        for stream in streams:
            stream.close()
    server.call("POST", f"/stop/{running}")
    assert server.events(running)[-1]["type"] == "stopped", "places of those who left are free"


def test_nothing_that_the_server_writes_holds_a_token(server: Server, done: str) -> None:
    server.answer("GET", f"/nowhere?token={server.token}")
    server.answer("GET", f"{API}/jobs?cursor={server.token}")
    server.answer("POST", f"{API}/start", json=asked(name=[server.token]))
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert any(path.name == "server.err" for path in files)
    holding = [path for path in files if server.token.encode() in path.read_bytes()]
    assert holding == []
    service = server.data / "service"
    assert stat.S_IMODE(service.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in service.glob("service.sqlite*")} == {0}


@pytest.mark.parametrize("count", [64, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_request_of_our_own_openapi_leads_to_an_error_of_the_server(tmp_path: Path, count: int) -> None:
    server = posing_server(tmp_path)
    try:
        counts = fuzz(server, count)
    finally:
        server.close()
    assert sum(counts.values()) > count / 2
    assert {200, 401, 404, 422} <= set(counts)


def test_a_server_ends_at_once_with_streams_open_and_says_so_in_them(tmp_path: Path) -> None:
    service_world(tmp_path)
    server = Server(tmp_path, script=SCRIPT)
    task = server.start(name="running")
    server.wait(task, "running")
    with server.following(task) as events:
        assert next(events)["type"] == "queued"
        os.kill(server.process.pid, signal.SIGTERM)
        assert [event["type"] for event in events][-1] == "server-closing"
    assert server.process.wait() == 0
    assert "1 job goes on" in (tmp_path / "server.out").read_text()
    server.client.close()
