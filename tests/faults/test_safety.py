"""Pickles in place of any file, and names that lead elsewhere: nothing ever runs, nothing outside is reached."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import NotThereError
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import command, environment
from tests.kit.flips import CONFIG, KINDS, MARK, RUNS, Flip, Lab, newest_of, one_sentence, with_tensors


class Payload:
    """Unpickling it makes the mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def saved_by_torch() -> bytes:
    torch.save({"model": Payload()}, "payload.pth")
    return Path("payload.pth").read_bytes()


def saved_by_numpy() -> bytes:
    np.save("payload.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    return Path("payload.npy").read_bytes()


PAYLOADS: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Payload()),
    "torch": saved_by_torch,
    "numpy": saved_by_numpy,
}


@dataclass(frozen=True, slots=True)
class Planted(Flip):
    """A whole file put in place of another, as long as that was if it is shorter."""

    content: bytes = b""

    def make(self) -> None:
        size = self.file.stat().st_size
        self.file.chmod(0o644)
        self.file.write_bytes(self.content.ljust(size, b"\0"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_do_run_where_they_are_loaded_as_their_makers_meant(
    payload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a reader that loads them makes the mark."""
    monkeypatch.chdir(tmp_path)
    data = PAYLOADS[payload]()
    if payload == "pickle":
        pickle.loads(data)
    elif payload == "torch":
        torch.load("payload.pth", weights_only=False)
    else:
        np.load("payload.npy", allow_pickle=True)
    assert Path(MARK).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_in_place_of_any_file_never_runs_and_is_mended_like_any_damage(fresh: Lab, kind: str) -> None:
    for number, make in enumerate(PAYLOADS.values()):
        flip, use = fresh.draw(kind)
        assert fresh.judge((Planted(kind, flip.file, number, make()), use)) == ""
        assert not Path(MARK).exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_given_to_resume_or_evaluate_is_refused(fresh: Lab, payload: str) -> None:
    data = PAYLOADS[payload]()
    inside = RUNS / "cut" / "checkpoints"
    places = [Path("evil.pth"), Path("evil"), inside / "evil.pth", inside / "checkpoint_epoch_9_batch_9.pth"]
    for path in places:
        path.write_bytes(data)
    absolute = Path("evil.pth").absolute()
    for given in map(str, [*places, absolute, "./evil.pth", "../" + str(absolute.relative_to(absolute.parents[1]))]):
        resumed = (["train", "--resume", given], ["train", "--resume", given, *CONFIG], ["evaluate", given])
        begun = (
            ["train", *CONFIG, "--init-from", given],
            ["checkpoints", "info", given],
            ["checkpoints", "load", given],
        )
        for words in (*resumed, *begun):
            code, text = fresh.say(*words)
            assert (code, one_sentence(text)) == (4, True), (words, code, text)
            assert not Path(MARK).exists()
    for given in ("evil.pth", "checkpoint_epoch_9_batch_9.pth", "checkpoint_epoch_9_batch_9"):
        code, text = fresh.say("evaluate", "cut", "--checkpoint", given)
        assert (code, one_sentence(text)) == (4, True), (given, text)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_in_place_of_the_exported_best_is_seen_and_replaced_and_never_runs(fresh: Lab, payload: str) -> None:
    path = RUNS / "cut" / "checkpoints" / "best_model.pth"
    path.write_bytes(PAYLOADS[payload]())
    code, text = fresh.say("checkpoints", "verify", "cut")
    assert code == 4
    assert f"damaged  {path}: does not hold what" in text
    assert fresh.say("train", *CONFIG, "--init-from", str(path))[0] == 4
    assert fresh.say("train", "--resume", "cut", "-q")[0] == 0
    assert fresh.say("checkpoints", "verify", "cut")[0] == 0
    assert not Path(MARK).exists()


@pytest.mark.parametrize("variable", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_no_variable_of_torch_makes_a_command_load_a_pickle(fresh: Lab, variable: str) -> None:
    """The pickles' hashes are right, so that they come as far as any file can."""
    newest = newest_of()
    for name in newest.files:
        (newest.folder / name).chmod(0o644)
        with_tensors(newest.folder, saved_by_torch(), name)
    done = subprocess.run(
        command("train", "--resume", "cut"), env={**environment(), variable: "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"passed over: {newest.folder}" in done.stdout


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


BAD_NAMES = [
    "../../x",
    "..",
    ".",
    "",
    "/tmp/x",
    "a/b",
    "../cut",
    "x" * 300,
    "a\nb",
    "-x",
    "a\0b",
    "\x1b[2J",
    "a b",
    ".x",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_of_a_run_or_dataset_leads_elsewhere(fresh: Lab, name: str) -> None:
    parent = Path.cwd().parent
    before = tree(parent)
    for words in (
        ["train", *CONFIG, f"--run={name}"],
        ["verify", *CONFIG, f"dataset={json.dumps(name)}"],
        ["preprocess", *CONFIG, f"dataset={json.dumps(name)}"],
        ["train", *CONFIG, f"dataset={json.dumps(name)}"],
    ):
        if words[-1] == "--run=":
            continue  # no name is the name that is given by default
        code, text = fresh.say(*words)
        assert (code, one_sentence(text)) == (2, True), (words, code, text)
    for words in (["train", f"--resume={name}"], ["train", f"--resume={name}", *CONFIG], ["evaluate", name]):
        if words[-1].startswith("-") and words[0] == "evaluate":
            continue  # an option
        code, text = fresh.say(*words)
        assert code in (2, 4), (words, code, text)
        assert "Traceback" not in text
    assert tree(parent) == before


def test_a_whole_run_elsewhere_is_not_reached_by_the_name_of_a_run_or_checkpoint(fresh: Lab) -> None:
    shutil.copytree(RUNS / "cut", "elsewhere")
    for words in (
        ["train", "--resume", "../../elsewhere"],
        ["train", "--resume", str(Path("elsewhere").absolute())],
        ["evaluate", "../../elsewhere"],
        ["evaluate", "cut", "--checkpoint", f"../../other/checkpoints/{newest_of('other').name}"],
        ["evaluate", "cut", "--checkpoint", str((RUNS / "other" / "checkpoints" / newest_of("other").name).absolute())],
    ):
        code, text = fresh.say(*words)
        assert (code, one_sentence(text)) == (4, True), (words, code, text)
    for name in ("../../elsewhere", str(Path("elsewhere").absolute()), "..", "cut/checkpoints/.."):
        with pytest.raises(NotThereError, match="no run"):
            TrainingRun.open(RUNS, name)
    shutil.rmtree("elsewhere")
