"""Settings of `train --preset` for a kind of machine, between the defaults and the user's own files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from dateshard.shardstore.errors import UsageError, shorten

PRESETS = ("auto", "cpu", "gpu")


def preset_file(name: str) -> Path:
    """The overlay of a preset; `auto` is that of the device that training would take by itself.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset '{shorten(name)}'", todo=f"Choose from {', '.join(PRESETS)}")
    if name == "auto":
        from dateshard.trainer.devices.device import choose

        name = "cpu" if choose("auto").type == "cpu" else "gpu"
    return Path(str(files("dateshard.settings.presets") / f"{name}.yaml"))
