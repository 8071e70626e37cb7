"""The id of a runs folder: it tells the folder from another one at its path, such as the empty one of an unmounted disk.

The file is named so that `mv runs/* elsewhere` takes it along. A folder that was copied as a whole has the same id.
"""

from __future__ import annotations

import errno
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.identity import expected_form, seal, unseal

NAME = "ID"
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP, errno.ENOSYS)  # read-only, or without hard links


def runs_id(folder: Path) -> str | None:
    """The id of a runs folder; None where it has none, as an empty or an absent one.

    Raises:
        DamagedError: its file is not as it was written. OSError: it cannot be read.
    """
    path = folder / NAME
    todo = f"Delete it: the next training writes another; then continue the runs of {folder} that you need"
    try:
        with naming(path):
            data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    with expected_form(str(path), todo):
        known = unseal(data, str(path), todo)["id"]
        if not (isinstance(known, str) and known):
            raise ValueError(known)
        return known


def make_runs_id(folder: Path) -> str | None:
    """The id of a runs folder, given to it if it has none; all processes that do so at once get the same.

    None where no file can be made in the folder, or none can be linked.

    Raises:
        DamagedError: it has one, which is damaged.
    """
    path = folder / NAME
    try:
        if (known := runs_id(folder)) is None:
            half = folder / f".{NAME}.{uuid.uuid4().hex}.tmp"
            with suppress(FileExistsError), appearing(path, half, over=False) as temporary:  # another was first
                temporary.write_bytes(seal({"id": secrets.token_hex(8)}))
                temporary.chmod(0o444)
            known = runs_id(folder)
    except OSError as error:
        if error.errno in NOT_OURS:
            return None
        raise
    return known
