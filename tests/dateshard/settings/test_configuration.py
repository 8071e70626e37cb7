"""config show, config check, schema: what a configuration resolves to, where from, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from dateshard.settings import load_settings
from dateshard.settings.resolved import configuration_schema

Run = Callable[..., Any]
CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
BASE = """\
dataset: traffic
pipeline:
  source: {path: "raw/{date}.csv", time: timestamp, node: sensor}
  step: 5m
  features:
    speed: {fill: forward, fill_limit: 12}
    "no": {column: speed, aggregate: max}
    "温度 °C": {column: celsius}
"""
MORE = """\
trainer:
  training:
    epochs: 3
    seed: 5
  inputs: [speed]
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    Path("a.yaml").write_text(BASE, encoding="utf-8")
    Path("b.yaml").write_text(MORE, encoding="utf-8")


def test_every_value_is_shown_with_where_it_came_from(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATESHARD__TRAINER__TRAINING__BATCH_SIZE", "9")
    document = ds("config", "show", "-c", "a.yaml", "-c", "b.yaml", "trainer.training.seed=6", "--json").document
    origins = document["origins"]
    assert document["settings"]["trainer"]["training"]["seed"] == 6
    assert {key: origins[f"trainer.training.{key}"] for key in ("epochs", "seed", "batch_size", "loss")} == {
        "epochs": "b.yaml:3:5",
        "seed": "override",
        "batch_size": "environment DATESHARD__TRAINER__TRAINING__BATCH_SIZE",
        "loss": "default",
    }
    assert origins["pipeline.features.speed.fill"] == "a.yaml:6:13"
    assert origins["pipeline.features.speed.scale"] == "default"
    assert origins["pipeline.features.no.aggregate"] == "a.yaml:7:27"
    lines = ds("config", "show", "-c", "a.yaml", "-c", "b.yaml", "trainer.training.seed=6").out.splitlines()
    (seed,) = [line for line in lines if line.startswith("    seed:")]
    assert seed.split() == ["seed:", "6", "#", "override"]


def test_what_is_shown_gives_the_same_settings_again(ds: Run) -> None:
    shipped = [
        [str(path)] if "dataset:" in path.read_text() else ["a.yaml", str(path)] for path in CONFIGS
    ]  # an overlay
    for names in (["a.yaml", "b.yaml"], *shipped):
        files = [word for name in names for word in ("-c", name)]
        Path("shown.yaml").write_text(ds("config", "show", *files).out, encoding="utf-8")
        assert load_settings(["shown.yaml"]) == load_settings(names)


def test_a_key_shows_its_part_alone_and_a_wrong_one_is_answered_with_the_right_one(ds: Run) -> None:
    shown = ds("config", "show", "-c", "a.yaml", "-c", "b.yaml", "trainer.training", "dataset", "--json").document
    assert set(shown["settings"]) == {"dataset", "trainer"}
    assert set(shown["settings"]["trainer"]) == {"training"}
    assert all(key.startswith("trainer.training.") or key == "dataset" for key in shown["origins"])
    assert "Did you mean 'trainer.training'?" in ds("config", "show", "-c", "a.yaml", "trainer.trainin", code=2).err


def test_check_tells_all_faults_at_once_each_with_its_place(ds: Run) -> None:
    Path("b.yaml").write_text(MORE.replace("3", "0").replace("seed", "sed"))
    done = ds("config", "check", "-c", "a.yaml", "-c", "b.yaml", "pipeline.step=5x", code=2)
    assert done.err.splitlines() == [
        "override: pipeline.step: '5x' is not a step. Write it as 10ms, 30s, 5m, 1h or 1d; one millisecond is the least",
        "b.yaml:3:5: trainer.training.epochs: must be greater than or equal to 1 (got 0)",
        "b.yaml:4:5: trainer.training.sed: unknown key; did you mean 'seed'?",
        "3 faults in a.yaml, b.yaml",
    ]
    assert done.out == ""
    rows = ds("config", "check", "-c", "a.yaml", "-c", "b.yaml", "--json", code=2).document["faults"]
    assert rows[0] == {
        "place": "b.yaml:3:5",
        "key": "trainer.training.epochs",
        "message": "must be greater than or equal to 1 (got 0)",
    }


def test_check_tells_what_is_wrong_with_every_file_that_cannot_be_read(ds: Run) -> None:
    Path("b.yaml").write_text("trainer: [\n")
    Path("c.yaml").write_text("a: 1\na: 2\n")
    said = ds("config", "check", "-c", "a.yaml", "-c", "b.yaml", "-c", "c.yaml", "-c", "d.yaml", code=2).err
    places = [line.split(": ")[0] for line in said.splitlines()]
    assert places == ["b.yaml:2:1", "c.yaml:2:1", "d.yaml", "3 faults in a.yaml, b.yaml, c.yaml, d.yaml"]


@pytest.mark.parametrize(("step", "ok"), [("7h", False), ("25h", False), ("2d", False), ("1d", True), ("90m", True)])
def test_check_finds_a_step_that_divides_no_day(ds: Run, step: str, ok: bool) -> None:
    done = ds("config", "check", "-c", "a.yaml", f"pipeline.step={step}", code=0 if ok else 2)
    fault = f"override: pipeline.step: a step of {step} does not divide a day's 24 hours: choose one that does"
    assert (fault in done.err) == (not ok), done.err


def test_check_finds_features_that_the_pipeline_does_not_make(ds: Run) -> None:
    said = ds("config", "check", "-c", "a.yaml", "-c", "b.yaml", "trainer.targets=[sped]", code=2).err
    assert "override: trainer.targets: 'sped' is no feature of pipeline.features; did you mean 'speed'?" in said
    assert ds("config", "check", "-c", "a.yaml", "-c", "b.yaml").out == (
        "ok: dataset traffic, 3 features: speed, no, 温度 °C; model mlp\n"
    )


SHARES = "{train: 0.7, validation: 0.15, test: 0.15}"


@pytest.mark.parametrize(
    ("split", "override", "fault"),
    [
        (SHARES, "train=2024-03-01..2024-03-05", "it mixes fractions and dates (train 2024-03-01..2024-03-05, validation 0.15"),
        (SHARES, "train=0.9", "fractions must lie between 0 and 1 and sum to at most 1 (train 0.9, validation 0.15, "),
        (SHARES, "train=null", "no training date is named (validation 0.15, test 0.15)"),
        ("{train: ..2024-03-05, test: 2024-03-06..}", "train=..2024-03-07", "2024-03-06 is in train and in test"),
        ("{train: ..2024-03-05, test: 2024-03-06..}", "test=..2024-03-01", "2024-03-01 is in test and in train"),
        ("{train: [2024-03-05, 2024-03-01..2024-03-05]}", "", "2024-03-05 is in train and in train"),
        ("{train: ..latest-3, test: last:3}", "test=last:4", "train (..latest-3) and test (last:4) share dates"),
        ("{train: soon}", "", "'soon' is not a date"),
        ("{train: 2024-03-05..2024-03-01}", "", "'2024-03-05..2024-03-01' runs backwards"),
    ],
)  # fmt: skip
def test_check_finds_a_split_that_no_dates_can_fill(ds: Run, split: str, override: str, fault: str) -> None:
    Path("b.yaml").write_text(f"pipeline: {{split: {split}}}\n")
    words = [f"pipeline.split.{override}"] if override else []
    place = "override" if override else "b.yaml:1:12"
    (first, _) = ds("config", "check", "-c", "a.yaml", "-c", "b.yaml", *words, code=2).err.splitlines()
    assert first.startswith(f"{place}: pipeline.split: {fault}")


@pytest.mark.parametrize(
    "split",
    [
        SHARES,
        "{train: ..latest-7, validation: last:7, test: null}",
        "{train: ..latest-7, validation: latest-6..latest-3, test: last:3}",
        "{train: ..2024-03-05, test: last:3}",  # whether they share dates shows when dates exist
        "{train: [..2024-03-05, 2024-03-09], validation: 2024-03-06..2024-03-08, test: 2024-03-10..}",
        "{train: 1}",
    ],
)
def test_check_takes_a_split_that_dates_can_fill(ds: Run, split: str) -> None:
    Path("b.yaml").write_text(f"pipeline: {{split: {split}}}\n")
    assert ds("config", "check", "-c", "a.yaml", "-c", "b.yaml").out.startswith("ok")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_schema_takes_every_configuration_of_the_repository(ds: Run, path: Path) -> None:
    schema = ds("schema").document
    assert schema == configuration_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    tree = {"dataset": "below"} | YAML(typ="safe").load(path.read_text())  # an overlay has none of its own
    jsonschema.validate(tree, schema)
    for wrong in ({**tree, "more": 1}, {**tree, "trainer": {"training": {"epochs": 0}}}, {"trainer": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_the_schema_takes_what_the_configuration_takes() -> None:
    tree = {
        "dataset": "a",
        "pipeline": {
            "source": {"path": "raw/{date}.csv", "time": "t"},
            "step": 300,
            "features": {"x": {}},
            "exclude": ["2024-03-01", 20240302],
            "split": {"train": 0.7, "validation": ["2024-03-01", "2024-03-03..2024-03-04"]},
        },
        "trainer": {"loading": {"memory_budget": "2GiB"}, "early_stopping": None},
    }
    schema = jsonschema.Draft202012Validator(configuration_schema())
    assert not list(schema.iter_errors(tree))
    tree["trainer"]["loading"]["memory_budget"] = 1 << 30  # type: ignore[index]
    assert not list(schema.iter_errors(tree))


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            "{a: {loss: mae, targets: [sped]}}",
            "loss 'a' names 'sped', which is not one of trainer.targets (speed, 'no')",
        ),
        (
            "{a: {loss: mae, targets: [speed]}}",
            "no loss names the target 'no'; give each of trainer.targets to one of a",
        ),
        ("{a: {loss: mae, targets: [speed, 'no']}, b: {loss: mse, targets: [speed]}}", "named by the losses a and b"),
        ("{a: {loss: mae, targets: [speed, 'no', 'no']}}", "the target 'no' is named twice by a; give it to one"),
        ("{a: {loss: mae, targets: [speed]}, b: {loss: mse, targets: ['no']}}", ""),
    ],
)
def test_losses_that_miss_a_target_are_found_without_data(ds: Run, losses: str, said: str) -> None:
    words = ("trainer.targets=[speed, 'no']", f"trainer.training.losses={losses}")
    done = ds("config", "check", "-c", "a.yaml", *words, code=2 if said else 0)
    assert said.replace("'no')", "no)") in done.out + done.err
