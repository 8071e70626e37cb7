"""Which folders may name code that is imported: those that this user trained or prepared here, or has trusted by name.

A run, a checkpoint and a dataset keep their settings, and settings may name code (`my_models:build`). Who sends such a
folder chooses what runs. So the names in it are imported only where this user's own record has them beside the folder's
path; the record lies where no folder that is sent can bring it along (docs/decisions/0048).

$XDG_STATE_HOME/dateshard/trusted/<hash of path and name>      one small file each; removing it takes the trust back
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from dateshard.pipeline.config import Pipeline
from dateshard.settings import Settings, validate
from dateshard.shardstore.commands import by_door
from dateshard.shardstore.errors import UntrustedError, Where, shorten
from dateshard.trainer.config import Trainer, code_of_baseline

if TYPE_CHECKING:
    from dateshard.trainer.runs.run_folder import TrainingRun  # with torch, which preparing never needs

_admitted = set[str]()  # in this process: where the record cannot be written, trust lasts as long as the command


def code_of(settings: Trainer | Pipeline) -> dict[str, str]:
    """The code that one half of a configuration names, as {setting: `my_module:name`}."""
    if isinstance(settings, Pipeline):
        named = {"source.format": settings.source.format}
    else:
        named = {"model.name": settings.model.name, "metrics.custom": settings.metrics.custom or ""}
        named["training.loss"] = settings.training.loss
        named |= {f"training.losses.{name}.loss": head.loss for name, head in (settings.training.losses or {}).items()}
        codes = [code_of_baseline(name) for name in settings.baselines or ()]
        named |= {f"baselines[{place}]": code for place, code in enumerate(codes) if code is not None}
    return {setting: name for setting, name in named.items() if ":" in name}


def settings_of_run(run: TrainingRun, *, recover: bool = False, trust: bool = False) -> Settings:
    """The resolved configuration that a run was started with, which is safe to build from.

    Args:
        recover: where run.json is damaged, take that of the newest good checkpoint.
        trust: the user trusts the code that it names, from now on.

    Raises:
        UntrustedError: it names code, and was not made here.
    """
    record = (run.facts_or_recovered() if recover else None) or run.facts()
    settings = validate({"dataset": record.bound.data.name, "trainer": record.config})
    check_trust(run.folder, code_of(settings.trainer), f"run {run.name}", trust=trust)
    return settings


def admit(folder: Path, code: Mapping[str, str]) -> None:
    """Records that this folder may name this code ({setting: dotted name}): the user named it himself, or trusts it."""
    for name in code.values():
        key = _key(folder, name)
        _admitted.add(key)
        with suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
            _record().mkdir(parents=True, exist_ok=True, mode=0o700)
            (_record() / key).write_text(f"{name} {folder.resolve()}\n", encoding="utf-8")


def check_trust(folder: Path, code: Mapping[str, str], what: str, *, trust: bool) -> None:
    """Refuses a folder whose settings name code that the user neither named for it nor trusts.

    Args:
        what: the run, checkpoint or dataset as messages name it.
        trust: the user trusts it from now on.

    Raises:
        UntrustedError: naming the code. Nothing of it was imported.
    """
    if trust:
        admit(folder, code)
    unknown = {setting: name for setting, name in code.items() if not _is_admitted(_key(folder, name))}
    if unknown:
        names = " and ".join(f"{shorten(name)} ({setting})" for setting, name in unknown.items())
        raise UntrustedError(
            f"{what} names code, {names}, and was not made here: it came from elsewhere, was moved, or was made by an older "
            "version. Nothing of it was imported",
            where=Where(file=shorten(str(folder), 200)),
            todo=f"If you trust whoever made it, give {by_door('--trust', 'trust=True')} once",
        )


def _record() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "dateshard" / "trusted"


def _key(folder: Path, name: str) -> str:
    return sha256(f"{folder.resolve()}\0{name}".encode(errors="surrogateescape")).hexdigest()


def _is_admitted(key: str) -> bool:
    if key in _admitted:
        return True
    with suppress(OSError, RuntimeError):
        return (_record() / key).is_file()
    return False
