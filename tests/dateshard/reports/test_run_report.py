"""report RUN: the page is parsed, and what it tells is compared with the evaluation and with metrics.jsonl."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.judging.verdict import kept
from dateshard.shardstore.identity import seal
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import World, build_world
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.pages import Page, number

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07..2024-03-08"}
LONG = "a_very_long_name_that_nobody_would_type_twice-" + "x" * 18
NODES = ["<script>alert(1)</script>", "北京市海淀区中关村大街" * 4, "b'|&}"]
ALWAYS = {"training", "run"}
JUDGED = {*ALWAYS, "baselines", "errors", "period", "residuals"}
WHOLE = {*JUDGED, "forecasts"}


def categorical(world: World, *, only: bool) -> None:
    """`kind` goes round every few hours; one target, or beside the speed."""
    world.tree["pipeline"]["features"]["kind"] = {"column": "vehicles", "categorical": True, "fill": "forward"}
    del world.tree["pipeline"]["features"]["volume"]
    world.tree["trainer"]["targets"] = ["kind"] if only else ["kind", "speed"]
    for date, rows in world.rows.items():
        world.rows[date] = [(i, n, s, float(i // 3_600_000_000_000 % 24 // 5 % 3)) for i, n, s, _ in rows]
        world.write(date)


def train(ds: Run, world: World, name: str, *words: str) -> TrainingRun:
    world.prepare()
    ds("train", "-c", str(world.config_file()), "--run", name, "-q", *words)
    return TrainingRun(Path("data/runs") / name)


def page_of(ds: Run, name: str, *words: str) -> tuple[Page, str]:
    ds("report", name, *words)
    return parsed(Path("data/runs") / name / "report.html")


def parsed(path: Path) -> tuple[Page, str]:
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    drawn = [attributes["d"] for _, attributes in page.elements if "d" in attributes]
    assert not any("nan" in path or "inf" in path for path in drawn)
    places = [attributes[key] for _, attributes in page.elements for key in ("cx", "cy", "x", "y") if key in attributes]
    assert not any("nan" in place or "inf" in place for place in places)
    return page, text


def sections(page: Page) -> set[str]:
    return {attributes["id"] for tag, attributes in page.elements if tag == "section"}


def titles(page: Page) -> list[str]:
    return [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg" and "role" in attributes]


def hovers(page: Page) -> dict[str, list[str]]:
    """What each chart tells under the pointer, by its title."""
    told, title = {}, ""
    for tag, attributes in page.elements:
        title = attributes.get("aria-label", title) if tag == "svg" else title
        if "data-labels" in attributes:
            told[title] = attributes["data-labels"].split("|")
    return told


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two features, odd node names with positions, and a run of two epochs."""
    from dateshard.cli import run

    folder = tmp_path_factory.mktemp("judged")
    world = build_world(folder, 8, split=SPLIT, nodes=NODES, missing=0.25)
    rows = ["name,latitude,longitude", *(f"{name},{50 + k},{8 + k}" for k, name in enumerate(NODES))]
    (folder / "nodes.csv").write_text("\n".join(rows) + "\n")
    table = {"table": str(folder / "nodes.csv"), "id": "name", "position": ["latitude", "longitude"]}
    world.tree["pipeline"]["nodes"] = table
    world.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "-c", str(world.config_file()), "--run", LONG, "-q"]) == 0
        assert run(["report", LONG]) == 0
    return folder


