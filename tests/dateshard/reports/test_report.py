"""report --data: the page is parsed, and what it tells is compared with the shards' own bytes."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dateshard.cli import run
from dateshard.reports import atlas, charts, raster
from dateshard.reports.calendar_chart import Square, calendar
from dateshard.reports.data_report.data_facts import over_columns
from dateshard.shardstore.dataset import Dataset
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.pages import Page, number, pixels

SPLIT = {"train": "2024-03-01..2024-03-06", "validation": "2024-03-07..2024-03-08"}
TOLD = re.compile(r"(-?[\d.,]+) to (-?[\d.,]+): ([\d.]+) % training dates, ([\d.]+) % other dates")


def page_of(world: Any, *words: str) -> tuple[Page, str]:
    assert run(["report", "--data", "-c", str(world.config_file()), "-o", "out/page.html", *words]) == 0
    text = Path("out/page.html").read_text()
    page = Page(text)
    assert page.open == []
    return page, text


def raw(dataset: Dataset, date: dt.date, index: int) -> np.ndarray:
    """[T, N] raw values, NaN where nothing was observed; no feature is transformed here."""
    values, mask = dataset.scale.undo(np.asarray(dataset.map(date))), dataset.map(date, "observed")
    return np.where(True if mask is None else np.asarray(mask), values, np.nan)[..., index]


def test_the_figures_on_the_page_are_those_of_the_shards(make_world: Callable[..., Any]) -> None:
    world = make_world(8, split=SPLIT)
    world.prepare()
    page, _ = page_of(world)
    dataset = world.open()
    training = [date for date in dataset.manifest.dates if date <= dt.date(2024, 3, 6)]
    for index, name in enumerate(("speed", "volume")):
        row = page.tables[f"{name} in figures"][1]
        cells = np.concatenate([raw(dataset, date, index).ravel() for date in training])
        seen = cells[~np.isnan(cells)]
        told = [number(text) for text in row[1:]]
        missing = 100 * (1 - len(seen) / len(cells))
        assert told == pytest.approx(
            [len(seen), missing, seen.mean(), seen.std(), seen.min(), seen.max()], rel=1e-3, abs=0.06
        )
    missing_by_date = {row[0][:10]: number(row[1]) for row in page.tables["Dates that miss most"][1:]}
    for date in dataset.manifest.dates:
        share = np.isnan([raw(dataset, date, index) for index in (0, 1)]).mean()
        assert missing_by_date[str(date)] == pytest.approx(100 * share, abs=0.051)


def test_an_overview_of_all_features_comes_first_and_its_names_lead_to_them(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dateshard.reports.data_report.data_page.MOST_FEATURES", 1)
    world = make_world(8, split=SPLIT)
    del world.tree["pipeline"]["features"]["volume"]
    world.tree["pipeline"]["features"]["kind"] = {"column": "vehicles", "categorical": True, "fill": "forward"}
    world.prepare()
    page, _ = page_of(world)
    dataset = world.open()
    assert next(attributes["id"] for tag, attributes in page.elements if tag == "section") == "overview"
    _, speed, kind = page.tables["All features over all dates, raw units; distance in training deviations"]
    assert (speed[0], kind[0]) == ("speed", "kind")
    cells = np.concatenate([raw(dataset, date, 0).ravel() for date in dataset.manifest.dates])
    seen = cells[~np.isnan(cells)]
    expected = [100 * (1 - len(seen) / len(cells)), seen.mean(), seen.std(), seen.min(), seen.max()]
    assert [number(text) for text in speed[2:7]] == pytest.approx(expected, rel=1e-3, abs=0.06)
    first = page.tables["Dates that stand farthest from the training data"][1]
    assert speed[7:] == [first[0], first[2]]
    assert kind[1].endswith("categories")
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links.count("#feature-0") == 2  # in the table, and before the features
    assert "#feature-1" not in links  # it is not drawn
    assert {link[1:] for link in links} <= set(page.attributes("id"))


def test_the_histogram_counts_every_cell_once(make_world: Callable[..., Any]) -> None:
    world = make_world(8, split=SPLIT)
    world.prepare()
    page, _ = page_of(world)
    dataset = world.open()
    labels = next(found for found in page.attributes("data-labels") if TOLD.search(found)).split("|")
    bars = [[number(part) for part in TOLD.fullmatch(label).groups()] for label in labels]  # type: ignore[union-attr]
    edges = np.asarray([bar[0] for bar in bars] + [bars[-1][1]])
    training = np.concatenate([raw(dataset, date, 0).ravel() for date in dataset.manifest.dates if date.day <= 6])
    training = training[~np.isnan(training)]
    counted = np.histogram(training, edges)[0] / len(training) * 100
    # a bin of 0.4 % at a bar's edge may count on the other side of it: neighbours together are right
    assert np.cumsum([bar[2] for bar in bars]) == pytest.approx(np.cumsum(counted), abs=2.0)
    assert sum(bar[2] for bar in bars) == pytest.approx(100, abs=1.0)


def test_the_heat_map_shows_the_missing_share_of_each_node_and_date(make_world: Callable[..., Any]) -> None:
    world = make_world(6, missing=0.4, gaps=(2,))
    world.prepare()
    page, _ = page_of(world)
    dataset = world.open()
    sheet = next(k for k, (_, attributes) in enumerate(page.elements) if attributes.get("data-unit") == " % missing")
    shades = pixels(page.elements[sheet - 1][1]["href"])
    assert page.elements[sheet][1]["data-rows"].split("|") == ["n0", "n1", "n2"]
    first = min(dataset.manifest.dates)
    assert shades.shape == (3, 6)
    assert (shades[:, 2] == raster.SHADES).all()  # the date that does not exist is transparent
    for date in dataset.manifest.dates:
        share = np.isnan(raw(dataset, date, 0)).mean(axis=0)
        assert shades[:, (date - first).days] == pytest.approx(share * (raster.SHADES - 1), abs=0.51)


def test_a_column_of_many_dates_shows_its_highest_distance_and_its_mean(make_world: Callable[..., Any]) -> None:
    world = make_world(4)
    world.prepare()
    first = min(world.rows)
    dates = {first + dt.timedelta(days=k): float(k) for k in range(4)}
    column_of = {date: k // 3 for k, date in enumerate(dates)}
    facts = SimpleNamespace(columns=SimpleNamespace(count=3), column_of=column_of)
    values = {**dates, first: float("nan")}
    np.testing.assert_array_equal(over_columns(facts, values), [1.5, 3, np.nan])  # type: ignore[arg-type]
    np.testing.assert_array_equal(over_columns(facts, values, highest=True), [2, 3, np.nan])  # type: ignore[arg-type]


def test_dates_are_listed_by_their_rejected_rows_the_most_first(make_world: Callable[..., Any]) -> None:
    world = make_world(4)
    world.tree["pipeline"]["source"]["max_bad_fraction"] = 0.5
    for count, date in enumerate(sorted(world.rows)):
        with open(world.dump(date), "a") as dump:
            dump.write("no time,n0,1,1\n" * count)
    world.prepare()
    page, _ = page_of(world)
    (caption,) = (caption for caption in page.tables if "rejected" in caption)
    assert [row[0] for row in page.tables[caption][1:]] == ["2024-03-04", "2024-03-03", "2024-03-02"]


def test_the_page_needs_nothing_else_and_believes_no_name(make_world: Callable[..., Any]) -> None:
    world = make_world(4, nodes=["<script>alert(1)</script>", "b'|&", "城市"])
    world.prepare()
    page, text = page_of(world)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    links = [value for name in ("src", "href", "xlink:href", "srcset", "action") for value in page.attributes(name)]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"https?://|@import|url\(", text)
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    names = [row[0] for row in page.tables["Nodes that miss most"][1:]]
    assert set(names) == {"<script>alert(1)</script>", "b'|&", "城市"}
    assert "color-scheme: light dark" in text
    assert "@media print" in text
    assert all(
        attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg" and "role" in attributes
    )


def test_the_calendar_tells_every_date_and_what_is_wrong_with_it(make_world: Callable[..., Any]) -> None:
    world = make_world(6, split={"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06"})
    world.prepare()
    world.dump(dt.date(2024, 3, 2)).write_text("nothing of use\n")
    world.prepare()
    world.rows[dt.date(2024, 3, 5)].pop()
    world.write(dt.date(2024, 3, 5))
    page, _ = page_of(world, "pipeline.exclude=[2024-03-06]")
    told = {title[:10]: title.split(" · ")[1] for title in page.words["title"] if title.startswith("2024-")}
    assert told == {
        "2024-03-01": "fresh",
        "2024-03-02": "failed",
        "2024-03-03": "fresh",
        "2024-03-04": "fresh",
        "2024-03-05": "stale(dump)",
        "2024-03-06": "excluded",
    }
    rows = {row[0]: row[1:] for row in page.tables["Dates that are not fresh"][1:]}
    assert list(rows) == ["2024-03-02", "2024-03-05", "2024-03-06"]
    assert "there is no column 'time'" in rows["2024-03-02"][1]


ODD = {
    "all alike": ({}, lambda date, row: (row[0], row[1], 5.0, 0.0)),
    "a date without a value": ({}, lambda date, row: (row[0], row[1], None if date.day == 2 else row[2], row[3])),
    "a node without a value": ({}, lambda date, row: (row[0], row[1], None if row[1] == "n1" else row[2], row[3])),
    "one step a date": ({"step": "1d"}, lambda date, row: row),
    "four steps a date": ({"step": "6h"}, lambda date, row: row),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_data_have_a_page_too(make_world: Callable[..., Any], odd: str) -> None:
    settings, change = ODD[odd]
    world = make_world(4)
    world.tree["pipeline"].update(settings)
    world.tree["pipeline"]["features"]["speed"]["scale_per"] = "node"
    for date, rows in world.rows.items():
        world.rows[date] = [change(date, row) for row in rows]
        world.write(date)
    world.prepare()
    page, _ = page_of(world)
    drawn = [attributes["d"] for _, attributes in page.elements if "d" in attributes]
    assert drawn
    assert not any("nan" in path or "inf" in path for path in drawn)
    assert run(["statistics", "--by-date", "--drift", "-c", str(world.config_file())]) == 0


def test_ten_years_are_drawn_in_a_bounded_number_of_columns(make_world: Callable[..., Any]) -> None:
    first = dt.date(2014, 1, 1)
    world = make_world([first, *(first + dt.timedelta(days=3640 + k) for k in range(4))])
    world.prepare()
    page, text = page_of(world)
    widest = max(len(labels.split("|")) for labels in page.attributes("data-labels"))
    assert 300 < widest <= 400
    assert any("columns of 10 dates" in words for words in page.words["p"])
    assert len(text) < 300_000


def test_a_calendar_of_3650_dates_stays_small() -> None:
    days = {dt.date(2014, 1, 1) + dt.timedelta(days=k): Square("fresh", "", "train", k % 700) for k in range(3650)}
    drawn = calendar(days, "ten years")
    assert drawn.count("<title>") == 3650
    assert len(drawn) < 800_000


def test_many_nodes_become_tiles_and_those_without_a_position_are_counted() -> None:
    generator = np.random.default_rng(1)
    positions = generator.uniform((40, 170), (50, 190), (5000, 2))
    positions[:, 1] = (positions[:, 1] + 180) % 360 - 180  # on both sides of the date line
    positions[::100] = np.nan
    names = [f"s{k}" for k in range(5000)]
    where = atlas.places(names, ["latitude", "longitude"], positions)
    assert where is not None
    assert (where.group_N < 0).sum() == 50
    assert where.node_count_K.sum() == 4950
    assert len(where.names) <= atlas.TILES**2
    assert np.ptp(where.x_K) < 21  # not around the world
    value = generator.normal(size=5000)
    sums = atlas.by_circle(where, value, np.ones(5000))
    known = where.group_N >= 0
    assert sums @ where.node_count_K == pytest.approx(value[known].sum())
    assert atlas.places(names, [], np.empty((5000, 0))) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 1e9), (1e9, 1e9 + 1e-3), (5, 5), (0, float("inf")), (-1e-9, 2e-9)]
)
def test_marks_are_few_and_inside(low: float, high: float) -> None:
    marks = charts.nice_marks(low, high)
    assert 1 <= len(marks) <= 20
    assert all(low - 1e-6 * (abs(low) + 1) <= mark <= high + 1e-6 * (abs(high) + 1) for mark in marks)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_draws_it_without_complaint_and_tells_what_is_under_the_pointer(
    make_world: Callable[..., Any],
) -> None:
    world = make_world(6, missing=0.4)
    world.prepare()
    _, text = page_of(world)
    probe = """<script>addEventListener("load", () => {
      const move = (target) => { const box = target.getBoundingClientRect();
        target.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: box.left + 3, clientY: box.top + 3})); };
      const said = [];
      for (const kind of ["[data-labels]", "[data-rows]", "svg g:has(> title)"]) {
        const target = document.querySelector(kind); move(target); move(target);
        said.push(document.getElementById("tip").textContent); }
      document.body.dataset.said = said.join("#"); });</script></body>"""
    Path("probe.html").write_text(text.replace("</body>", probe))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(
        [*command, Path("probe.html").absolute().as_uri()], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    said = re.search(r'data-said="([^"]*)"', done.stdout)
    assert said, done.stderr
    column, cell, day = said[1].split("#")
    assert column.startswith("Fri 2024-03-01: ")
    assert re.fullmatch(r"(n0 · Fri 2024-03-01|Mon · 0:00): (about -?[\d.]+( % missing)?|no value)", cell)
    assert day.startswith("2024-03-01 Fri · fresh")
