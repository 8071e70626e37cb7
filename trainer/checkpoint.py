"""Checkpoints: all state at a position, hashed, complete or absent, without pickle.

    checkpoints/checkpoint_epoch_{e}_batch_{b}/      1-based; the state after that batch of that epoch
        model.safetensors  optimizer.safetensors  metrics.safetensors
        manifest.json      sealed JSON, written last: the state and the size and hash of every file

A folder appears by one rename. A position that is saved again (a stop during validation, then the validation) gets
the suffix `-2`, so that nothing is ever replaced. `latest.json` and `best_model.json` are for people; nothing trusts
them.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors

from shardstore.durable import disk_full_as_error, fsync_path, write_file
from shardstore.errors import DamagedError, NotThereError, StoreError, Where, shorten
from shardstore.identity import canonical, expected_form, hash_bytes, seal, unseal
from trainer.schedule import Progress

VERSION = 1
FILE = re.compile(r"\w{1,64}\.safetensors")
NAME = re.compile(r"checkpoint_epoch_(\d+)_batch_(\d+)(?:-(\d+))?")
Tensors = Mapping[str, Mapping[str, torch.Tensor]]  # {file's stem: {name: tensor}}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One verified listing: where it lies and the state that its manifest tells (tensors are read by `load`)."""

    folder: Path
    state: dict[str, Any]
    files: Mapping[str, tuple[int, str]]

    @property
    def name(self) -> str:
        """`checkpoint_epoch_3_batch_71`."""
        return self.folder.name

    @property
    def num_bytes(self) -> int:
        """Size of its files."""
        return sum(size for size, _ in self.files.values())

    @property
    def place(self) -> tuple[int, int, bool, int]:
        """Sorts by time: epoch, batch, whether validated, version."""
        match = NAME.fullmatch(self.name)
        return self.state["epoch"], self.state["batch"], self.state["validated"], int(match[3] or 1) if match else 0