@pytest.fixture
def here(judged: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(judged)
    return judged


def test_the_numbers_on_the_page_are_those_of_the_evaluation(here: Path, ds: Run) -> None:
    told = ds("evaluate", LONG, "--json").document
    page, _ = parsed(here / "data/runs" / LONG / "report.html")
    caption = next(caption for caption in page.tables if "all predictors" in caption)
    assert caption.startswith(f"{told['windows']} windows of test")
    heads, *rows = page.tables[caption]
    assert heads[3:] == ["speed, MAE", "speed, RMSE", "volume, MAE", "volume, RMSE"]
    for row, line in zip(told["rows"], rows, strict=True):
        raw = [row["raw"]["by_feature"][name][figure] for name in ("speed", "volume") for figure in ("mae", "rmse")]
        expected = [row["scaled"]["mse"], row["scaled"]["r2"], *raw]
        assert line[0] == row["name"]
        assert [number(cell) for cell in line[1:]] == pytest.approx(expected, abs=5.1e-5)
    model = next(row for row in told["rows"] if row["kind"] == "model")
    by_node = dict(zip(told["rows"][-1]["by_node"]["nodes"], model["by_node"]["speed"]["mae"], strict=True))
    _, *worst = page.tables["Mean absolute error of speed, raw units, the worst nodes first"]
    assert {row[0]: number(row[1]) for row in worst} == pytest.approx(by_node, abs=5.1e-5)
    values = [number(row[1]) for row in worst]
    assert values == sorted(values, reverse=True)
    hovered = page.attributes("data-labels")
    hours = next(labels for labels in hovered if labels.startswith("0:00: ")).split("|")
    at_seven = float(re.search(r"mlp ([\d.]+)", hours[7])[1])  # type: ignore[index]
    assert at_seven == pytest.approx(model["by_hour"]["speed"]["mae"][7], rel=1e-3)
    steps = next(labels for labels in hovered if labels.startswith("step 1: ")).split("|")
    rmse = float(re.search(r"mlp ([\d.]+)", steps[3])[1])  # type: ignore[index]
    assert rmse == pytest.approx(model["by_horizon"][3]["scaled"]["rmse"], rel=1e-3)
    for name in ("speed", "volume"):
        steps = hovers(page)[f"Mean absolute error of {name} by target step"]
        maes = [float(re.search(r"mlp ([\d.]+)", step)[1]) for step in steps]  # type: ignore[index]
        assert maes == pytest.approx(model["by_step"][name]["mae"], rel=1e-3)
        weights = np.asarray(model["by_step"][name]["count"])
        pooled = model["raw"]["by_feature"][name]["mae"]
        assert weights @ model["by_step"][name]["mae"] / weights.sum() == pytest.approx(pooled)


def test_every_error_has_its_unit_and_the_page_its_version(here: Path) -> None:
    from dateshard import __version__

    page, text = parsed(here / "data/runs" / LONG / "report.html")
    said = [*page.words["figcaption"], *page.tables]
    errors = [words for words in said if re.search(r"error|MAE|RMSE", words)]
    assert len(errors) > 10
    assert [words for words in errors if not re.search(r"raw units|scaled|Relative", words)] == []
    assert f"Page of dateshard {__version__}." in text


def test_the_curves_are_those_of_the_metrics(here: Path) -> None:
    run = TrainingRun(Path("data/runs") / LONG)
    page, text = parsed(run.folder / "report.html")
    epochs = [row for row in run.metrics() if "val_loss" in row]
    best = min(epochs, key=lambda row: row["val_loss"])
    assert f"best: epoch {best['epoch']}, {best['val_loss']:.4f}" in text
    last = next(labels for labels in page.attributes("data-labels") if "validation " in labels).split("|")[-1]
    told = {name: float(value) for name, value in re.findall(r"(steps|epoch|validation) ([\d.]+)", last)}
    assert told["validation"] == pytest.approx(epochs[-1]["val_loss"], rel=1e-3)
    assert told["epoch"] == pytest.approx(epochs[-1]["train_loss"], rel=1e-3)
    assert [title for title in titles(page) if "over the steps" in title] == [
        "Loss over the steps of the training",
        *(f"{name} over the steps" for name in ("Learning rate", "Throughput", "Waiting for data", "Memory")),
    ]


def test_the_page_draws_forecasts_a_map_and_every_error(here: Path) -> None:
    page, _ = parsed(here / "data/runs" / LONG / "report.html")
    assert sections(page) == WHOLE
    drawn = titles(page)
    for kind in ("Worst", "Median", "Best"):
        assert sum(title.startswith(f"{kind} window: forecast and truth of ") for title in drawn) == 4
    assert "Error by target step" in drawn
    assert {f"Mean absolute error of {name} by hour of the day" for name in ("speed", "volume")} <= set(drawn)
    assert {f"Nodes by error of {name}" for name in ("speed", "volume")} <= set(drawn)
    verdict = kept(TrainingRun(Path("data/runs") / LONG), "test")
    assert verdict is not None
    gaps = sum(value is None for window in verdict.shown for target in window["targets"] for value in target["values"])
    told = sum(labels.count("truth not observed") for labels in page.attributes("data-labels"))
    assert told == gaps > 0


def test_a_page_holds_a_bounded_number_of_nodes_and_says_which_are_left_out(
    make_world: Callable[..., Any], ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("FOLLOWED", 8), ("MOST_SERIES", 6), ("WORST", 1)):
        monkeypatch.setattr(f"dateshard.trainer.assessment.period.{name}", most)
    world = make_world(8, split=SPLIT, nodes=[f"n{k:02}" for k in range(6)], baselines=["mean"])
    run = train(ds, world, "many", "--epochs", "1")
    page_of(ds, "many")  # and once more, of what was kept, whose keys are sorted
    page, text = page_of(ds, "many")
    assert text.count('<span class="key b bars"></span>mlp <span class="stroke a"></span>mean') == 2
    shown = [words for words in page.words["figcaption"] if "raw units" in words]
    assert [words.split()[0] for words in shown if " at n" in words and "·" not in words] == ["speed", "volume"]
    assert "3 of 6 nodes can be chosen: the" in text
    assert "among 4 that were followed." in text
    verdict = kept(run, "test")
    assert verdict is not None
    assert verdict.period is not None
    mae = dict(zip(world.open().nodes.names, verdict.row()["by_node"]["speed"]["mae"], strict=True))  # type: ignore[index]
    chosen = re.findall(r"<option>(\w+)</option>", text)
    assert chosen == verdict.period["nodes"] == sorted(chosen, key=lambda node: -mae[node])
    assert all(series.count("|") == 2 for series in page.attributes("data-series"))


def test_an_evaluation_of_before_has_a_page_that_says_what_it_lacks(here: Path, ds: Run) -> None:
    path = Path("data/runs") / LONG / "evaluation-test.json"
    now = path.read_bytes()
    content = json.loads(now)["content"]
    del content["period"]
    for row in content["document"]["rows"]:
        del row["by_step"]
    path.write_bytes(seal(content))
    try:
        assert ds("report", LONG, "-o", "old.html", "--json").document["evaluated_seconds"] is None
    finally:
        path.write_bytes(now)
    page, text = parsed(Path("old.html"))
    assert sections(page) == WHOLE - {"period", "residuals"}
    assert f"they come with: dateshard evaluate {LONG} --split test --report" in text


def test_the_page_needs_nothing_else_and_believes_no_name(here: Path) -> None:
    page, text = parsed(here / "data/runs" / LONG / "report.html")
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    links = [value for name in ("src", "href", "xlink:href", "srcset", "action") for value in page.attributes(name)]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"https?://|@import|url\(", text)
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    names = {row[0] for row in page.tables["Mean absolute error of speed, raw units, the worst nodes first"][1:]}
    assert names == set(NODES)


