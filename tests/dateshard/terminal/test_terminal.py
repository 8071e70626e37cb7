"""Names from files of anybody reach a terminal spelled out: nothing steers it, no line is forged, no column moves."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dateshard.cli import run
from dateshard.shardstore.identity import seal_readable
from dateshard.terminal.screen import Screen, escaped, in_a_line
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.training.run_log import RunLog

Run = Callable[..., Any]
OWNED = "\x1b]0;owned\x07"  # sets the title of a terminal
FORGED = "\nError: forged"
NODES = [f"{OWNED}red", f"a\tb{FORGED}", "\u202egnp\x9b2J\r\x08\x7f", "[red]x[/red]:car:", "<script>alert(1)</script>"]
KINDS = [f"c{OWNED}", f"d\te{FORGED}", "<b>&\"'", "[bold]"]
SPEED = f"sp{OWNED}[red]{FORGED}\t"
CONFIG = ("-c", "config.yaml")
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def write_dump(path: Path, date: dt.date) -> None:
    """Every node once an hour."""
    generator, count = np.random.default_rng(date.toordinal()), 24 * len(NODES)
    columns = {
        "time": [f"{date}T{hour:02d}:00:00Z" for hour in range(24) for _ in NODES],
        "node": NODES * 24,
        "speed": generator.normal(50, 10, count),
        f"k{OWNED}": [KINDS[code] for code in generator.integers(0, 4, count)],
    }
    pl.DataFrame(columns).write_parquet(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a run of it in which every name is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    losses = {
        f"l{OWNED}": {"loss": "mse", "targets": [SPEED]},
        f"m{FORGED}": {"loss": "cross_entropy", "targets": ["kind"]},
    }
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": "raw/{date}.parquet", "time": "time", "timezone": "UTC", "node": "node"},
            "step": "1h",
            "features": {
                SPEED: {"column": "speed", "aggregate": "mean"},
                "kind": {"column": f"k{OWNED}", "categorical": True},
            },
            "split": {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03", "test": "2024-03-04"},
        },
        "trainer": {
            "window": {"history": 6, "horizon": 2},
            "model": {"name": "mlp", "hidden_units": [4]},
            "training": {"epochs": 1, "batch_size": 16, "losses": losses},
            "targets": [SPEED, "kind"],
            "baselines": ["repeat"],
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("raw").mkdir()
        for day in range(1, 5):
            date = dt.date(2024, 3, day)
            write_dump(Path(f"raw/{date}.parquet"), date)
        Path("config.yaml").write_text(json.dumps(tree))
        assert run(["preprocess", *CONFIG, "--workers", "1", "-q"]) == 0
        assert run(["train", *CONFIG, "--run", "one", "-q"]) == 0
        assert run(["evaluate", "one"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path) -> None:
    """A copy of it, with a second run whose name and run.json are hostile."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def hostile_run() -> Path:
    """A run from elsewhere."""
    folder = Path(f"data/runs/r{OWNED}{FORGED}\t")
    shutil.copytree("data/runs/one", folder)
    facts = TrainingRun(folder).facts().to_json()
    facts["config"]["model"]["name"], facts["data"]["name"] = f"m{OWNED}{FORGED}", f"d{OWNED}"
    (folder / "run.json").write_bytes(seal_readable({**facts, "created": f"2030-01-01{OWNED}{FORGED}"}))
    state = {**json.loads((folder / "state.json").read_text()), "state": "failed", "why": f"w{OWNED}{FORGED}"}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


PRINTING = (
    ["inspect", *CONFIG],
    ["statistics", *CONFIG, "--by-date"],
    ["statistics", *CONFIG, "--drift"],
    ["status", *CONFIG],
    ["plan", *CONFIG],
    ["verify", *CONFIG],
    ["config", "show", *CONFIG],
    ["config", "check", *CONFIG],
    ["estimate", *CONFIG],
    ["evaluate", "one"],
    ["show", "one"],
    ["tail", "one"],
    ["replay", "one", "--step", "1", "--trace"],
    ["checkpoints", "list", "one"],
    ["checkpoints", "info", "one", "best"],
    ["doctor", *CONFIG],
    ["train", *CONFIG, "--run", "two"],
    ["preprocess", *CONFIG, "--force", "--workers", "1"],
)


