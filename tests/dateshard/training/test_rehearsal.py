"""train --dry-run, --overfit, --max-steps, --preset and the lines of a training where there is no terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.settings import load_settings
from dateshard.trainer.checkpoint import CheckpointWriter
from dateshard.trainer.rehearsal.overfit import Overfitted
from dateshard.training import rehearsal
from dateshard.training import view as training_screen

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06"}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    model = {"name": "mlp", "hidden_units": [64], "dropout_rate": 0.5}
    made = make_world(6, split=SPLIT, model=model, training={"epochs": 2, "batch_size": 8, "learning_rate": 0.01})
    made.prepare()
    made.config_file()
    return made


def everything() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "dumps.json"}


def test_a_dry_run_tries_every_act_and_keeps_nothing(world: Any, ds: Run) -> None:
    before = everything()
    done = ds("train", "-c", "config.yaml", "--dry-run")
    for act in ("step", "validation", "checkpoint"):
        assert re.search(rf"^{act}\tworks\t", done.out, re.MULTILINE)
    assert "103 training windows" in done.out
    assert "all works" in done.out
    assert everything() == before
    document = ds("train", "-c", "config.yaml", "--dry-run", "--json").document
    assert (document["run"], document["tried"]) == (None, ["step", "validation", "checkpoint"])
    assert document["estimate"]["batches"] == 13
    assert "step\tnot tried" in ds("train", "-c", "config.yaml", "--dry-run", "trainer.model.name=ridge").out


def test_a_run_whose_loss_is_never_finite_fails_and_a_dry_run_says_so_before(make_world: Any, ds: Run) -> None:
    world = make_world(3, training={"epochs": 1, "batch_size": 64})
    world.tree["pipeline"]["features"] = {"speed": {"scale": "none"}}
    for date, rows in world.rows.items():
        world.rows[date] = [(at, node, 1e30, volume) for at, node, _, volume in rows]  # its square is no float32
        world.write(date)
    world.prepare()
    config = str(world.config_file())
    done = ds("train", "-c", config, "--dry-run", code=1)
    assert "step\tdoes NOT work\tits loss or gradient is not finite" in done.out
    assert "not all works" in done.out
    for words in (("--run", "a", "-c", config), ("--resume", "a")):
        assert (
            "the only step of the run had no finite loss or gradient, at epoch 1 batch 1"
            in ds("train", *words, code=1).err
        )
    assert ds("runs", "--json").document[0]["state"] == "failed"


def test_a_dry_run_finds_a_checkpoint_that_does_not_read_back(
    world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "restore", lambda *_: None)
    assert "are not those that were saved" in ds("train", "-c", "config.yaml", "--dry-run", code=4).err


def test_a_rehearsal_returns_its_results_and_prints_nothing(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings, seen = load_settings(["config.yaml"]), list[Any]()
    capsys.readouterr()
    tried = rehearsal.dry_run(settings, watch=seen.append)
    assert seen == [tried.estimate]
    assert {name: act.state for name, act in tried.acts.items()} == dict.fromkeys(tried.acts, "works")
    seen.clear()
    overfitted = rehearsal.overfit_few(settings, 1, None, watch=seen.append, should_stop=lambda: len(seen) > 3)
    assert [type(event).__name__ for event in seen] == ["OverfitStarted", "Stepped", "Stepped", "Stepped", "Overfitted"]
    assert (seen[-1], overfitted.verdict) == (overfitted, "stopped")
    assert capsys.readouterr() == ("", "")


def test_a_model_that_can_learn_knows_one_batch_by_heart(world: Any, ds: Run) -> None:
    before = everything()
    done = ds("train", "-c", "config.yaml", "--overfit", "1")
    assert "The model can learn: it knows these 1 batch (8 windows) by heart." in done.out
    assert everything() == before
    document = ds("train", "-c", "config.yaml", "--overfit", "2", "--json").document
    assert (document["run"], document["verdict"]) == (None, "learned")
    assert document["last_loss"] <= 0.01 * document["first_loss"]
    assert document["steps"] < 2000
    assert document["steps"] % 2 == 0


def test_a_model_that_cannot_learn_is_told_and_ends_with_1(world: Any, ds: Run) -> None:
    done = ds("train", "-c", "config.yaml", "--overfit", "1", "--max-steps", "20", "--learning-rate", "1e-12", code=1)
    assert "does NOT learn" in done.out
    assert "in 20 steps" in done.out
    slow = ds("train", "-c", "config.yaml", "--overfit", "1", "--max-steps", "40", "--learning-rate", "1e-3")
    assert "does not know these 1 batch" in slow.out
    assert "it takes no steps" in ds("train", "-c", "config.yaml", "--overfit", "1", "--policy", "mapped",
                                      "trainer.model.name=ridge", code=2).err  # fmt: skip
    assert "an epoch has 13 batches" in ds("train", "-c", "config.yaml", "--overfit", "14", code=2).err


def test_a_stop_ends_it_without_a_verdict(world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dateshard.terminal.signals.StopSignal.asked", lambda _: True)
    assert "Stopped before it was known" in ds("train", "-c", "config.yaml", "--overfit", "1", code=130).out


def test_overfit_under_a_name_is_listed_and_never_continued(world: Any, ds: Run) -> None:
    ds("train", "-c", "config.yaml", "--overfit", "1", "--run", "trial", "-q")
    (row,) = ds("runs", "--json").document
    assert (row["run"], row["why"], row["checkpoints"], row["resume"]) == ("trial", "overfit: learned", 0, None)
    assert "there is nothing to continue" in ds("train", "--resume", "trial", code=2).err


def test_trials_stand_alone(world: Any, ds: Run) -> None:
    for words in (
        ("--dry-run", "--overfit", "1"),
        ("--dry-run", "--run", "x"),
        ("--overfit", "1", "--resume", "latest"),
    ):
        assert "Give --dry-run or --overfit" in ds("train", "-c", "config.yaml", *words, code=2).err
    assert ds("train", "-c", "config.yaml", "--overfit", "0", code=2)
    told = Overfitted(
        verdict="learning", first=1.0, last=float("inf"), steps=5, batches=1, windows=8
    )  # no pass had a finite loss
    assert told.last > told.first


def test_max_steps_ends_with_0_and_the_printed_command_goes_on(world: Any, ds: Run) -> None:
    done = ds("train", "-c", "config.yaml", "--run", "short", "--max-steps", "5")
    assert "short ended (max steps): saved epoch 1 batch 5" in done.out
    (words,) = re.findall(r"Continue exactly here: dateshard (.*)", done.out)
    assert "has taken its 5 steps" in ds("train", "--resume", "short").out
    assert "has taken 5 steps, and training.max_steps is 3" in ds("train", "--resume", "short", "--max-steps", "3").out
    document = ds(*words.split(), "--json").document
    assert (document["state"], document["steps"]) == ("epochs", 26)


def test_a_preset_lies_below_the_users_own_files(world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    training = load_settings(["config.yaml"], (), _file("cpu")).trainer.training
    assert (training.epochs, training.batch_size) == (2, 8)  # the file's
    assert (training.sample_size, training.device) == (50_000, "cpu")  # the preset's
    Path("bare.yaml").write_text("dataset: world\n")
    for name, (history, epochs, batch, sample) in {"cpu": (80, 50, 32, 50_000), "gpu": (100, 100, 64, 200_000)}.items():
        found = load_settings(["bare.yaml"], ["trainer.training.seed=3"], _file(name)).trainer
        assert (found.window.history, found.training.epochs, found.training.batch_size) == (history, epochs, batch)
        assert (found.training.sample_size, found.training.seed) == (sample, 3)
    monkeypatch.setattr("dateshard.trainer.devices.device.choose", lambda _: type("Device", (), {"type": "cuda"}))
    assert _file("auto").name == "gpu.yaml"
    monkeypatch.setattr("dateshard.trainer.devices.device.choose", lambda _: type("Device", (), {"type": "cpu"}))
    assert _file("auto").name == "cpu.yaml"
    assert "Choose from auto, cpu, gpu" in ds("train", "-c", "config.yaml", "--preset", "tpu", code=2).err
    shown = ds("config", "show", "-c", "config.yaml", "--preset", "cpu", "trainer.training").out
    assert re.search(r"sample_size: 50000 +# preset cpu", shown)


def _file(name: str) -> Path:
    from dateshard.settings.presets import preset_file

    return preset_file(name)


def test_a_preset_is_for_a_new_run(world: Any, ds: Run) -> None:
    done = ds(
        "train", "-c", "config.yaml", "--run", "one", "--preset", "cpu", "--max-steps", "1", "--sample-size", "40"
    )
    assert "40 of 103 windows  5 batches an epoch" in done.out
    assert "sample_size 40: spread evenly over the training data" in done.out
    assert "--preset is for a new run" in ds("train", "--resume", "one", "--preset", "cpu", code=2).err
    refused = ds("train", "--resume", "one", "--sample-size", "50", code=2).err
    assert "trainer.training.sample_size: checkpoint 40, now 50" in refused


def test_a_sample_larger_than_the_split_and_one_for_ridge_are_said_to_change_nothing(world: Any, ds: Run) -> None:
    large = ds("train", "-c", "config.yaml", "--sample-size", "1000", "--max-steps", "1").out
    assert "sample_size 1,000: that is every training window" in large
    ridge = ds("train", "-c", "config.yaml", "--sample-size", "10", "trainer.model.name=ridge").out
    assert "sample_size 10 changes nothing: ridge is solved from all training windows" in ridge


def test_lines_without_a_terminal_are_those_of_the_notes(world: Any, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_screen, "LINE_SECONDS", 0.0)
    out = ds("train", "-c", "config.yaml", "--run", "one").out
    assert re.search(r"^Epoch: 0, Batch: 4/13, Loss: \d\.\d{6}, Memory: \d+ MB$", out, re.MULTILINE)
    whole = r"^Epoch 1/2 - Time: \d+\.\d\ds - Train Loss: \d\.\d{4} - Val Loss: \d\.\d{4} - Memory: \d+ MB"
    assert re.search(whole, out, re.MULTILINE)
    said = out.index("(lines of epochs and batches count from 0, everything else from 1)\n")
    assert said < out.index("Epoch")
    assert "Batch:" not in Path("data/runs/one/run.log").read_text()  # they are in metrics.jsonl


def test_a_narrow_terminal_leaves_memory_out_of_an_epoch_s_line_and_the_log_keeps_it(
    world: Any, ds: Run, terminal: Any
) -> None:
    terminal.of(80)
    out = ds("train", "-c", "config.yaml", "--run", "one").out
    first, second = re.findall(r"Epoch \d/2 - Time: [^\n]*", out)
    assert first.endswith("  (best)")
    assert len(first) <= 80
    assert (first[:9], second[:9]) == ("Epoch 1/2", "Epoch 2/2")  # as the bar and all else on a terminal count
    logged = re.search(r"Epoch 0/2 - Time: .*", Path("data/runs/one/run.log").read_text())
    assert logged is not None
    assert re.search(r" - Memory: \d+ MB  \(best\)$", logged[0])


def test_a_terminal_shows_the_live_line_and_what_was_saved(
    world: Any, ds: Run, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_screen, "SHOWN_SECONDS", -1.0)
    shown = list[str]()
    monkeypatch.setattr("dateshard.terminal.screen.Bar.reach", lambda _, done, note="": shown.append(note))
    begin = CheckpointWriter.save

    def save(writer: CheckpointWriter, *given: Any) -> None:  # on a busy machine the next save may else be told at once
        begin(writer, *given)
        writer._wait()

    monkeypatch.setattr(CheckpointWriter, "save", save)
    terminal.of(160)
    ds("train", "-c", "config.yaml", "--save-freq", "4")
    assert len(shown) == 26
    assert re.match(
        r"Epoch 1/2 - train:   7%\|.*\|  1/13 \[00:0\d<\d\d:\d\d, .*it.*, loss=\d.*, avg_loss=\d.*\]", shown[0]
    )
    assert any("[saved: batch 4]" in line for line in shown)
    assert any("[saved: epoch 1 batch 13]" in line for line in shown[13:])
    assert "validating" in shown[12]
