"""Where the pages of runs and of datasets lie, whether one is old, and writing one."""

from __future__ import annotations

from pathlib import Path

from dateshard.places import data_folder
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import UsageError

PAGE_SUFFIX = ".html"


def page_of(folder: Path) -> Path:
    """Where the page of the run in a folder lies unless another place is named."""
    return folder / "report.html"


def page_is_old(folder: Path) -> bool:
    """Whether the run in a folder has no page, or rows of metrics or a checkpoint came after it."""
    page = page_of(folder)
    if not page.exists():
        return True
    written = page.stat().st_mtime
    return any(
        path.exists() and path.stat().st_mtime > written for path in (folder / "metrics.jsonl", folder / "checkpoints")
    )


def data_page_of(dataset: str) -> Path:
    """Where the page of a dataset lies unless another place is named."""
    return data_folder() / "reports" / f"{dataset}.html"


def refuse_no_page(path: Path, option: str) -> None:
    """Refuses a name that is not that of a page: a slip would replace a dump, or a file of the store.

    Raises:
        UsageError: naming the ending.
    """
    if path.suffix.lower() != PAGE_SUFFIX:
        raise UsageError(
            f"{option}: '{path}' is not the name of a page", todo=f"Name a file that ends in {PAGE_SUFFIX}"
        )


def write_page(path: Path, data: bytes) -> None:
    """Writes a page, and its folder where that is not there: the old one or the new, never half of one.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as temporary:
        temporary.write_bytes(data)
