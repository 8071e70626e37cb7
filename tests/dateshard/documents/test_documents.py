"""`--json`: one document on stdout that its JSON Schema takes, and nothing in it that docs/json.md does not name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dateshard.cli import COMMANDS, run
from dateshard.documents import DOCUMENTS, document_schema
from dateshard.documents.page import page
from tests.conftest import World, build_world

Run = Callable[..., Any]
BROKEN = ("dataset=broken", "pipeline.source.path=broken/{date}.csv")
DOCS = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Eight dates and a run trained on them; beside them the dataset `broken`, one of whose dates failed."""
    folder = tmp_path_factory.mktemp("documents")
    world = build_world(folder, 8, split=SPLIT, training={"epochs": 1, "batch_size": 16})
    world.config_file()
    shutil.copytree(folder / "raw", folder / "broken")
    (folder / "broken" / "2024-03-08.csv").write_text("time,node\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["preprocess", "-c", "config.yaml", "--workers", "1", "-q"]) == 0
        assert run(["preprocess", "-c", "config.yaml", *BROKEN, "--workers", "1", "-q"]) == 3
        assert run(["train", "-c", "config.yaml", "--run", "one", "-q"]) == 0
        assert run(["train", "-c", "config.yaml", "--run", "two", "--seed", "8", "--max-steps", "2", "-q"]) == 0
    return world


@pytest.fixture
def here(prepared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(prepared.folder)
    return prepared


CALLS: list[tuple[tuple[str, ...], int | None, str]] = [  # command line, exit code, the schema's name
    (("plan", "-c", "config.yaml"), 0, "plan"),
    (("plan", "-c", "config.yaml", "2024-03-02", "--force"), 0, "plan"),
    (("plan", "-c", "config.yaml", "dataset=new"), 0, "plan"),
    (("preprocess", "-c", "config.yaml", "--dry-run"), 0, "plan"),
    (("status", "-c", "config.yaml"), 0, "status"),
    (("status", "-c", "config.yaml", *BROKEN), 4, "status"),
    (("status", "-c", "config.yaml", "dataset=new", "--calendar"), 4, "status"),
    (("preprocess", "-c", "config.yaml", "2024-03-02", "--force", "--workers", "1"), 0, "preprocess"),
    (("preprocess", "-c", "config.yaml", *BROKEN, "--workers", "1"), 3, "preprocess"),
    (("verify", "-c", "config.yaml", "--full"), 0, "verify"),
    (("verify", "-c", "config.yaml", "2024-04-01"), 4, "verify"),
    (("drop", "-c", "config.yaml", "2024-03-02", "--dry-run"), 0, "drop"),
    (("clean", "-c", "config.yaml", "--dry-run"), 0, "clean"),
    (("export", "-c", "config.yaml", "2024-03-02", "--to", "csv", "--force"), 0, "export"),
    (("train", "-c", "config.yaml", "--resume", "auto"), 0, "train"),
    (("train", "-c", "config.yaml", "--epochs", "1", "trainer.training.seed=3"), 0, "train"),
    (("estimate", "-c", "config.yaml"), 0, "estimate"),
    (("runs", "rm", "two", "--dry-run"), 0, "runs rm"),
    (("evaluate", "one", "two"), 0, "evaluate runs"),
    (("train", "-c", "config.yaml", "--seeds", "2", "--run", "three", "--max-steps", "2"), 0, "train seeds"),
    (("evaluate", "one", "--forecasts", "forecasts.parquet"), 0, "evaluate"),
    (("evaluate", "-c", "config.yaml", "--baselines", "repeat,mean", "trainer.targets=[speed]"), 0, "evaluate"),
    (("backtest", "-c", "config.yaml", "--origins", "2", "--every", "1", "--dry-run"), 0, "backtest"),
    (("train", "-c", "config.yaml", "--dry-run"), 0, "train"),
    (("train", "-c", "config.yaml", "--overfit", "1", "--max-steps", "3"), None, "train"),
    (("runs",), 0, "runs"),
    (("compare", "one", "two"), 0, "compare"),
    (("tail", "one", "-n", "3"), 0, "tail"),
    (("replay", "one", "--step", "3", "--trace"), 0, "replay"),
    (("predict", "one", "--history", "raw/{date}.csv"), 0, "predict"),
    (("predict", "one", "--at", "latest", "--interval", "none"), 0, "predict"),
    (("report", "one"), 0, "report"),
    (("report", "--data", "-c", "config.yaml"), 0, "report"),
    (("show", "one"), 0, "show"),
    (("checkpoints", "list"), 0, "checkpoints list"),
    (("checkpoints", "list", "one"), 0, "checkpoints list"),
    (("checkpoints", "info", "one"), 0, "checkpoints info"),
    (("checkpoints", "verify", "one"), 0, "checkpoints verify"),
    (("checkpoints", "load", "one"), 0, "checkpoints load"),
    (("checkpoints", "export", "one", "best", "x.pth", "--force"), 0, "checkpoints export"),
    (("checkpoints", "copy", "one", "best", "copies"), 0, "checkpoints copy"),
    (("checkpoints", "clean", "one", "--keep-count", "1", "--dry-run"), 0, "checkpoints clean"),
    (("checkpoints", "pin", "one", "best"), 0, "checkpoints pin"),
    (("checkpoints", "unpin", "one", "best"), 0, "checkpoints unpin"),
    (("checkpoints", "--action", "list", "--save_dir", "data/runs/one/checkpoints"), 0, "checkpoints list"),
    (("checkpoints", "clean"), 2, "error"),
    (("inspect", "-c", "config.yaml", "2024-03-02"), 0, "inspect"),
    (("statistics", "-c", "config.yaml"), 0, "statistics"),
    (("statistics", "-c", "config.yaml", "--by-date", "--drift"), 0, "statistics"),
    (("diff", "-c", "config.yaml", "g1", "g1"), 0, "diff"),
    (("config", "show", "-c", "config.yaml", "trainer.training", "trainer.training.seed=3"), 0, "config show"),
    (("config", "check", "-c", "config.yaml"), 0, "config check"),
    (("config", "check", "-c", "config.yaml", "trainer.training.epochs=0", "trainer.sed=1"), 2, "config check"),
    (("doctor",), 0, "doctor"),
    (("token", "create", "--scope", "read", "--name", "grafana"), 0, "token create"),
    (("token", "list"), 0, "token list"),
    (("plan",), 2, "error"),
    (("plan", "--no-such-option"), 2, "error"),
    (("nonsense",), 2, "error"),
    (("verify", "-c", "config.yaml", "dataset=nowhere"), 4, "error"),
    (("evaluate", "no-such-run"), 4, "error"),
]


@pytest.mark.parametrize(("words", "code", "name"), CALLS, ids=[" ".join(words) for words, *_ in CALLS])
def test_stdout_is_one_document_that_its_schema_takes(
    here: World, ds: Run, words: tuple[str, ...], code: int | None, name: str
) -> None:
    done = ds(*words, "--json", code=code)
    document = json.loads(done.out, parse_constant=pytest.fail)
    jsonschema.validate(document, document_schema(name), cls=jsonschema.Draft202012Validator)
    if name == "error":
        assert document["error"]["exit_code"] == code
        assert document["error"]["message"] in done.err


def test_every_command_that_prints_json_has_a_schema_and_is_called_above() -> None:
    elsewhere = {"export-model", "bench epoch"}  # test_onnx_file, test_epoch_bench: they take seconds
    elsewhere |= {"requests predict", "requests judge"}  # tests of requests: a training comes first
    elsewhere |= {"jobs list", "jobs start", "jobs status"}  # test_jobs: they need a server
    assert {name for *_, name in CALLS} | elsewhere == set(DOCUMENTS)
    silent = {"init", "completion", "version", "schema", "config", "checkpoints", "bench", "serve", "token", "jobs"}
    silent |= {"requests"}
    assert set(COMMANDS) - silent <= set(DOCUMENTS)


def test_a_schema_refuses_a_key_that_it_does_not_name(here: World, ds: Run) -> None:
    document = ds("status", "-c", "config.yaml", "--json").document
    for wrong in ({**document, "more": 1}, {k: v for k, v in document.items() if k != "counts"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, document_schema("status"))


def test_status_and_plan_name_the_command_that_mends(here: World, ds: Run) -> None:
    status = ds("status", "-c", "config.yaml", *BROKEN, "--json", code=4).document
    assert status["mend"] == f"dateshard preprocess -c config.yaml dataset=broken '{BROKEN[1]}'"
    assert status["counts"] == {"fresh": 7, "failed": 1}
    fresh = ds("status", "-c", "config.yaml", "2024-03-02", "--json").document
    assert fresh["mend"] is None
    assert [row["date"] for row in fresh["dates"]] == ["2024-03-02"]
    plan = ds("plan", "-c", "config.yaml", "2024-03-02", "--force", "--json").document
    assert plan["command"] == "dateshard preprocess 2024-03-02 --force -c config.yaml"
    assert plan["cost"]["read_bytes"] == here.dump(min(here.rows).replace(day=2)).stat().st_size


def test_the_schema_command_prints_what_the_test_validates_with(ds: Run) -> None:
    for name in ("config check", "inspect"):
        assert ds("schema", name).document == document_schema(name)
        assert document_schema(name)["$schema"].endswith("/draft/2020-12/schema")
    assert "plan" in ds("schema", "plans", code=2).err


def test_the_page_of_all_keys_is_the_one_that_the_schemas_make() -> None:
    """`make docs` writes it."""
    assert page(DOCS) == DOCS
    for name in DOCUMENTS:
        assert f"\n## {name}\n" in DOCS
    assert "| `nodes_without_position` | integer |" in DOCS
    assert "| `p99`" not in DOCS  # what is keyed by names is told as one row