def test_an_evaluation_is_made_once_for_a_checkpoint(here: Path, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.judging import judge

    again = ds("report", LONG, "--json").document
    assert (again["split"], again["evaluated_seconds"], again["not_evaluated"]) == ("test", None, None)
    calls = []
    judged = judge._judge
    monkeypatch.setattr(judge, "_judge", lambda *given: calls.append(given[3]) or judged(*given))
    ds("report", LONG, "--split", "validation", "-o", "other.html")
    ds("report", LONG, "--split", "validation", "-o", "other.html")
    assert calls == ["validation"]
    path = Path("data/runs") / LONG / "evaluation-test.json"
    path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])  # a flipped byte: made again
    assert ds("report", LONG, "--json").document["evaluated_seconds"] > 0
    verdict = kept(TrainingRun(path.parent), "test")
    assert verdict is not None
    whole = {**json.loads(path.read_text())["content"]}
    assert path.stat().st_size < 60_000
    assert whole["checkpoint"] == verdict.checkpoint
    assert verdict.headline()["mse"] == verdict.row()["scaled"]["mse"]  # type: ignore[index]


def test_evaluate_writes_the_page_with_its_own_evaluation(here: Path, ds: Run) -> None:
    done = ds("evaluate", LONG, "--report", "out/page.html")
    assert done.out.splitlines()[-1].startswith("out/page.html  ")
    page, _ = parsed(Path("out/page.html"))
    assert sections(page) == WHOLE
    assert ds("evaluate", LONG, "--checkpoint", "latest", "--report", code=2).err.count("best checkpoint") == 1


