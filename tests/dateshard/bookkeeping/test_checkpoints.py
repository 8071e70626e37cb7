"""`dateshard checkpoints`, `--init-from`, `--save-dir` and retention, as people and the user's notes spell them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.bookkeeping import checkpoint_chores
from dateshard.cli import run
from dateshard.shardstore.pinning.pins import judge_pins
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import removal
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import build_world

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}
LOSSES = {"cls": {"loss": "huber", "targets": ["speed"]}, "geo": {"loss": "mse", "targets": ["volume"]}}
CONFIG = ("-c", "config.yaml")
FOLDER = Path("data/runs/one/checkpoints")
ALL = ["1-1", "1-2", "1-3", "1-4", "2-1", "2-2", "2-3", "2-4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run `one` on it: two epochs of four batches, a checkpoint after each batch."""
    folder = tmp_path_factory.mktemp("checkpoints")
    training = {"epochs": 2, "batch_size": 16, "losses": LOSSES, "learning_rate": 0.01}
    build_world(folder, 4, split=SPLIT, training=training, checkpoint={"save_freq": 1}).config_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["preprocess", *CONFIG, "--workers", "1", "-q"]) == 0
        assert run(["train", *CONFIG, "--run", "one", "-q"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, and the working directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def name(place: str) -> str:
    epoch, batch = place.split("-")
    return f"checkpoint_epoch_{epoch}_batch_{batch}"


def there(folder: Path = FOLDER) -> list[str]:
    found, passed = checkpoint.scan(folder)
    assert passed == []
    return [f"{one.state.epoch + 1}-{one.state.batch}" for one in found]


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def best() -> str:
    found, _ = checkpoint.best(FOLDER)
    assert found is not None
    return found.name


def test_latest_is_the_newest_run_as_of_other_commands(ds: Run) -> None:
    for words in (["list"], ["verify"], ["clean", "--keep-count", "8"]):
        assert ds("checkpoints", *words, "latest").out == ds("checkpoints", *words, "one").out
    assert ds("checkpoints", "info", "latest", "best").out == ds("checkpoints", "info", "one", "best").out
    assert ds("checkpoints", "verify", "--dir", str(FOLDER), "latest").out.count("checkpoint_epoch_") == 1


@pytest.mark.parametrize("words", [["list"], ["verify"], ["clean", "--keep-count", "1"], ["info"], ["load"]])
def test_a_run_without_a_folder_of_checkpoints_is_told_in_a_sentence(ds: Run, words: list[str]) -> None:
    shutil.rmtree(FOLDER)
    error = ds("checkpoints", *words, "one", code=4).err
    assert error == f"Error: {FOLDER}: run one has no checkpoints. Its state: dateshard runs\n"


def test_the_list_shows_the_best_first_then_the_newest_with_sizes_times_and_their_sum(ds: Run, terminal: Any) -> None:
    removal.pin(FOLDER / name("1-2"))
    told = ds("checkpoints", "list", "--json").document
    order = [row["name"] for row in told["checkpoints"]]
    assert order == [best(), *(name(place) for place in reversed(ALL) if name(place) != best())]
    assert [row["name"] for row in told["checkpoints"] if row["pinned"]] == [name("1-2")]
    files = [
        path
        for path in FOLDER.rglob("*")
        if (path.is_file() and path.suffix != ".json") or path.name == "manifest.json"
    ]
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    assert (told["run"], told["count"], told["best"]) == ("one", 8, best())
    terminal.of(80)
    lines = ds("checkpoints", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "run one, data/runs/one/checkpoints"
    assert lines[2] == "best"
    size, moment = r"\d+\.\d kB", r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"  {best()} +{size}  {moment} +\d\.\d{{4}}", lines[4])
    assert re.fullmatch(rf"  best_model\.pth +{size}  {moment} +export", lines[5])
    assert lines[7] == "7 others"
    assert re.fullmatch(rf"  {name('1-2')} +{size}  {moment} +-  pinned", lines[-4])
    assert re.fullmatch(rf"8 checkpoints, {size} in all", lines[-1])


def test_what_is_set_aside_or_damaged_is_named_and_an_empty_folder_is_no_error(ds: Run) -> None:
    ds("train", "--resume", str(FOLDER / name("1-3")), "-q")
    (FOLDER / name("1-1") / "manifest.json").write_bytes(b"{}")
    (FOLDER / name("1-2") / "model.safetensors").unlink()
    told = ds("checkpoints", "list", "one", "--json").document
    assert [row["name"] for row in told["damaged"]] == [name("1-1"), name("1-2")]
    assert f"{FOLDER / name('1-2')}/model.safetensors: is missing" in told["damaged"][1]["message"]
    assert len(told["set_aside"]) == 5
    assert told["count"] == 6
    text = ds("checkpoints", "list").out
    assert all(row["name"] in text for row in told["set_aside"])
    assert text.count("damaged  ") == 2
    Path("empty").mkdir()
    assert "0 checkpoints, 0 B in all" in ds("checkpoints", "list", "--dir", "empty").out


def test_info_tells_everything_in_the_manifest(ds: Run) -> None:
    told = ds("checkpoints", "info", name("2-2"), "--json").document
    state = checkpoint.inspect(FOLDER / name("2-2")).state
    assert (told["epoch"], told["batch"], told["total_batches"], told["step"]) == (2, 2, 4, 6)
    assert (told["train_loss"], told["losses"], told["val_loss"]) == (
        state.train_loss,
        state.losses,
        state.val_loss,
    )
    assert set(told["losses"]) == {"cls", "geo"}
    assert (told["learning_rate"], told["skipped"], told["damage"], told["best_epoch"]) == (0.01, 0, None, 1)
    assert (told["dataset"], told["generation"], told["init_from"], told["run"]) == ("world", 1, None, "one")
    assert told["settings"]["training.batch_size"] == 16
    assert told["environment"]["torch"] == torch.__version__
    assert {row["file"] for row in told["files"]} == {
        f"{kind}.safetensors" for kind in ("model", "optimizer", "metrics")
    }
    text = ds("checkpoints", "info", f"{name('2-2')}.pth", "one").out
    for line in (f"cls_loss\t{state.losses['cls']:.6f}", "batch\t2", "total_batches\t4", "training.batch_size\t16"):
        assert f"\n{line}" in text
    assert "every byte is as it was saved" in text
    spoil(FOLDER / name("2-2") / "optimizer.safetensors")
    assert "optimizer.safetensors: size or hash" in ds("checkpoints", "info", name("2-2"), code=4).out


def test_verify_reads_every_byte_and_names_the_file_with_exit_4(ds: Run) -> None:
    assert "9 of 9 verified" in ds("checkpoints", "verify").out
    spoil(FOLDER / name("1-2") / "metrics.safetensors")
    (FOLDER / name("1-3") / "manifest.json").write_bytes(b"{}")
    data = (FOLDER / "best_model.pth").read_bytes()
    (FOLDER / "best_model.pth").write_bytes(data[: len(data) // 2] + b"\xff" + data[len(data) // 2 + 1 :])
    done = ds("checkpoints", "verify", code=4)
    assert "6 of 9 verified" in done.out
    assert f"{FOLDER / name('1-2')}/metrics.safetensors: size or hash is not what was saved. Run: dateshard" in done.out
    assert f"{FOLDER / name('1-3')}/manifest.json: " in done.out
    (mend,) = re.findall(r"best_model\.pth: does not hold.* Run: dateshard (.*)", done.out)
    ds(*mend.split())
    told = ds("checkpoints", "verify", "--json", code=4).document
    assert [row["name"] for row in told["verified"] if row["damage"]] == [name("1-2"), name("1-3")]
    ds("checkpoints", "verify", name("1-1"), name("2-4"))
    ds("checkpoints", "verify", "one", name("1-1"), name("1-2"), code=4)


def test_load_builds_the_model_takes_it_strictly_and_computes_a_batch(ds: Run) -> None:
    told = ds("checkpoints", "load", "--json").document
    weights = checkpoint.read_files(checkpoint.inspect(FOLDER / best()))["model"]
    assert told["parameters"] == sum(tensor.numel() for tensor in weights.values())
    state = checkpoint.inspect(FOLDER / best()).state
    assert (told["name"], told["val_loss"], told["losses"]) == (best(), state.val_loss, state.losses)
    assert told["forward"]["split"] == "validation"
    assert told["forward"]["loss"] > 0
    other = ds("checkpoints", "load", name("1-1"), "--json").document
    assert other["forward"]["loss"] != told["forward"]["loss"]
    text = ds("checkpoints", "load", f"{name('1-1')}.pth").out
    assert ds("checkpoints", "load", "one", "--checkpoint", f"{name('1-1')}.pth").out == text
    assert f"parameters\t{told['parameters']:,}" in text
    assert "cls_loss\t" in text
    spoil(FOLDER / name("1-1") / "model.safetensors")
    assert "model.safetensors" in ds("checkpoints", "load", name("1-1"), code=4).err


def test_the_validation_loss_that_load_computes_is_the_saved_one_where_one_batch_is_all(ds: Run) -> None:
    ds("train", *CONFIG, "--run", "wide", "--batch-size", "500", "--epochs", "1", "-q")
    told = ds("checkpoints", "load", "wide", "--json").document
    assert told["forward"]["loss"] == pytest.approx(told["val_loss"], rel=1e-6)


def test_verify_looks_again_where_a_training_saves_a_better_one_meanwhile(
    ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = checkpoint.ranked(checkpoint.scan(FOLDER)[0])[0]
    older = [FOLDER / name(place) for place in ALL if name(place) != best.name]
    monkeypatch.setattr(checkpoint_chores, "EXPORTED_WITHIN", 0.0)
    with monkeypatch.context() as patch:
        listed = [*older, FOLDER / name("9-9")]  # the best was saved just after, and one was removed
        patch.setattr(checkpoint_chores, "_folders", lambda *_: listed)
        assert "8 of 8 verified" in ds("checkpoints", "verify").out
    ds("checkpoints", "export", name("1-1"), str(FOLDER / "best_model.pth"), "--force")
    assert f"does not hold what {best.name} holds" in ds("checkpoints", "verify", code=4).out


def test_export_and_copy_give_what_can_be_used_elsewhere(ds: Run) -> None:
    ds("checkpoints", "export", name("1-4"), "x.pth")
    assert torch.load("x.pth", weights_only=True)["batch"] == 4
    assert "there is a file already" in ds("checkpoints", "export", name("1-3"), "x.pth", code=2).err
    ds("checkpoints", "export", name("1-3"), "x.pth", "--force")
    assert torch.load("x.pth", weights_only=True)["batch"] == 3
    own = FOLDER / name("1-2") / "model.safetensors"
    assert "ends in .pth or .pt" in ds("checkpoints", "export", name("1-3"), str(own), "--force", code=2).err
    ds("checkpoints", "verify", name("1-2"))
    assert "a file cannot be written there" in ds("checkpoints", "export", name("1-3"), "no/x.pth", code=2).err
    os.utime(FOLDER / name("1-3") / "manifest.json", (1_700_000_000, 1_700_000_000))
    for _ in range(2):  # again: an equal one is kept
        told = ds("checkpoints", "copy", "one", name("1-3"), "safe/place", "--json").document
    copied = f"safe/place/{name('1-3')}"
    assert told["folder"] == copied
    assert there(Path("safe/place")) == ["1-3"]
    saved = [ds("checkpoints", "info", one, "--json").document["saved"] for one in (name("1-3"), copied)]
    assert saved[0] == saved[1]  # not when it was copied
    assert saved[0].startswith("2023-11-1")
    shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    for words in (["info", copied], ["verify", copied], ["load", copied], ["info", "--dir", "safe/place"]):
        ds("checkpoints", *words)
    ds("train", *CONFIG, "--run", "new", "--init-from", copied, "-q", "--epochs", "1")
    assert "--init-from" in ds("train", "--resume", copied, code=4).err


def test_a_copy_never_lands_on_another_one_or_in_a_run(ds: Run) -> None:
    ds("train", *CONFIG, "--run", "other", "--seed", "8", "-q")
    ds("checkpoints", "copy", "one", name("1-3"), "safe")
    before = (Path("safe") / name("1-3") / "manifest.json").read_bytes()
    assert "another checkpoint of that name" in ds("checkpoints", "copy", "other", name("1-3"), "safe", code=2).err
    assert (Path("safe") / name("1-3") / "manifest.json").read_bytes() == before
    for target in ("data/runs/other/checkpoints", str(FOLDER)):
        assert "keeps its own checkpoints there" in ds("checkpoints", "copy", "one", name("1-3"), target, code=2).err
    spoil(FOLDER / name("1-2") / "model.safetensors")
    ds("checkpoints", "copy", "one", name("1-2"), "safe", code=4)
    assert os.listdir("safe") == [name("1-3")]


def test_clean_keeps_the_newest_the_best_and_the_pinned_and_tells_what_it_frees(ds: Run) -> None:
    ds("checkpoints", "pin", name("1-2"))
    before = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    dry = ds("checkpoints", "clean", "--keep-count", "2", "--dry-run", "--json").document
    assert there() == ALL
    told = ds("checkpoints", "clean", "one", "--keep-count", "2", "--json").document
    assert {**dry, "dry_run": False} == told
    kept = sorted({"1-2", "2-3", "2-4", best().removeprefix("checkpoint_epoch_").replace("_batch_", "-")})
    assert there() == kept
    assert told["kept"] == [name(place) for place in kept]
    assert told["freed"] == before - sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    ds("checkpoints", "unpin", name("1-2"))
    text = ds("checkpoints", "clean", "--keep-count", "2").out
    assert f"removed  {name('1-2')}" in text
    assert re.search(r"^1 checkpoint removed, \d+\.\d kB freed; \d kept \(\d+\.\d kB\)$", text, re.MULTILINE)
    ds("train", "--resume", "one", "-q", "--epochs", "3")
    assert there()[-1] == "3-4"


def test_clean_takes_what_was_set_aside_and_leaves_what_is_damaged(ds: Run) -> None:
    ds("train", "--resume", str(FOLDER / name("1-3")), "-q")
    spoil(FOLDER / name("2-4") / "model.safetensors")
    text = ds("checkpoints", "clean", "--max-bytes", "1kB").out
    assert f"damaged, left as it is  {FOLDER / name('2-4')}/model.safetensors" in text
    assert not list(FOLDER.glob("set_aside-*"))
    assert "2-4" in there()
    assert "2-3" in there()  # the newest that is good
    assert "Say how many stay" in ds("checkpoints", "clean", code=2).err
    assert "is not a size" in ds("checkpoints", "clean", "--max-bytes", "much", code=2).err


def test_the_commands_of_the_notes_are_understood_letter_by_letter(ds: Run) -> None:
    ds(
        "train",
        *CONFIG,
        "--epochs",
        "2",
        "--batch_size",
        "16",
        "--save_freq",
        "1",
        "--save_dir",
        "checkpoints_improved",
        "-q",
    )
    folder = ("--save_dir", "checkpoints_improved")
    pth = ("--checkpoint", f"{name('1-2')}.pth")
    assert "8 checkpoints" in ds("checkpoints", "--action", "list").out
    assert "8 checkpoints" in ds("checkpoints", *folder, "--action", "list").out
    assert "batch\t2" in ds("checkpoints", "--action", "info", *pth).out
    assert "loaded strictly" in ds("checkpoints", "--action", "load", *pth, *folder).out
    told = ds("checkpoints", "--action", "clean", "--keep_count", "5", *folder, "--json").document
    assert told["folder"].endswith("checkpoints")
    assert len(there(Path("checkpoints_improved"))) in (5, 6)
    ds("train", "--resume", "checkpoints_improved/best_model.pth", "-q")
    ds("train", "--resume", f"checkpoints_improved/{name('2-3')}.pth", "-q")
    assert there() == ALL  # the other run was never meant


def test_wrong_words_are_told(ds: Run) -> None:
    for words, told in (
        (["--action", "sweep"], "No action 'sweep'"),
        (["--dir", "x"], "Name an action"),
        (["--dir", "x", "list"], "--dir comes after the command's name"),
        (["list", "one", "--dir", "x"], "Give one of them"),
        (["info", "one", "two"], "name one run and one checkpoint"),
        (["info", str(FOLDER / name("1-1")), "--dir", "x"], "Leave the run and --dir out"),
        (["pin", "one"], "Name a checkpoint"),
        (["export", "best"], "Name a checkpoint and the file"),
    ):
        assert told in ds("checkpoints", *words, code=2).err
    missing = ds("checkpoints", "info", name("9-9"), code=4).err
    assert f"{name('9-9')}: no such checkpoint. See: dateshard checkpoints list one" in missing
    for words in (
        ["list", "nobody"],
        ["list", "--dir", "nowhere"],
        ["info", name("9-9")],
        ["load", name("9-9"), "one"],
    ):
        assert ds("checkpoints", *words, code=4).err.startswith("Error: ")
    assert "Usage: dateshard checkpoints" in ds("checkpoints").out
    shutil.rmtree("data/runs")
    assert "no run yet" in ds("checkpoints", "list", code=4).err


def test_a_save_dir_holds_the_checkpoints_and_both_find_each_other(ds: Run, here: Path) -> None:
    ds("train", *CONFIG, "--run", "two", "--save-dir", "else/where", "-q")
    place, link = Path("else/where"), Path("data/runs/two/checkpoints")
    assert link.is_symlink()
    assert link.samefile(place)
    assert there(place) == there(link) == ALL
    assert {"best_model.pth", name("1-1")} <= set(os.listdir(place))
    assert ds("checkpoints", "list", "--dir", "else/where", "--json").document["run"] == "two"
    assert ds("checkpoints", "list", "two", "--json").document["count"] == 8
    assert "evaluate" in ds("train", "--resume", f"else/where/{name('2-1')}.pth").out
    assert there(place) == ALL
    assert len(list(place.glob("set_aside-*"))) == 3
    assert ds("evaluate", "two", "--checkpoint", "best_model.pth", "--baselines", "repeat", "--split", "validation").out
    for words in (["--run", "three"], ["--resume", "none"]):
        error = ds("train", *CONFIG, *words, "--save-dir", "else/where", code=2).err
        assert "the checkpoints of run two lie in this --save-dir. Continue it: dateshard train --resume two" in error
    assert not Path("data/runs/three").exists()
    shutil.move("data/runs/two", "moved")
    assert "of a run that is not here" in ds("train", *CONFIG, "--save-dir", "else/where", code=2).err


def test_a_save_dir_may_be_moved_with_the_data_folder_and_its_generation_stays(ds: Run, here: Path) -> None:
    ds("train", *CONFIG, "--run", "two", "--save-dir", "data/mine", "-q", "--epochs", "1")
    (here / "new").mkdir()
    shutil.move("data", "new/data")
    shutil.copy("config.yaml", "new")
    os.chdir("new")
    assert there(Path("data/runs/two/checkpoints")) == ["1-1", "1-2", "1-3", "1-4"]
    for _ in range(3):
        ds("preprocess", *CONFIG, "--refit-statistics", "--force", "-q")
    ds("clean", *CONFIG, "--keep", "1")
    assert {look.pin.run for look in judge_pins(Path("data/shards/world")) if look.there} >= {"two"}
    ds("train", "--resume", "data/mine/best_model", "-q", "--epochs", "2")
    assert there(Path("data/mine"))[-1] == "2-4"


def test_a_save_dir_that_is_gone_or_not_mounted_is_told_and_the_run_stays_as_it_was(ds: Run, here: Path) -> None:
    ds("train", *CONFIG, "--run", "two", "--save-dir", "disk/two", "-q", "--epochs", "1")
    folder = Path("data/runs/two")
    before = [(folder / name).read_bytes() for name in ("metrics.jsonl", "state.json", "run.json")]
    shutil.move("disk/two", "moved")
    for _ in range(2):  # first it is gone, then an empty folder lies in its place
        error = ds("train", "--resume", "two", "--epochs", "2", code=4).err
        assert f"{here}/disk/two: the folder that its checkpoints lie in is not there" in error
        for words in (
            ["evaluate", "two"],
            ["evaluate", "latest"],
            ["evaluate", "latest", *CONFIG],
            ["predict", "two", "--at", "latest"],
            ["checkpoints", "list"],
            ["checkpoints", "clean", "two", "--keep-count", "1"],
            ["train", *CONFIG, "--init-from", "two"],
            ["train", *CONFIG, "--epochs", "1", "--resume", "auto", "--save-dir", "disk/two"],
        ):
            assert "the folder that its checkpoints lie in is not there" in ds(*words, code=4).err, words
        assert [(folder / name).read_bytes() for name in ("metrics.jsonl", "state.json", "run.json")] == before
        Path("disk/two").mkdir(exist_ok=True)
    done = ds("train", *CONFIG, "--resume", "auto", "--epochs", "1")
    assert "note: two is not continued: " in done.out
    assert "the folder that its checkpoints lie in is not there" in done.out
    (folder / "checkpoints").unlink()
    (folder / "checkpoints").symlink_to(here / "moved")  # as the message says
    ds("train", "--resume", "two", "--epochs", "2", "-q")
    assert there(Path("moved")) == ALL


def test_a_run_that_is_renamed_keeps_its_save_dir_and_a_copy_takes_none_from_it(ds: Run) -> None:
    ds("train", *CONFIG, "--run", "two", "--save-dir", "mine", "-q", "--epochs", "1")
    shutil.copytree("data/runs/two", "data/runs/copy", symlinks=True)
    before = there(Path("mine"))
    error = ds("train", "--resume", "copy", "--epochs", "2", code=2).err
    assert "data/runs/copy/checkpoints: its checkpoints are those of run two. Give it its own: " in error
    assert there(Path("mine")) == before
    subprocess.run(error.partition("its own: ")[2], shell=True, check=True)
    ds("train", "--resume", "copy", "--epochs", "2", "-q")
    assert there(Path("mine")) == before
    assert there(Path("data/runs/copy/checkpoints")) == ALL
    shutil.rmtree("data/runs/copy")
    Path("data/runs/two").rename("data/runs/three")
    ds("train", "--resume", "three", "--epochs", "2", "-q")
    assert there(Path("mine")) == ALL
    assert ds("checkpoints", "list", "--dir", "mine", "--json").document["run"] == "three"
    Path("data/runs/three").rename("away")  # as a disk that is not mounted; its place is given to another
    shutil.rmtree("mine")
    ds("train", *CONFIG, "--run", "four", "--save-dir", "mine", "-q", "--epochs", "1")
    Path("away").rename("data/runs/three")
    assert "its checkpoints are those of run four" in ds("train", "--resume", "three", "--epochs", "3", code=2).err


def test_checkpoints_elsewhere_are_there_by_their_note_or_by_themselves(ds: Run, here: Path) -> None:
    ds("train", *CONFIG, "--run", "two", "--save-dir", "disk/two", "-q", "--epochs", "1")
    (here / "disk/two/of_run.json").unlink()
    ds("train", "--resume", "two", "--epochs", "2", "-q")
    assert there(Path("disk/two")) == ALL
    ds("train", *CONFIG, "--run", "three", "--save-dir", "disk/three", "-q", "--epochs", "1")
    for folder in Path("disk/three").glob("checkpoint_*"):  # as it was killed before its first one
        shutil.rmtree(folder)
    assert "three has no checkpoint yet: it begins again" in ds("train", "--resume", "three", "--epochs", "1").out


def test_a_run_whose_run_json_is_gone_does_not_become_another(ds: Run) -> None:
    """Its checkpoints would stand among the new ones: for the best, and in the place of what retention removes."""
    Path("data/runs/one/run.json").unlink()
    before = Path("data/runs/one/metrics.jsonl").read_bytes()
    error = ds("train", *CONFIG, "--run", "one", "-q", code=2).err
    assert "data/runs/one: a run's checkpoints lie here, and its run.json is gone. Move the folder away" in error
    assert there() == ALL
    assert Path("data/runs/one/metrics.jsonl").read_bytes() == before


def test_a_save_dir_may_be_where_the_checkpoints_lie_anyway(ds: Run) -> None:
    ds("train", *CONFIG, "--run", "two", "--save-dir", "data/runs/two/checkpoints", "-q")
    assert there(Path("data/runs/two/checkpoints")) == ALL


@pytest.mark.parametrize("word", ["none", "auto", "latest", "best", "best_model", "ID", "checkpoint_epoch_1_batch_2"])
def test_a_run_is_not_named_as_a_word_that_means_something(ds: Run, word: str) -> None:
    assert f"a run cannot be named '{word}'" in ds("train", *CONFIG, "--run", word, "-q", code=2).err
    assert not Path("data/runs", word).is_dir()


def test_exports_that_no_run_here_made_are_neither_taken_over_nor_removed(ds: Run) -> None:
    """As the script of the user's notes leaves them: a `--save-dir` that holds some is refused, other names stay."""
    legacy, other = Path("old/checkpoint_epoch_1_batch_100.pth"), Path("old/checkpoint_epoch_1_final.pth")
    best = Path("old/best_model.pth")
    legacy.parent.mkdir()
    for path in (legacy, other, best):
        path.write_bytes(b"mine")
    words = ("train", *CONFIG, "--run", "two", "--save-dir", "old", "-q")
    for path in (legacy, best):  # either of them alone would be taken for the run's own
        assert "lie in this --save-dir. Move them away" in ds(*words, code=2).err
        assert not Path("data/runs/two").exists()
        path.unlink()
    ds(*words)
    ds("train", "--resume", "two")
    assert other.read_bytes() == b"mine"


def test_a_start_that_was_killed_leaves_its_save_dir_free(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dateshard.trainer.runs.run_folder.TrainingRun.write_facts", lambda *_: 1 / 0)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # who is killed takes nothing back
        with pytest.raises(ZeroDivisionError):
            run(["train", *CONFIG, "--run", "two", "--save-dir", "mine", "-q"])
    ds("train", *CONFIG, "--run", "three", "--save-dir", "mine", "-q", "--epochs", "1")
    ds("train", *CONFIG, "--run", "two", "-q", "--epochs", "1")
    assert not Path("data/runs/two/checkpoints").is_symlink()
    assert there(Path("mine")) == there(Path("data/runs/two/checkpoints"))


@pytest.mark.parametrize(
    "at", ["dateshard.shardstore.dataset.Dataset.pin", "dateshard.trainer.runs.run_folder.TrainingRun.write_facts"]
)
def test_a_run_that_cannot_be_made_is_taken_back_and_its_name_and_save_dir_are_free(
    ds: Run, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "data/x")

    words = ("train", *CONFIG, "--run", "two", "-q", "--epochs", "1")
    Path("data/runs/two").mkdir()  # of a start that was killed: it may hold what is somebody's
    Path("data/runs/two/notes").touch()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(at, fails)
            assert "data/x" in ds(*words, "--save-dir", "mine", code=1).err
        assert not Path("mine").exists()
        assert {path.name for path in Path("data/runs").glob("*")} - {"two"} == {"one", "ID"}
        assert not Path("data/runs/two/run.json").exists()
    assert Path("data/runs/two/notes").exists()
    shutil.rmtree("data/runs/two")
    with monkeypatch.context() as patch:
        patch.setattr(at, fails)
        ds(*words, code=1)
    assert not Path("data/runs/two").exists()
    ds(*words)


def test_a_run_that_another_process_makes_at_the_same_moment_is_left_to_it(
    ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = TrainingRun.lock, list[int]()

    def late(self: TrainingRun) -> int:
        if not taken:
            shutil.copy("data/runs/one/run.json", self.folder)
            taken.append(lock(self))
        return lock(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "lock", late)
        assert "another process trains this run" in ds("train", *CONFIG, "--run", "two", "-q", code=75).err
    os.close(taken[0])
    assert Path("data/runs/two/run.json").exists()


def test_a_save_dir_that_another_claims_meanwhile_is_left_to_it(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.trainer.runs import save_dir

    lock = save_dir.removal_lock

    def late(directory: Path) -> AbstractContextManager[None]:
        shutil.copytree(FOLDER, directory, dirs_exist_ok=True)
        return lock(directory)

    monkeypatch.setattr(save_dir, "removal_lock", late)
    assert "lie in this --save-dir" in ds("train", *CONFIG, "--run", "two", "--save-dir", "mine", code=2).err
    assert there(Path("mine")) == ALL


def test_auto_continues_in_the_same_save_dir_and_refuses_another(ds: Run) -> None:
    shutil.rmtree("data/runs/one")
    words = ("train", *CONFIG, "--resume", "auto", "-q", "--save-dir")
    ds(*words, "mine", "--epochs", "1")
    ds(*words, "mine")
    assert there(Path("mine")) == ALL
    assert "its checkpoints lie in" in ds(*words, "another", code=2).err
    assert "stay where they lie" in ds("train", "--resume", "mine/best", "--save-dir", "mine", code=2).err


def test_init_from_says_so_and_does_not_go_with_resume(ds: Run) -> None:
    done = ds("train", *CONFIG, "--run", "new", "--init_from", "one", "--epochs", "1", "--seed", "9")
    assert f"note: begins with the weights of {FOLDER / best()}; optimizer and position begin anew" in done.out
    assert ds("checkpoints", "info", "new", "latest", "--json").document["init_from"] == str(FOLDER / best())
    assert "Give one of them" in ds("train", *CONFIG, "--init-from", "one", "--resume", "one", code=2).err
    wide = ("trainer.model.hidden_units=[9]", "--run", "wide")
    error = ds("train", *CONFIG, "--init-from", "one", *wide, code=2).err
    assert re.search(r"weights of another model: '[\w.]+' is 8 x \d+, this model's is 9 x \d+", error)
    assert not Path("data/runs/wide").exists()
    ridge = ds(
        "train", *CONFIG, "--init-from", "one", "trainer.model.name=ridge", "trainer.training.losses=null", code=2
    )
    assert "Leave --init-from out" in ridge.err


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=free))


def test_retention_switches_itself_on_where_all_would_take_more_than_half_of_the_free_disk(
    ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ds("estimate", *CONFIG, "--json").document["checkpoints"]
    each = told["bytes_each"]
    assert told["an_epoch"] == 4
    assert told["keep_last"] is None
    assert told["bytes_all"] == 9 * each  # and the exported best
    disk(monkeypatch, 18 * each)
    assert "warning" not in ds("train", *CONFIG, "--run", "fits", "--epochs", "2").out
    disk(monkeypatch, 14 * each)
    assert ds("estimate", *CONFIG, "--json").document["checkpoints"]["keep_last"] == 4
    assert "the newest 4 and the best would be kept" in ds("estimate", *CONFIG).out
    done = ds("train", *CONFIG, "--run", "tight")
    assert "warning: all checkpoints would take" in done.out
    assert "only the newest 4 and the best are kept" in done.out
    assert re.search(r"^4 checkpoints an epoch, \d+\.\d kB; \d+\.\d kB free$", done.out, re.MULTILINE)
    kept = there(Path("data/runs/tight/checkpoints"))
    assert kept[-4:] == ALL[-4:]
    assert len(kept) in (4, 5)
    chosen = ds("train", *CONFIG, "--run", "chosen", "trainer.checkpoint.keep_last=1")
    assert "warning" not in chosen.out
    assert len(there(Path("data/runs/chosen/checkpoints"))) in (1, 2)
    assert "warning" not in ds("train", *CONFIG, "--run", "small", "trainer.checkpoint.max_bytes=1kB").out


def test_the_estimate_counts_the_sample_of_windows(ds: Run) -> None:
    plain = ds("estimate", *CONFIG, "--json").document["checkpoints"]
    Path("counted_score.py").write_text("def score(targets, predictions):\n    return {}\n")
    custom = ds("estimate", *CONFIG, "trainer.metrics.custom=counted_score:score", "--json").document["checkpoints"]
    ds("train", *CONFIG, "trainer.metrics.custom=counted_score:score", "--run", "sampled", "-q")
    sizes = [row["bytes"] for row in ds("checkpoints", "list", "sampled", "--json").document["checkpoints"]]
    assert plain["bytes_each"] < custom["bytes_each"]
    assert max(sizes) == pytest.approx(custom["bytes_each"], rel=0.5)
    assert custom["bytes_all"] == pytest.approx(sum(sizes), rel=0.5)


def test_retention_runs_after_each_save_and_a_cut_run_keeps_the_same(ds: Run) -> None:
    keep = ("trainer.checkpoint.keep_last=2", "trainer.checkpoint.export_pth=all")
    ds("train", *CONFIG, *keep, "--run", "whole", "-q")
    ds("train", *CONFIG, *keep, "--run", "cut", "-q", "--epochs", "1")
    ds("train", *CONFIG, *keep, "--resume", "cut", "-q")
    left = [
        {str(path.relative_to(run)): path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
        for run in (Path("data/runs/whole"), Path("data/runs/cut"))
    ]
    assert set(left[0]) == set(left[1])
    assert {file for file in left[0] if left[0][file] != left[1][file]} <= {
        f
        for f in left[0]
        if name("1-4") in f or "best" in f  # it was saved with epochs: 1
    }
    assert len(there(Path("data/runs/whole/checkpoints"))) in (2, 3)
