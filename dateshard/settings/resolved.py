"""A configuration looked at: what it resolves to, where each value came from, and all that is wrong with it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from dateshard.settings import Settings, read_file, read_layers, validate
from dateshard.settings.setting_faults import ConfigurationError, Fault, Places, place_of
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import flatten, mismatch

DEFAULT = "default"
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # keys that some reader takes for no text
COMMENT_COLUMN = 44


def resolve(
    files: Sequence[str], overrides: Sequence[str], preset: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """The settings, and {dotted key: where its value came from}.

    An origin is `default`, `preset cpu:4:3`, `configs/x.yaml:9:5`, `environment DATESHARD__...` or `override`.

    Raises:
        UsageError: all faults at once.
    """
    layers = read_layers(files, overrides, preset)
    settings = validate(layers.tree, layers.places)
    leaves = flatten(settings.model_dump(mode="json"))
    return settings, {key: origin_of(key, layers.places) for key in leaves}


def origin_of(key: str, places: Places) -> str:
    """Finds where a dotted key was set; feature names may hold dots, so that parts are joined until they fit."""
    return next((place for path, place in places.items() if ".".join(path) == key), DEFAULT)


def choose(settings: Settings, keys: Sequence[str]) -> dict[str, Any]:
    """The resolved tree, of `keys` (dotted, whole sections too) only those.

    Raises:
        UsageError: a key that is not there.
    """
    tree: dict[str, Any] = settings.model_dump(mode="json")
    if not keys:
        return tree
    known, chosen = list(_sections(tree)), dict[str, Any]()
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"{command('config', 'show', config=True)} prints all"
            raise UsageError(f"'{key}' is not a key of this configuration", todo=hint)
        _copy(tree, chosen, key)
    return chosen


def _sections(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _sections(value, f"{prefix}{name}.")


def _copy(tree: Mapping[str, Any], target: dict[str, Any], key: str) -> None:
    for name, value in tree.items():
        if key == name:
            target[name] = value
        elif key.startswith(f"{name}.") and isinstance(value, dict):
            _copy(value, target.setdefault(name, {}), key.removeprefix(f"{name}."))


def to_yaml(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Lines of YAML that give the same settings again, each with its value's origin as a comment."""
    for name, value in tree.items():
        key = name if PLAIN_KEY.fullmatch(name) and name not in WORDS else json.dumps(name, ensure_ascii=False)
        start = f"{'  ' * depth}{key}:"
        if isinstance(value, dict) and value:
            yield start
            yield from to_yaml(value, origins, f"{prefix}{name}.", depth + 1)
        else:
            text = f"{start} {json.dumps(value, ensure_ascii=False)}"
            yield f"{text:<{COMMENT_COLUMN}}  # {origins.get(prefix + name, DEFAULT)}"


def check(files: Sequence[str], overrides: Sequence[str]) -> tuple[Settings | None, list[Fault]]:
    """The settings, if anything can be read of them, and every fault of all files.

    Beside the schema: features that the trainer asks for and the pipeline does not make, losses that miss a target.
    """
    faults = [fault for file in files if (fault := _unreadable(file))]
    if faults:
        return None, faults
    try:
        layers = read_layers(files, overrides)
        settings = validate(layers.tree, layers.places)
    except ConfigurationError as error:
        return None, list(error.faults)
    except UsageError as error:
        return None, [Fault.of(error)]
    faults = [*_unknown_features(settings, layers.places), *_uncovered(settings, layers.places)]
    return settings, faults


def _unreadable(file: str) -> Fault | None:
    try:
        read_file(Path(file))
    except UsageError as error:
        return Fault.of(error)
    return None


def _unknown_features(settings: Settings, places: Places) -> Iterator[Fault]:
    if settings.pipeline is None:
        return
    known = list(settings.pipeline.features)
    for name in ("inputs", "targets"):
        for feature in getattr(settings.trainer, name) or ():
            if feature not in known:
                near = difflib.get_close_matches(feature, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else f" (known: {', '.join(known)})"
                message = f"'{feature}' is no feature of pipeline.features{hint}"
                yield Fault(place_of(["trainer", name], places), f"trainer.{name}", message)


def _uncovered(settings: Settings, places: Places) -> Iterator[Fault]:
    """Targets that no loss of several has, or two of them have."""
    trainer, losses = settings.trainer, settings.trainer.training.losses
    targets = trainer.targets or (list(settings.pipeline.features) if settings.pipeline else None)
    if losses and targets and (what := mismatch(losses, targets)):
        yield Fault(place_of(["trainer", "training", "losses"], places), "trainer.training.losses", what)


def configuration_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the whole configuration, for editors and clients."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **Settings.model_json_schema()}