def save(parent: Path, state: Mapping[str, Any], tensors: Tensors) -> Path:
    """Writes one checkpoint durably and returns its folder; an equal one that is there already is kept.

    Raises:
        DiskFullError: nothing is left behind, older checkpoints are untouched.
    """
    parent.mkdir(parents=True, exist_ok=True)
    data = {f"{stem}.safetensors": format_tensors(dict(group)) for stem, group in tensors.items()}
    files = {name: (len(content), hash_bytes(content)) for name, content in data.items()}
    content = {"version": VERSION, "state": dict(state), "files": {name: list(file) for name, file in files.items()}}
    stem = f"checkpoint_epoch_{state['epoch'] + 1}_batch_{state['batch']}"
    if (equal := _equal(parent, stem, content)) is not None:
        return equal
    temporary = parent / f".tmp-{uuid.uuid4().hex}"
    try:
        with disk_full_as_error(parent / stem):
            temporary.mkdir()
            for name, blob in data.items():
                write_file(temporary / name, blob)
            write_file(temporary / "manifest.json", seal(content))
            fsync_path(temporary)
            final = _free_name(parent, stem)
            temporary.rename(final)
            fsync_path(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _free_name(parent: Path, stem: str) -> Path:
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    return next(parent / name for name in names if not (parent / name).exists())


def point(folder: Path, file: str, state: Mapping[str, Any]) -> None:
    """Notes beside a checkpoint, for people, that it is the latest or the best; nothing trusts it."""
    text = {
        "checkpoint": folder.name,
        "epoch": state["epoch"] + 1,
        "batch": state["batch"],
        "val_loss": state["val_loss"],
    }
    temporary = folder.with_name(f".{file}.tmp")
    with disk_full_as_error(folder.with_name(file)):
        temporary.write_text(json.dumps(text) + "\n")
        temporary.replace(folder.with_name(file))


def tidy(parent: Path) -> None:
    """What a killed process left: halves of checkpoints go, the notes for people are made anew. Under the run's lock."""
    for half in parent.glob(".tmp-*"):
        shutil.rmtree(half, ignore_errors=True)
    if found := scan(parent)[0]:
        point(found[-1].folder, "latest.json", found[-1].state)
    if judged := _judged(found):
        point(judged[0].folder, "best_model.json", judged[0].state)


def _equal(parent: Path, stem: str, content: Mapping[str, Any]) -> Path | None:
    """A checkpoint of this position that verifies and holds the same: a replayed batch need not be saved again."""
    for folder in parent.glob(f"{stem}*"):
        try:
            found = inspect(folder)
            files = {name: list(file) for name, file in found.files.items()}
            if canonical({"version": VERSION, "state": found.state, "files": files}) == canonical(content):
                read_files(found)
                return folder
        except StoreError:
            continue
    return None


def inspect(folder: Path) -> Checkpoint:
    """A checkpoint's manifest, checked against its own hash; its tensors are not read.

    Raises:
        NotThereError, DamagedError: naming the file.
    """
    path, todo = folder / "manifest.json", _another(folder)
    try:
        data = path.read_bytes()
    except OSError as error:
        what = f"no complete checkpoint here ({error.strerror})"
        raise NotThereError(what, where=Where(file=str(path)), todo=todo) from None
    content = unseal(data, str(path), todo)
    with expected_form(str(path), todo):
        if content["version"] != VERSION:
            what = f"checkpoint version {content['version']}, this one reads {VERSION}"
            raise StoreError(what, where=Where(str(path)))
        files = {name: (size + 0, digest) for name, (size, digest) in content["files"].items()}
        if not all(FILE.fullmatch(name) for name in files):
            raise ValueError(files)
        _refuse_stateless(content["state"])
        return Checkpoint(folder, content["state"], files)


def _refuse_stateless(state: Mapping[str, Any]) -> None:
    """Raises:
    ValueError, KeyError, TypeError, AttributeError: a state that no training has.
    """
    refuse_unbound({**state["bound"], "config": state["config"]})
    Progress(**state["progress"])
    counts = [state[key] for key in ("epoch", "batch", "step", "skipped", "skipped_in_a_row")]
    losses = [
        state["train_loss"],
        state["val_loss"],
        *(state["progress"][key] for key in ("best_loss", "reference_loss", "plateau_loss")),
        *state["losses"].values(),
    ]
    counts += [state["progress"][key] for key in ("bad_epochs", "plateau_epochs", "cuts")]
    counts += [state["progress"]["best_epoch"] + 1]
    if not all(isinstance(name, str) for name in state["without_moments"]):
        raise ValueError(state["without_moments"])
    _ = state["environment"].keys()
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
        raise ValueError(counts)
    if not all(loss is None or isinstance(loss, int | float) for loss in losses):
        raise ValueError(losses)
    if not isinstance(state["validated"], bool):
        raise TypeError(state)


def refuse_unbound(facts: Mapping[str, Any]) -> None:
    """Raises:
    ValueError, KeyError, TypeError, AttributeError: facts of a run that lack what it is bound to.
    """
    for section in ("settings", "order", "config", "data"):
        _ = facts[section].keys()
    number = facts["data"]["generation"]
    if type(number) is not int or not 0 < number < 10**8 or not isinstance(facts["data"]["name"], str):
        raise ValueError(number)


def read_files(checkpoint: Checkpoint) -> dict[str, dict[str, torch.Tensor]]:
    """All tensors as {file's stem: {name: tensor}}; every file's size and hash is checked before it is parsed.

    Raises:
        DamagedError: naming the file.
    """
    groups = {}
    for name, (size, digest) in checkpoint.files.items():
        path = checkpoint.folder / name
        todo = _another(checkpoint.folder)
        try:
            data = path.read_bytes() if path.stat().st_size == size else b""
        except OSError as error:
            raise DamagedError(f"cannot be read: {error.strerror}", where=Where(str(path)), todo=todo) from None
        if (len(data), hash_bytes(data)) != (size, digest):
            raise DamagedError("size or hash is not what was saved", where=Where(file=str(path)), todo=todo)
        try:
            groups[path.stem] = parse_tensors(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            first = shorten(str(error).splitlines()[0] if str(error) else type(error).__name__, 100)
            raise DamagedError(f"not a safetensors file: {first}", where=Where(str(path)), todo=todo) from None
    return groups


def refuse_unfit(found: Checkpoint, groups: Tensors, stem: str, wanted: Mapping[str, torch.Tensor]) -> None:
    """Raises:
    DamagedError: the group's names, shapes or types are not those of `wanted`.
    """
    forms = [{name: (t.shape, t.dtype) for name, t in group.items()} for group in (groups.get(stem, {}), wanted)]
    if forms[0] != forms[1]:
        names = sorted(name for name in forms[0].keys() | forms[1].keys() if forms[0].get(name) != forms[1].get(name))
        where = Where(file=str(found.folder / f"{stem}.safetensors"))
        what = f"not the tensors of this run: '{shorten(names[0])}' differs"
        raise DamagedError(what, where=where, todo=_another(found.folder))


def _another(folder: Path) -> str:
    run = folder.absolute().parent.parent.name
    return f"Run: dateshard train --resume {run} (it goes on from the newest checkpoint that verifies)"


def scan(parent: Path) -> tuple[list[Checkpoint], list[str]]:
    """All checkpoints of a folder, oldest first, and why others were passed over. Tensors are not read."""
    found, passed = [], []
    if parent.is_dir():
        for folder in parent.iterdir():
            if NAME.fullmatch(folder.name):
                try:
                    found.append(inspect(folder))
                except StoreError as error:
                    passed.append(str(error))
    return sorted(found, key=lambda checkpoint: checkpoint.place), passed


def newest(parent: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose every byte verifies, and why newer ones were passed over."""
    return _first_good(list(reversed(scan(parent)[0])), scan(parent)[1])


def best(parent: Path) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint with the lowest validation loss measured on its very weights; ties go to the older."""
    found, passed = scan(parent)
    return _first_good(_judged(found), passed)


def _judged(found: list[Checkpoint]) -> list[Checkpoint]:
    """Those with a validation loss of their own weights, the lowest first; without validation dates the training loss."""
    for loss in ("val_loss", "train_loss"):
        judged = [one for one in found if one.state["validated"] and one.state.get(loss) is not None]
        if judged:
            return sorted(judged, key=lambda one: (one.state[loss], one.place))
    return []


def _first_good(candidates: list[Checkpoint], passed: list[str]) -> tuple[Checkpoint | None, list[str]]:
    for checkpoint in candidates:
        try:
            read_files(checkpoint)
        except StoreError as error:
            passed.append(str(error))
        else:
            return checkpoint, passed
    return None, passed


def set_aside_later(found: Checkpoint) -> int:
    """Renames the checkpoints after `found`, which a run that continues from it would else take for its own."""
    later = [one for one in scan(found.folder.parent)[0] if one.place > found.place]
    for one in later:
        one.folder.rename(one.folder.with_name(f"set_aside-{uuid.uuid4().hex[:8]}-{one.name}"))
    return len(later)


def find(parent: Path, name: str) -> tuple[Checkpoint, list[str]]:
    """`latest`, `best` or a checkpoint's name (`.pth` at its end is taken off).

    Where a named one is damaged, a good one that was saved again at the same position (`-2`) serves.

    Raises:
        NotThereError: there is none that verifies.
    """
    if name in ("latest", "best", "best_model"):
        found, passed = newest(parent) if name == "latest" else best(parent)
        if found is None:
            reason = f" ({'; '.join(passed)})" if passed else ""
            todo = "Train afresh. Run: dateshard train -c CONFIG"
            if name != "latest" and newest(parent)[0] is not None:
                what, todo = (
                    "no best checkpoint yet: none has a validation loss",
                    "Take --checkpoint latest, or train on",
                )
                raise NotThereError(f"{what}{reason}", where=Where(file=str(parent)), todo=todo)
            raise NotThereError(f"no checkpoint that verifies{reason}", where=Where(file=str(parent)), todo=todo)
        return found, passed
    stem = name.removesuffix(".pth")
    if not NAME.fullmatch(stem):
        what = f"'{shorten(name)}' is no checkpoint's name"
        raise NotThereError(what, where=Where(file=str(parent)), todo="Say latest, best or checkpoint_epoch_1_batch_2")
    candidates, passed, first = [parent / stem, *sorted(parent.glob(f"{stem}-*"))], list[str](), None
    for folder in candidates:
        try:
            found = inspect(folder)
            read_files(found)
        except StoreError as error:
            first = first or error
            passed.append(str(error))
        else:
            return found, passed
    assert first is not None
    raise first
