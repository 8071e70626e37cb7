"""Configurations as functions take them: files, trees of plain values, and keywords."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dateshard.settings import Settings, read_layers, validate
from dateshard.settings.presets import preset_file
from dateshard.shardstore.errors import UsageError, shorten
from dateshard.training.flags import FLAGS

Tree = Mapping[str, Any]
Config = str | Path | Tree | Sequence[str | Path | Tree]

SECTIONS = ("dataset", "pipeline", "trainer")


def settings_from(config: Config | None, keywords: Tree, preset: str | None = None) -> Settings:
    """A configuration of files and trees, of which later ones win; over them the environment, over that the keywords.

    Args:
        keywords: sections (`trainer={...}`), keys by their place (`**{"trainer.model.name": "lstm"}`), or the short names
            that are options of `train` (`epochs=5`).

    Raises:
        UsageError: all faults at once, each with its place: file, line and column, or `argument`.
    """
    given = () if config is None else (config,) if isinstance(config, str | Path | Mapping) else tuple(config)
    changes = _nested(keywords)
    if not given and "dataset" not in changes:
        todo = 'Name a file, as in dateshard.train("configs/flights.yaml"), or give dataset=, pipeline= and trainer='
        raise UsageError("no configuration is given", todo=todo)
    files = [_plain(each) if isinstance(each, Mapping) else each for each in given]
    layers = read_layers(files or [{}], (), preset_file(preset) if preset else None)
    layers.merge(changes, "argument")
    return validate(layers.tree, layers.places)


def overrides_of(keywords: Tree) -> list[str]:
    """Keywords as KEY=VALUE, for the settings of a run that is continued."""
    from dateshard.trainer.config import flatten

    return [f"{key}={'null' if value is None else value}" for key, value in flatten(_nested(keywords)).items()]


def _nested(keywords: Tree) -> dict[str, Any]:
    """Keywords as one tree.

    Raises:
        UsageError: a keyword that is no section, no place and no short name.
    """
    tree: dict[str, Any] = {}
    for name, value in keywords.items():
        place = f"trainer.{FLAGS[name]}" if name in FLAGS else name
        *path, last = place.split(".")
        if (path or [last])[0] not in SECTIONS:
            near = difflib.get_close_matches(name, [*FLAGS, *SECTIONS], n=1)
            hint = f"Did you mean {near[0]}=?" if near else f"There are {', '.join([*SECTIONS, *FLAGS])}"
            raise UsageError(f"there is no setting '{shorten(name)}'", todo=hint)
        _put(tree, [*path, last], _plain(value))
    return tree


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Puts a value where it belongs, beside what lies there already."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    held = tree.get(path[-1])
    tree[path[-1]] = {**held, **value} if isinstance(held, dict) and isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    """A value as YAML would have given it: paths and dates are texts there, tuples lists."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path | dt.date) else value