@pytest.mark.parametrize("words", PRINTING, ids=lambda words: " ".join(words[:2]))
def test_no_name_steers_a_terminal_or_forges_a_line(ds: Run, words: list[str]) -> None:
    done = ds(*words)
    assert STEERING.findall(done.out + done.err) == []
    assert not re.search("^Error", done.out + done.err, re.MULTILINE)


def test_no_name_steers_a_real_terminal_either(ds: Run, terminal: Any) -> None:
    terminal.of(300)
    for words in (["inspect", *CONFIG], ["evaluate", "one"], ["predict", "one", "--at", "latest"]):
        out = ds(*words).out
        assert STEERING.findall(re.sub(r"\x1b\[\?25[lh]|\x1b\[[\d;]*[mKA]|\r", "", out)) == []
        assert "\nError" not in out
    assert "[red]x[/red]:car:" in out
    assert r"\x1b]0;owned\x07red" in out


def test_a_live_line_shows_names_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "xterm")
    bar = Screen().bar(f"label{OWNED}[red]{FORGED}", 3)
    bar.advance(note=f"note{OWNED}:car:{FORGED}")
    bar.note(f"other{OWNED}[/red]{FORGED}")
    bar.print(f"line{OWNED}[bold]:car:{FORGED}")
    bar.close()
    text = out.getvalue()
    assert r"line\x1b]0;owned\x07[bold]:car:\nError: forged" in text
    assert r"label\x1b]0;owned\x07[red]\nError" in text
    assert r"other\x1b]0;owned\x07[/red]\nError" in text
    assert "\x1b]0;" not in text


def test_a_document_holds_names_as_they_are_and_steers_nothing(ds: Run) -> None:
    done = ds("predict", "one", "--at", "latest", "--json")
    assert {row["node"] for row in done.document["forecasts"]} == set(NODES)
    assert STEERING.findall(done.out) == []


def test_columns_of_a_pipe_stay_columns(ds: Run) -> None:
    lines = ds("inspect", *CONFIG, "--rows", "20").out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("time\tnode"))
    assert {line.count("\t") for line in lines[at : at + 21]} == {3}
    assert any(r"a\tb\nError: forged" in line for line in lines[at:])


def test_a_run_of_a_stranger_is_listed_compared_and_shown_spelled_out(ds: Run) -> None:
    folder = hostile_run()
    for words in (["runs"], ["compare", folder.name, "one"], ["tail", folder.name], ["show", folder.name]):
        done = ds(*words)
        assert STEERING.findall(done.out + done.err) == []
        assert "\nError" not in done.out
    rows = ds("runs").out.splitlines()
    assert {row.count("\t") for row in rows[:3]} == {10}
    assert [row.startswith(r"r\x1b]0;owned\x07\nError: forged\t" + "\t") for row in rows].count(True) == 1
    (folder / "run.json").write_text("{}")
    assert STEERING.findall(ds("runs").out) == []
    assert STEERING.findall(ds("evaluate", folder.name, code=4).err) == []


@pytest.mark.parametrize(
    "words",
    [
        [f"x{OWNED}{FORGED}"],
        ["plan", f"--x{OWNED}{FORGED}"],
        ["plan", f"x{OWNED}{FORGED}", *CONFIG],
        ["plan", "-c", f"x{OWNED}{FORGED}\udcff.yaml"],
        ["plan", *CONFIG, f"a{OWNED}{FORGED}=1"],
        ["plan", *CONFIG, f"trainer.model.name=m{OWNED}"],
        ["evaluate", f"x{OWNED}{FORGED}"],
        ["evaluate", "one", "--checkpoint", f"x{OWNED}{FORGED}"],
        ["evaluate", "one", "--split", f"x{OWNED}{FORGED}"],
        ["evaluate", "one", "--baselines", f"x{OWNED}{FORGED}"],
        ["export", *CONFIG, "--to", f"x{OWNED}{FORGED}"],
        ["predict", "one", "--history", f"x{OWNED}{FORGED}"],
        ["predict", "one", "--at", "latest", "--out", f"x{OWNED}{FORGED}"],
        ["checkpoints", "list", "--dir", f"x{OWNED}{FORGED}"],
        ["train", *CONFIG, "--run", f"x{OWNED}{FORGED}"],
    ],
    ids=lambda words: " ".join(word for word in words if word.isprintable()),
)
def test_an_error_spells_out_what_it_quotes(ds: Run, words: list[str]) -> None:
    done = ds(*words, code=None)
    assert done.code not in (0, 1)
    assert STEERING.findall(done.out + done.err) == []
    assert len(re.findall("^Error: ", done.err, re.MULTILINE)) == 1
    if words[0] != f"x{OWNED}{FORGED}":
        assert json.loads(ds(*words, "--json", code=None).out)["error"]["exit_code"] == done.code


