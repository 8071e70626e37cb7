"""Bad protocols, to be put in the product's place in a child of the zygote: a harness that passes them proves nothing.

Each is what people write who do not think of accidents. `apply` replaces functions of the product in this process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dateshard.trainer.checkpoint.checkpoint_state import CheckpointState

Hashes = Mapping[str, tuple[int, str]]


def in_place() -> None:
    """Shards, manifest and CURRENT are written over what was there."""

    def publish(root: Path, folder: Path, final: Path, hashes: Hashes) -> Path:
        for name in hashes:
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            (final / name).write_bytes((folder / name).read_bytes())
        return final

    _one_name_for_all(publish)
    _one_manifest(lambda path, data: path.write_bytes(data) and None)


def two_renames() -> None:
    """Each file is written aside, flushed and renamed over the old one: safe alone, but shard and manifest are two."""
    from dateshard.shardstore.disk.durable import fsync_tree, replace_file

    def publish(root: Path, folder: Path, final: Path, hashes: Hashes) -> Path:
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_tree(folder)
        if final.exists():
            final.rename(folder.with_name("old"))
        folder.rename(final)
        shutil.rmtree(folder.with_name("old"), ignore_errors=True)
        return final

    _one_name_for_all(publish)
    _one_manifest(replace_file)


def without_fsync() -> None:
    """Renames as the product does, and flushes nothing: only a power cut, or a look at the order of calls, shows it."""
    import dateshard.shardstore.disk.durable

    os.fsync = lambda descriptor: None
    dateshard.shardstore.disk.durable.Flusher.flush = lambda self, folders: None  # type: ignore[method-assign]


def fsync_errors_ignored() -> None:
    """Flushes, and takes no answer."""
    honest = os.fsync

    def fsync(descriptor: Any) -> None:
        with suppress(OSError):
            honest(descriptor)

    os.fsync = fsync


def checkpoint_in_place() -> None:
    """A checkpoint is written under its final name, its manifest first; the id of the runs folder likewise."""
    from dateshard.shardstore.disk.durable import write_file
    from dateshard.shardstore.identity import hash_bytes, seal
    from dateshard.shardstore.pinning import runs_id
    from dateshard.trainer.checkpoint import writer
    from dateshard.trainer.checkpoint.checkpoint_folder import VERSION

    def write(parent: Path, state: CheckpointState, data: Mapping[str, memoryview]) -> Path:
        final = parent / f"checkpoint_epoch_{state.epoch + 1}_batch_{state.batch}"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir(parents=True)
        files = {name: [len(content), hash_bytes(content)] for name, content in data.items()}
        content = {"version": VERSION, "state": state.to_json(), "files": files}
        for name, blob in {"manifest.json": seal(content), **data}.items():
            write_file(final / name, blob)
        return final

    writer.write = write
    runs_id.appearing = lambda path, *_, **__: nullcontext(path)  # type: ignore[assignment]


def older_checkpoint_first() -> None:
    """Room is made before the new checkpoint is there."""
    from dateshard.trainer.checkpoint import writer

    honest = writer.write

    def write(parent: Path, state: CheckpointState, data: Mapping[str, memoryview]) -> Path:
        for folder in parent.glob("checkpoint_*"):
            shutil.rmtree(folder)
        return honest(parent, state, data)

    writer.write = write


def nothing_goes() -> None:
    """No bad one: every checkpoint stays, so that each is known."""
    import dateshard.trainer.checkpoint.after_save

    dateshard.trainer.checkpoint.after_save.going = lambda *given: []


def _one_name_for_all(publish: Callable[[Path, Path, Path, Hashes], Path]) -> None:
    """A date's shard keeps its path whatever it holds, and is published so."""
    import dateshard.pipeline.acts

    honest = dateshard.pipeline.acts.publish
    dateshard.pipeline.acts.identity = lambda content: "shard"
    dateshard.pipeline.acts.publish = lambda root, folder, final, hashes: (
        publish(root, folder, final, hashes) if final.name == "shard" else honest(root, folder, final, hashes)
    )


def _one_manifest(write: Callable[[Path, bytes], None]) -> None:
    """There is one generation for ever; its manifest and CURRENT are written anew by `write`."""
    import dateshard.shardstore.commit

    def link_new(self: Any, path: Path, data: bytes) -> None:
        write(path, data)

    dateshard.shardstore.commit.next_generation = lambda root: 1
    dateshard.shardstore.commit.StoreWriter._link_new = link_new  # type: ignore[method-assign]
    dateshard.shardstore.commit.replace_file = write


PROTOCOLS: dict[str, Callable[[], None]] = {
    "in place": in_place,
    "two renames": two_renames,
    "without fsync": without_fsync,
    "fsync errors ignored": fsync_errors_ignored,
    "checkpoint in place": checkpoint_in_place,
    "older checkpoint first": older_checkpoint_first,
    "nothing goes": nothing_goes,
}


def apply(name: str) -> None:
    """Puts one of them in the product's place, in this process."""
    PROTOCOLS[name]()
