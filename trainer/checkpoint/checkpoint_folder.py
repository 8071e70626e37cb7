"""One checkpoint's folder, read and verified.

    checkpoints/checkpoint_epoch_{e}_batch_{b}/      1-based; the state after that batch of that epoch
        model.safetensors  optimizer.safetensors  metrics.safetensors
        manifest.json      sealed JSON, written last: the state and the size and hash of every file

A folder appears by one rename. A position that is saved again (a stop during validation, then the validation) gets
the suffix `-2`, so that nothing is ever replaced. `latest.json` and `best_model.json` are for people; nothing trusts
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.errors import DamagedError, NotThereError, StoreError, Where, refuse_special, shorten
from dateshard.shardstore.identity import expected_form, hash_bytes, hash_file, unseal
from dateshard.trainer.checkpoint.checkpoint_state import CheckpointState

if TYPE_CHECKING:
    import torch

VERSION = 1
FILE = re.compile(r"\w{1,64}\.safetensors")
NAME = re.compile(r"checkpoint_epoch_(\d+)_batch_(\d+)(?:-(\d+))?")
Tensors = Mapping[str, Mapping[str, "torch.Tensor"]]  # {file's stem: {name: tensor}}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One verified listing: where it lies and the state that its manifest tells (tensors are read by `load`)."""

    folder: Path
    state: CheckpointState
    files: Mapping[str, tuple[int, str]]

    @property
    def name(self) -> str:
        """The checkpoint's name: `checkpoint_epoch_3_batch_71`."""
        return self.folder.name

    @property
    def num_bytes(self) -> int:
        """Size of its files."""
        return sum(size for size, _ in self.files.values())

    @property
    def place(self) -> tuple[int, int, bool, int]:
        """Sorts by time: epoch, batch, whether validated, version."""
        match = NAME.fullmatch(self.name)
        return self.state.epoch, self.state.batch, self.state.validated, int(match[3] or 1) if match else 0


def inspect(folder: Path) -> Checkpoint:
    """A checkpoint's manifest, checked against its own hash; its tensors are not read.

    Raises:
        NotThereError, DamagedError: naming the file.
    """
    path, todo = folder / "manifest.json", _another(folder)
    try:
        refuse_special(path)
        data = path.read_bytes()
    except OSError as error:
        if not folder.exists():
            raise NotThereError("no such checkpoint", where=Where(file=str(folder)), todo=_those(folder)) from None
        what = f"no complete checkpoint here ({error.strerror})"
        raise NotThereError(what, where=Where(file=str(path)), todo=todo) from None
    content = unseal(data, str(path), todo)
    with expected_form(str(path), todo):
        if content["version"] != VERSION:
            what = f"checkpoint version {content['version']}, this one reads {VERSION}"
            raise StoreError(what, where=Where(file=str(path)))
        files = {name: (size + 0, digest) for name, (size, digest) in content["files"].items()}
        if not all(FILE.fullmatch(name) for name in files):
            raise ValueError(files)
        return Checkpoint(folder, CheckpointState.from_json(content["state"]), files)


def verify(checkpoint: Checkpoint) -> None:
    """Every file's size and hash; memory: 1 MB.

    Raises:
        DamagedError: naming the file.
    """
    for name, wanted in checkpoint.files.items():
        path, todo = checkpoint.folder / name, _another(checkpoint.folder)
        try:
            size_and_hash = hash_file(path)
        except OSError as error:
            raise DamagedError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=todo) from None
        if size_and_hash != wanted:
            raise DamagedError("size or hash is not what was saved", where=Where(file=str(path)), todo=todo)


def read_files(checkpoint: Checkpoint) -> dict[str, dict[str, torch.Tensor]]:
    """All tensors as {file's stem: {name: tensor}}; every file's size and hash is checked before it is parsed.

    Raises:
        DamagedError: naming the file.
    """
    from safetensors.torch import load as parse_tensors  # and torch, which those that only look at manifests need not

    groups = {}
    for name, (size, digest) in checkpoint.files.items():
        path = checkpoint.folder / name
        todo = _another(checkpoint.folder)
        try:
            data = path.read_bytes() if path.stat().st_size == size else b""
        except OSError as error:
            raise DamagedError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=todo) from None
        if (len(data), hash_bytes(data)) != (size, digest):
            raise DamagedError("size or hash is not what was saved", where=Where(file=str(path)), todo=todo)
        try:
            groups[path.stem] = parse_tensors(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            first = shorten(str(error).splitlines()[0] if str(error) else type(error).__name__, 100)
            raise DamagedError(f"not a safetensors file: {first}", where=Where(file=str(path)), todo=todo) from None
    return groups


def refuse_unfit(checkpoint: Checkpoint, groups: Tensors, stem: str, wanted: Mapping[str, torch.Tensor]) -> None:
    """Refuses tensors that are not those of this run.

    Raises:
        DamagedError: the group's names, shapes or types are not those of `wanted`.
    """
    forms = [{name: (t.shape, t.dtype) for name, t in group.items()} for group in (groups.get(stem, {}), wanted)]
    if forms[0] != forms[1]:
        names = sorted(name for name in forms[0].keys() | forms[1].keys() if forms[0].get(name) != forms[1].get(name))
        where = Where(file=str(checkpoint.folder / f"{stem}.safetensors"))
        what = f"not the tensors of this run: '{shorten(names[0])}' differs"
        raise DamagedError(what, where=where, todo=_another(checkpoint.folder))


def _another(folder: Path) -> str:
    run = folder.absolute().parent.parent
    if not (run / "run.json").is_file():
        return "Take another checkpoint, or another copy of this one"
    return f"{to_run('train', '--resume', run.name)} (it goes on from the newest checkpoint that verifies)"


def _those(folder: Path) -> str:
    run = folder.absolute().parent.parent
    known = [run.name] if (run / "run.json").is_file() else ["--dir", folder.parent]
    return f"See: {command('checkpoints', 'list', *known)}"
