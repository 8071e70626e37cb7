"""Folders from elsewhere name code: nothing of it runs until their user says so, and what was made here needs no word."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dateshard
from dateshard.settings import validate
from dateshard.shardstore.errors import UntrustedError, UsageError
from tests.conftest import World, build_world

SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04", "test": "2024-03-05"}
MARK = "with open('imported', 'a') as mark: mark.write(__name__ + ' ')\n"  # what a module does that is imported
MODEL = (
    MARK
    + """
import torch
class Last(torch.nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.weight, self.steps = torch.nn.Parameter(torch.ones(2)), steps
    def forward(self, history, codes):
        return (history[:, -1:] * self.weight).expand(-1, self.steps, -1, -1)
def build(shape, config):
    return Last(shape.window.target_steps)
"""
)
METRIC = MARK + "def score(targets, predictions):\n    return {'zero': 0.0}\n"
RIVAL = MARK + "def forecast(history, times, steps, levels):\n    return [[0.0] * steps] * len(history)\n"
FORMAT = MARK + "from dateshard.pipeline.raw.formats.csv import read\n"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ds: Callable[..., Any]) -> Iterator[World]:
    """A run whose model, metric, baseline and dumps' format are code of its user's own; all may be imported again."""
    for name, text in (("its_model", MODEL), ("its_metric", METRIC), ("its_format", FORMAT), ("its_rival", RIVAL)):
        Path(f"{name}.py").write_text(text)
    made = build_world(
        tmp_path,
        5,
        split=SPLIT,
        model={"name": "its_model:build"},
        metrics={"custom": "its_metric:score"},
        window={"history": 3, "horizon": 2},
        training={"epochs": 1, "batch_size": 64},
        baselines=["repeat", "its_rival:forecast"],
    )
    made.tree["pipeline"]["source"]["format"] = "its_format:read"
    made.config_file()
    monkeypatch.setattr(sys, "path", [*sys.path])
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    ds("train", "-c", "config.yaml", "--run", "mine", "-q")
    forget()
    yield made
    forget()


def forget() -> None:
    """No code of a user's own is imported yet."""
    for name in ("its_model", "its_metric", "its_format", "its_rival"):
        sys.modules.pop(name, None)
    Path("imported").unlink(missing_ok=True)


def imported() -> str:
    return Path("imported").read_text() if Path("imported").exists() else ""


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders as they are, at another user: his record is another one."""
    forget()
    monkeypatch.setattr("dateshard.trust._admitted", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("other").absolute()))


PREDICT = ("predict", "mine", "--history", "raw/2024-03-05.csv")
USES = {
    "evaluate": ("evaluate", "mine"),
    "resume": ("train", "--resume", "mine", "--epochs", "2", "-q"),
    "resume latest": ("train", "--resume", "latest", "-q"),
    "report": ("report", "mine"),
    "show": ("show", "mine", "--open"),
    "predict": PREDICT,
    "load": ("checkpoints", "load", "mine"),
    "load a copy": ("checkpoints", "load", "--dir", "copies", "latest"),
}


def test_code_of_a_run_from_elsewhere_is_imported_by_no_command_before_trust_is_given(
    world: World, ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.launch", lambda _: 0)
    ds("checkpoints", "copy", "mine", "latest", "copies")
    for use in ("evaluate", "predict", "load"):  # what was made here needs no word
        ds(*USES[use])
    assert "its_model" in imported()
    assert "its_rival" in imported()
    Path("data/runs/mine/evaluation-test.json").unlink()
    elsewhere(monkeypatch)
    for name, words in USES.items():
        refused = ds(*words, code=2)
        assert "its_model:build (model.name)" in refused.err, name
        assert "its_rival:forecast (baselines[1])" in refused.err, name
        assert "--trust" in refused.err, name
        assert "Traceback" not in refused.err, name
        assert imported() == "", name
    ds("checkpoints", "list", "mine")  # looking needs no trust
    ds("show", "mine")
    document = ds("evaluate", "mine", "--json", code=2).document
    assert document["error"]["kind"] == "untrusted"
    assert imported() == ""


def test_trust_is_given_once(world: World, ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ds("checkpoints", "copy", "mine", "latest", "copies")
    for use in ("evaluate", "resume", "report", "load a copy"):
        elsewhere(monkeypatch)
        shutil.rmtree("other", ignore_errors=True)
        ds(*USES[use], code=2)
        ds(*USES[use], "--trust")
        assert "its_model" in imported()
        forget()
        monkeypatch.setattr("dateshard.trust._admitted", set())  # another process
        ds(*USES[use])


def test_the_format_of_a_dataset_from_elsewhere_is_asked_for_too(
    world: World, ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    ds("evaluate", "mine", "--trust")  # of the run
    forget()
    refused = ds(*PREDICT, code=2)
    assert "dataset world names code, its_format:read (source.format)" in refused.err
    assert "its_format" not in imported()
    with pytest.raises(UntrustedError, match="its_format:read"):
        dateshard.predict("mine", "raw/2024-03-05.csv")
    assert dateshard.predict("mine", "raw/2024-03-05.csv", trust=True).height
    assert "its_format" in imported()
    ds(*PREDICT)


def test_code_that_the_user_s_own_configuration_names_needs_no_word(
    world: World, ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    ds("evaluate", "latest", "-c", "config.yaml")
    ds("evaluate", "mine")
    elsewhere(monkeypatch)
    shutil.rmtree("other")
    assert "run mine names code" in ds("evaluate", "mine", code=2).err
    ds("train", "-c", "config.yaml", "--resume", "auto", "-q")
    ds("evaluate", "mine")
    elsewhere(monkeypatch)  # trust works where nothing can be kept, for that command
    shutil.rmtree("other")
    Path("other").write_text("no folder")
    ds("evaluate", "mine", "--trust")
    monkeypatch.setattr("dateshard.trust._admitted", set())
    assert "run mine names code" in ds("evaluate", "mine", code=2).err


def test_a_trusted_folder_that_names_other_code_is_asked_for_again(
    world: World, ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is the folder with these names: neither another name nor another place has its trust."""
    from dateshard.shardstore.identity import seal_readable, unseal_readable

    path = Path("data/runs/mine/run.json")
    facts = unseal_readable(path.read_bytes(), str(path))
    facts["config"]["metrics"]["custom"] = "others:score"
    path.write_bytes(seal_readable(facts))
    Path("others.py").write_text(MARK + "def score(*_):\n    return {}\n")
    refused = ds("evaluate", "mine", code=2)
    assert "others:score (metrics.custom)" in refused.err
    assert "its_model" not in refused.err
    shutil.copytree("data/runs/mine", "data/runs/sent")
    assert "its_model:build" in ds("evaluate", "sent", code=2).err
    assert imported() == ""


def test_packaged_models_need_no_word_and_leave_no_record(
    make_world: Callable[..., World], ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(5, split=SPLIT, training={"epochs": 1, "batch_size": 64}, baselines=["repeat"])
    world.config_file()
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    ds("train", "-c", "config.yaml", "--run", "mine", "-q")
    elsewhere(monkeypatch)
    ds("evaluate", "mine")
    assert not Path("other").exists()
    assert not Path("state").exists()


@pytest.mark.parametrize(
    "tree",
    [
        {"trainer": {"model": {"name": "my:build"}}},
        {"trainer": {"metrics": {"custom": "my:score"}}},
        {
            "pipeline": {
                "source": {"path": "{date}.x", "time": "t", "node": "n", "format": "my:read"},
                "step": "1h",
                "features": {"a": {"aggregate": "mean"}},
            }
        },
    ],
    ids=json.dumps,
)
def test_a_client_names_no_code_of_any_kind(tree: dict[str, Any]) -> None:
    validate({"dataset": "d", **tree})
    with pytest.raises(UsageError, match="names code, which is not imported from here"):
        validate({"dataset": "d", **tree}, own_models=False)
