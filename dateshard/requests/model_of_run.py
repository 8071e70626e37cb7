"""Which packed model a training run became: a note in the run's folder says where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dateshard.requests.packed_model import PackedModel, unpack
from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.errors import DateshardError

FILE = "request_model.json"


def note_model(run: Path, packed: Path) -> None:
    """Writes down where the packed model of a run lies."""
    replace_file(run / FILE, json.dumps({"folder": str(packed.resolve())}).encode())


def model_of_run(run: Path) -> PackedModel | None:
    """The packed model of a run; None where it became none, or that is gone or damaged."""
    try:
        noted: Any = json.loads((run / FILE).read_bytes())
        return unpack(Path(noted["folder"]))
    except (OSError, ValueError, KeyError, TypeError, DateshardError):
        return None