def no_change(world: World) -> None: ...


ODD: dict[str, tuple[dict[str, Any], Callable[[World], None], tuple[str, ...], set[str]]] = {
    "ridge": ({"model": {"name": "ridge"}}, no_change, (), WHOLE),
    "horizon 0": ({"window": {"history": 12, "horizon": 0}}, no_change, (), WHOLE),
    "one step": ({"window": {"history": 6, "horizon": 1}}, no_change, (), WHOLE),
    "a category": (
        {},
        lambda world: categorical(world, only=True),
        (),
        {*WHOLE, "classes"} - {"period", "residuals"},
    ),
    "a category and a number": ({}, lambda world: categorical(world, only=False), (), {*WHOLE, "classes"}),
    "one epoch": ({}, no_change, ("--epochs", "1"), WHOLE),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_runs_have_all_their_charts(make_world: Callable[..., Any], ds: Run, odd: str) -> None:
    settings, change, words, wanted = ODD[odd]
    world = make_world(8, split=SPLIT, **settings)
    change(world)
    train(ds, world, "odd", *words)
    page, text = page_of(ds, "odd")
    assert sections(page) == wanted
    assert any(title.startswith("Worst window") for title in titles(page))
    if "category" in odd:
        assert "Confusion of kind" in titles(page)
        assert "Accuracy of kind by target step" in titles(page)
        assert len(page.tables["Classes of kind"]) == 4
        assert "points more accuracy than" in text or "points less accuracy than" in text
    elif odd == "ridge":
        assert "solved in one pass" in text
    if odd == "a category and a number":
        assert {"Loss kind over the steps of the training", "Loss mse over the steps of the training"} <= set(
            titles(page)
        )


def test_without_a_test_split_it_is_judged_on_validation_and_without_both_on_nothing(
    make_world: Callable[..., Any], ds: Run
) -> None:
    world = make_world(7, split={"train": "2024-03-01..2024-03-05", "validation": "2024-03-06..2024-03-07"})
    run = train(ds, world, "held")
    page, text = page_of(ds, "held")
    assert sections(page) == WHOLE
    assert "On validation: No clear winner can be told: the model has" in text
    world.tree["dataset"], world.tree["pipeline"]["split"] = "alone", {"train": "2024-03-01..2024-03-07"}
    train(ds, world, "alone")
    page, text = page_of(ds, "alone")
    assert sections(page) == ALWAYS
    assert "Nothing was evaluated yet: no test dates; no validation dates." in text
    assert "best training loss" in text
    assert ds("report", "alone", "--json").document["not_evaluated"] == "no test dates; no validation dates"
    shutil.rmtree("data/shards")  # the data are gone: what was found before still stands
    page, text = page_of(ds, "held")
    assert sections(page) == JUDGED
    assert "The data that the run was trained on are gone" in text
    assert kept(run, "validation") is not None


def test_a_run_that_is_cut_off_or_trained_now_has_a_page(make_world: Callable[..., Any], ds: Run) -> None:
    world = make_world(8, split=SPLIT, checkpoint={"save_freq": 2})
    run = train(ds, world, "cut")
    (run.folder / "state.json").unlink()  # told by its lock and its checkpoints alone
    for folder in sorted(run.checkpoints.glob("checkpoint_*")):
        if folder.name != "checkpoint_epoch_1_batch_2":
            shutil.rmtree(folder)
    rows = [row for row in run.metrics() if row["step"] <= 3]
    rows[1] |= {"loss": None, "losses": {}, "skipped": 1}
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo')
    lock = run.lock()
    page, text = page_of(ds, "cut")
    os.close(lock)
    assert "being trained now" in text
    assert sections(page) == WHOLE  # judged by its newest checkpoint
    assert "no epoch is whole yet" in text
    assert "cut off at epoch 1, batch 2 of" in page_of(ds, "cut")[1]
    shutil.rmtree(run.checkpoints)
    (run.folder / "metrics.jsonl").write_text("")
    page, text = page_of(ds, "cut")
    assert sections(page) == ALWAYS
    assert "cut off before its first checkpoint" in text
    assert "no row yet" in text


def test_notes_tell_skipped_steps_passed_over_checkpoints_and_where_it_went_on(
    make_world: Callable[..., Any], ds: Run
) -> None:
    run = train(ds, make_world(8, split=SPLIT), "noted")
    rows = list(run.metrics())
    rows[2]["resumed_at"] = rows[1]["step"]
    rows[-1]["skipped"] = 3
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = min(run.checkpoints.glob("checkpoint_*"))
    (first / "manifest.json").write_text("{}")
    page, text = page_of(ds, "noted")
    assert "3 steps had no finite loss" in text
    (note,) = (line for line in re.findall(r"<li>(.*?)</li>", text) if line.startswith("Passed over: "))
    assert first.name in note
    assert f"continued at step {rows[1]['step']}" in page.words["title"]
    assert "Continued 1 time" in text


def test_what_report_refuses(make_world: Callable[..., Any], ds: Run) -> None:
    assert "report RUN" in ds("report", code=2).err
    assert "no run 'nobody'" in ds("report", "nobody", code=4).err
    assert "no run yet" in ds("report", "latest", code=4).err
    assert "takes KEY=VALUE" in ds("report", "--data", "somebody", code=2).err


def told_of(rows: list[dict[str, Any]]) -> Any:
    from dateshard.bookkeeping.run_history import history

    run = TrainingRun(Path("told"))
    run.folder.mkdir(exist_ok=True)
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return history(run)


def test_of_equal_epochs_the_first_is_the_best_and_of_many_resumes_the_last_are_shown() -> None:
    losses = [2.0, 1.0, 1.0, None, 1.5]
    rows = [{"step": 10 * k, "epoch": k, "train_loss": 0.1, "val_loss": x} for k, x in enumerate(losses, start=1)]
    best = told_of(rows).best
    assert (best.epoch, best.step, best.loss, best.validated) == (2, 20, 1.0, True)
    resumed = [{"step": k + 1, "epoch": 1, "loss": 1.0, "resumed_at": k} for k in range(100)]
    assert told_of(resumed).resumes == list(range(60, 100))


def test_a_page_draws_no_windows_of_a_store_that_was_made_anew(make_world: Callable[..., Any], ds: Run) -> None:
    """Its generation has the same number, and is not what the run was trained on."""
    world = make_world(8, split=SPLIT, baselines=["repeat"])
    run = train(ds, world, "moved", "--epochs", "1")
    before, _ = page_of(ds, "moved")
    assert "forecasts" in sections(before)
    shutil.rmtree(world.store)
    for date, rows in world.rows.items():
        world.rows[date] = [(i, n, s and s + 5, v) for i, n, s, v in rows]
        world.write(date)
    world.prepare()
    assert world.open().generation == run.facts().bound.data.generation
    page, text = page_of(ds, "moved")
    assert "forecasts" not in sections(page)
    assert "The data that the run was trained on are gone" in text


def test_a_long_run_is_drawn_in_a_bounded_number_of_points(make_world: Callable[..., Any], ds: Run) -> None:
    from dateshard.bookkeeping.run_history import MOST_EPOCHS, POINTS, history

    run = TrainingRun(Path("long"))
    run.folder.mkdir()
    with open("long/metrics.jsonl", "w") as lines:
        for step in range(1, 20_001):
            loss = 1 / step + (9.0 if step == 777 else 0)
            lines.write(
                json.dumps({"step": step, "epoch": -(-step // 10), "loss": loss, "losses": {"mse": loss}}) + "\n"
            )
            if step % 10 == 0:
                held = 0.001 if step == 7770 else 1.0
                row = {"step": step, "epoch": step // 10, "train_loss": loss, "val_loss": held, "skipped": 0}
                lines.write(json.dumps({**row, "time_per_epoch": 0.5}) + "\n")
    told = history(run)
    assert (told.last_step, told.last_epoch, told.whole_epochs, told.seconds) == (20_000, 2000, 2000, 1000.0)
    assert told.best is not None
    assert (told.best.epoch, told.best.loss) == (777, 0.001)
    assert len(told.steps["loss"].x_K) == POINTS
    assert len(told.epochs["val_loss"].x_K) == MOST_EPOCHS
    assert np.nanmax(told.steps["loss"].high_K) > 9  # no spike is lost
    assert told.steps["loss"].mean_K @ np.diff([0, *np.cumsum(np.full(POINTS, 20_000 / POINTS))]) == pytest.approx(
        sum(1 / step for step in range(1, 20_001)) + 9, rel=0.02
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_draws_it_without_complaint_and_tells_what_is_under_the_pointer(here: Path) -> None:
    text = (here / "data/runs" / LONG / "report.html").read_text()
    probe = """<script>const wrong = []; addEventListener("error", (e) => wrong.push(e.message));
    addEventListener("securitypolicyviolation", (e) => wrong.push(e.violatedDirective));
    addEventListener("load", () => {
      const said = [];
      for (const target of document.querySelectorAll("[data-labels]")) {
        const box = target.getBoundingClientRect();
        const place = {bubbles: true, clientX: box.left + box.width - 3, clientY: box.top + 3};
        target.dispatchEvent(new PointerEvent("pointermove", place));
        said.push(document.getElementById("tip").textContent); }
      const select = document.querySelector(".period select");
      const shapes = document.querySelectorAll(".over :is(.scale, .line, .band)");
      const drawn = () => [...shapes].map((shape) => shape.getAttribute("d") ?? shape.innerHTML);
      const change = new Event("change");
      const choose = (at) => { select.selectedIndex = at; select.dispatchEvent(change); return drawn(); };
      const figures = (all) => all.join(" ").match(/[\\d.]+/g).map(Number);
      const [server, other, again] = [drawn(), choose(2), choose(0)];
      const off = figures(server).map((value, at) => Math.abs(value - figures(again)[at]));
      const chart = document.querySelector("[data-series]"), middle = chart.getBoundingClientRect();
      chart.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: middle.left + 9, clientY: middle.top + 9}));
      document.body.dataset.period = JSON.stringify([figures(server).length, figures(again).length, Math.max(...off) < 0.11,
        other.filter((d, at) => d !== again[at]).length, select.closest("p").hidden, document.getElementById("tip").textContent]);
      document.body.dataset.said = said.join("#"); document.body.dataset.wrong = wrong.join("#");
      document.body.dataset.wide = document.documentElement.scrollWidth; });</script></body>"""
    Path("probe.html").write_text(text.replace("</body>", probe))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    sized = [*command, "--window-size=600,900", Path("probe.html").absolute().as_uri()]
    done = subprocess.run(sized, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    said = re.search(r'data-said="([^"]*)"', done.stdout)
    assert said, done.stderr
    assert 'data-wrong=""' in done.stdout
    period = json.loads(unescape(re.search(r'data-period="([^"]*)"', done.stdout)[1]))  # type: ignore[index]
    assert period[0] == period[1] > 500
    assert period[2:5] == [True, 8, False]  # drawn again as it was; of another node all lines, bands and scales
    assert re.fullmatch(r"Thu 2024-03-07 0\d:00 · truth .*, forecast [\d.]+, interval [\d.-]+ to [\d.]+", period[5])
    loss, *rest = said[1].split("#")
    assert re.search(r"step \d+ · steps [\d.]+, training, mean of the epoch [\d.]+, validation [\d.]+", loss)
    assert all(rest)
    assert int(re.search(r'data-wide="(\d+)"', done.stdout)[1]) <= 600  # type: ignore[index]
