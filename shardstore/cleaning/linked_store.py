"""A second store that begins as a copy of another's current generation, and shares its files by hard links.

It costs no disk and no reading. What is published is never written into, only added and removed, so that neither store
sees what the other does: cleaning one leaves the files of the other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dateshard.shardstore.commit import Committed, content_of, copies_of, sources_path
from dateshard.shardstore.disk.durable import disk_full_as_error, replace_file
from dateshard.shardstore.identity import seal
from dateshard.shardstore.manifest import manifest_name, named_folders
from dateshard.shardstore.objects.bucket_store import in_use
from dateshard.shardstore.objects.copies_budget import PUSHED
from dateshard.shardstore.objects.format_file import write_format

UNDIVIDED = ("cut", "dumps.json")  # of files of many dates, and what is known of all dumps


def link_store(root: Path, target: Path, current: Committed | None, staged: Mapping[str, str]) -> None:
    """Makes a store at `target` unless there is one. Whole or not there: a process killed meanwhile leaves no store.

    Args:
        root: of the store that lends its files; it need not be there.
        current: its current generation. staged: {date: key} of the measured arrays that may be used.
    """
    if target.exists():
        return
    half = target.with_name(f".{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    with disk_full_as_error(half):
        for name in _names(root, current, staged):
            with suppress(FileNotFoundError):  # cleaned away meanwhile: it is made again where it is needed
                _link(root / name, half / name)
        if current is not None:
            write_format(half)
            named = {"generation": current.generation, "manifest": manifest_name(current.generation)}
            replace_file(half / "CURRENT", seal(named))
        half.rename(target)


def _names(root: Path, current: Committed | None, staged: Mapping[str, str]) -> Iterator[str]:
    """Names the files and folders to be linked, from the store's root."""
    yield from (name for name in UNDIVIDED if (root / name).exists())
    for date, key in staged.items():
        for kind in ("staged", "partials"):
            inside = root / kind / date
            names = os.listdir(inside) if inside.is_dir() else [key] if kind == "staged" else []
            yield from (f"{kind}/{date}/{name}" for name in names if kind == "partials" or content_of(name) == key)
    if current is None:
        return
    yield f"manifests/{manifest_name(current.generation)}"
    yield str(sources_path(root, current.generation).relative_to(root))
    for name in named_folders(current.manifest):
        yield from (str(path.relative_to(root)) for path in (root / name, *copies_of(root / name)))


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with in_use(path):
        if path.is_dir():
            own = shutil.ignore_patterns(PUSHED)
            shutil.copytree(path, target, copy_function=_link_file, dirs_exist_ok=True, ignore=own)
        else:
            _link_file(path, target)


def _link_file(path: str | Path, target: str | Path) -> None:
    """Links a file; copies it where the disk is another one, or knows no links."""
    with suppress(FileExistsError):
        try:
            os.link(path, target)
        except OSError as error:
            if isinstance(error, FileNotFoundError | FileExistsError):
                raise
            shutil.copy2(path, target)
