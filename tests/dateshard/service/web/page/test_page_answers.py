"""What the page alone asks for: choices, calendars and reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.service.reporting.report_maker import Report
from dateshard.service.web.start_body import StartBody
from tests.conftest import World, build_world
from tests.kit.page_client import PageClient, page_client
from tests.kit.serving import API, service_world

HOSTILE = '<script>alert("1")</script>'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six dates, of which one failed when it came again, and one has no dump any more."""
    made = build_world(tmp_path_factory.mktemp("page"), 6)
    made.prepare()
    dates = sorted(made.rows)
    made.dump(dates[1]).write_text(f"time,node,speed,vehicles\n{HOSTILE},n0,1,1\n")
    made.dump(dates[2]).unlink()
    return made


@pytest.fixture
def client(world: World) -> Iterator[PageClient]:
    made = page_client(world.folder)
    yield made
    made.close()


def test_choices_are_the_datasets_with_their_features_and_the_defaults_of_a_start(
    client: PageClient, world: World
) -> None:
    damaged = world.folder / "data" / "shards" / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "CURRENT").write_text("{")
    answer = client.get(f"{API}/choices", headers=client.bearer("read")).json()
    bad, good = answer["datasets"]
    assert (good["name"], good["dates"], good["features"]) == ("world", 6, ["speed", "volume"])
    assert bad["name"] == "damaged"
    assert bad["problem"]
    body = StartBody(name="x").model_dump(exclude_none=True)
    assert answer["defaults"] == {name: value for name, value in body.items() if name != "name"}
    assert answer["schedulers"]["step"] == {"step_size": 30, "gamma": 0.1}


def test_the_calendar_is_that_of_status_and_names_what_needs_work(client: PageClient, world: World) -> None:
    answer = client.get(f"{API}/calendar/world", headers=client.bearer("read")).json()
    plan, _, _ = look(world.settings.preparing(), world.store, Wish())
    counts: dict[str, int] = {}
    for date in plan.dates:
        counts[date.state] = counts.get(date.state, 0) + 1
    assert {row["state"]: row["count"] for row in answer["states"]} == counts
    dates = sorted(world.rows)
    assert [(row["dates"], row["state"]) for row in answer["attention"]] == [(str(dates[1]), "stale(dump)")]
    assert answer["drawing"].count("<title>") == 6
    assert "<script" not in answer["drawing"]


@pytest.mark.parametrize("name", ["nothing", "..", "world%2f..%2fworld", "%00"])
def test_a_dataset_that_is_not_there_is_refused(client: PageClient, name: str) -> None:
    for path in (f"calendar/{name}", f"reports/data/{name}/state"):
        assert client.get(f"{API}/{path}", headers=client.bearer("read")).status_code in (404, 422)


def test_a_report_is_opened_once_by_a_ticket_in_an_origin_of_its_own(client: PageClient) -> None:
    read = client.bearer("read")
    report = f"{API}/reports/data/world"
    assert client.get(report, headers=read).status_code == 404
    assert client.ask("POST", f"{report}/ticket", headers=read).status_code == 404
    path = client.app.state.page_desk.reports.path(Report("data", "world"))
    path.parent.mkdir(parents=True)
    path.write_text("<p>report</p>")
    assert client.get(report, headers=read).text == "<p>report</p>"
    link = client.ask("POST", f"{report}/ticket", headers=read).json()["path"]
    opened = client.get(f"/{link}")
    assert opened.text == "<p>report</p>"
    policy = opened.headers["content-security-policy"].split("; ")
    assert "sandbox allow-scripts" in policy  # without allow-same-origin: it reads no token of the page
    assert "default-src 'none'" in policy
    assert opened.headers["cache-control"] == "no-store"
    assert client.get(f"/{link}").status_code == 404
    assert client.get("/report/nothing").status_code == 404


def test_a_run_that_the_service_does_not_know_has_no_report_here(client: PageClient, world: World) -> None:
    (world.folder / "data" / "runs" / "other").mkdir(parents=True, exist_ok=True)
    (world.folder / "data" / "runs" / "other" / "report.html").write_text("secret")
    for name in ("other", "..", "other%2freport.html"):
        assert client.get(f"{API}/reports/run/{name}", headers=client.bearer("read")).status_code in (404, 422)


def test_a_table_has_no_calendar_but_states(tmp_path: Path) -> None:
    service_world(tmp_path, rows=8)
    client = page_client(tmp_path)
    answer = client.get(f"{API}/calendar/rows", headers=client.bearer("read")).json()
    assert answer["drawing"] == ""
    assert [row["count"] for row in answer["states"]] == [1]
    client.close()