def test_every_fault_of_a_configuration_stands_on_its_own_line(ds: Run) -> None:
    tree = json.loads(Path("config.yaml").read_text())
    tree["pipeline"]["source"][f"bad{OWNED}{FORGED}"] = 1
    tree["trainer"]["model"]["name"] = f"m{OWNED}{FORGED}"
    Path("bad.yaml").write_text(json.dumps(tree))
    for words in (["config", "check"], ["plan"]):
        said = ds(*words, "-c", "bad.yaml", code=2).err
        assert STEERING.findall(said) == []
        lines = [line.strip() for line in said.splitlines() if "bad.yaml:1:" in line]
        assert len(lines) == 2
        assert r"pipeline.source.'bad\x1b]0;owned\x07\nError: forged': unknown key (known: path," in lines[0]


def test_config_show_gives_the_same_settings_again_whatever_they_hold(ds: Run) -> None:
    name = f"c{OWNED}{FORGED}: 1 # "
    shutil.copy("config.yaml", name)
    Path("again.yaml").write_text(ds("config", "show", "-c", name).out)
    one, other = (ds("config", "show", "--json", "-c", file).document["settings"] for file in (name, "again.yaml"))
    assert one == other


def test_the_log_of_a_run_is_spelled_out_line_by_line() -> None:
    RunLog(Path()).write(f"{OWNED}\x85\u2028one\ntwo")
    lines = Path("run.log").read_text().splitlines()
    assert [line[21:] for line in lines] == [r"\x1b]0;owned\x07\x85\u2028one", "two"]
    assert STEERING.findall(Path("data/runs/one/run.log").read_text()) == []


def test_pages_hold_names_as_text(ds: Run) -> None:
    ds("report", "one")
    ds("report", "--data", *CONFIG)
    for page in (Path("data/runs/one/report.html"), Path("data/reports/world.html")):
        text = page.read_text()
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)" in text
        assert "<b>&\"'" not in text


def test_what_is_exported_is_as_it_was_given(ds: Run) -> None:
    """For programs: no name is changed, whatever a spreadsheet would make of it (docs/decisions/0047)."""
    ds("predict", "one", "--at", "latest", "--out", "forecast.csv", "-q")
    piped = pl.read_csv(ds("predict", "one", "--at", "latest", "-q").out.encode())
    ds("export", *CONFIG, "--to", "csv", "--out", "out")
    for table in (piped, pl.read_csv("forecast.csv"), pl.read_csv("out/2024-03-04.csv")):
        assert set(table["node"]) == set(NODES)
    assert set(pl.read_csv("out/2024-03-04.csv")["kind"]) <= {*KINDS, None}


def test_text_is_escaped_once_and_stays_so() -> None:
    text = "ä 漢字 \u200d ½ \\x1b a\tb\nc"
    assert escaped(text) == text
    assert in_a_line(text) == "ä 漢字 \u200d ½ \\x1b a\\tb\\nc"
    assert in_a_line(in_a_line(f"{OWNED}\udc80\u2066")) == r"\x1b]0;owned\x07\udc80\u2066"


@pytest.mark.parametrize("words", [["runs"], ["runs", "--json"], ["version"], ["schema"], ["config", "show", *CONFIG]])
def test_standard_output_on_a_full_disk_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = run(words)
        monkeypatch.undo()
        err = capsys.readouterr().err
        assert (code, err.count("\n")) == (28, 1)
        assert err.startswith("Error: standard output: no space left on the disk")
        with open(os.devnull, "w") as nowhere:  # what is still held back must go somewhere
            os.dup2(nowhere.fileno(), full.fileno())
