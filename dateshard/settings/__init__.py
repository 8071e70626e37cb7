"""Layered configuration with places: defaults < files in order < environment < KEY=VALUE.

YAML 1.2 through ruamel (12:30 stays text, NO stays text, repeated keys are errors), validated by pydantic. All errors
are reported at once, each with file, line and column.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.parser import RoundTripParser
from ruamel.yaml.scanner import Scanner

from dateshard.pipeline.config import Pipeline
from dateshard.settings.setting_faults import Places, faults_of, inner_models
from dateshard.shardstore.errors import UsageError, Where, refuse_special, shorten
from dateshard.trainer.config import Trainer

ENVIRONMENT = "DATESHARD__"
MAX_BYTES = 256 << 10
MAX_ALIASES, MAX_VALUES = 50, 200_000  # a bomb of aliases parses in a millisecond and explodes when walked
MAX_DEPTH, MAX_WRITTEN = 24, 20_000  # sections inside each other; keys and values as written
LONG_TEXT = 64  # so many characters count as one more value: an alias of a long text weighs as much
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class Settings(BaseModel):
    """The whole configuration: one YAML, two halves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,63}$", description="its folder's name under data/shards")]
    pipeline: Pipeline | None = None
    trainer: Trainer = Trainer()

    @model_validator(mode="before")
    @classmethod
    def _one_node_is_called_like_the_dataset(cls, given: Any) -> Any:
        pipeline: Any = given.get("pipeline") if isinstance(given, Mapping) else None
        source = pipeline.get("source") if isinstance(pipeline, Mapping) else None
        if not isinstance(source, Mapping) or any(source.get(key) for key in ("node", "wide", "node_name")):
            return given
        if "{node}" in str(source.get("path")):
            return given
        return {**given, "pipeline": {**pipeline, "source": {**source, "node_name": given.get("dataset")}}}

    @model_validator(mode="before")
    @classmethod
    def _a_window_of_a_table_is_a_row(cls, given: Any) -> Any:
        pipeline: Any = given.get("pipeline") if isinstance(given, Mapping) else None
        if not isinstance(pipeline, Mapping) or pipeline.get("layout") != "table":
            return given
        trainer = given.get("trainer", {})
        window: Any = trainer.get("window", {}) if isinstance(trainer, Mapping) else None
        if not isinstance(window, Mapping):
            return given
        return {**given, "trainer": {**trainer, "window": {"history": 1, "horizon": 0, **window}}}

    @field_validator("trainer")
    @classmethod
    def _no_window_joins_rows_of_a_table(cls, trainer: Trainer, info: ValidationInfo) -> Trainer:
        pipeline = info.data.get("pipeline")
        if pipeline is not None and pipeline.layout == "table" and (wrong := trainer.window.wrong_for_rows):
            raise ValueError(f"window {wrong}")
        return trainer

    def preparing(self) -> Pipeline:
        """The pipeline half, which preparing cannot do without."""
        if self.pipeline is None:
            raise UsageError(
                "the configuration has no section `pipeline:`", todo="Add it, or pass the file that has it with -c"
            )
        return self.pipeline


@dataclass(slots=True)
class Layers:
    """The merged tree, and where each of its keys was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[tuple[str, ...], str] = field(default_factory=dict)

    def merge(self, source: Mapping[str, Any], name: str, path: tuple[str, ...] = ()) -> None:
        target = self.tree
        for key in path:
            target = target[key]
        for raw_key, value in source.items():
            if raw_key is not None and not isinstance(raw_key, str | int | float):
                raise UsageError("a key is one word", where=Where(file=name), todo="Correct the YAML")
            here = (*path, str(raw_key))
            self.places[here] = _place(source, raw_key, name)
            if isinstance(value, Mapping):
                if not isinstance(target.get(str(raw_key)), dict) or self._other_type(target[str(raw_key)], value):
                    target[str(raw_key)] = {}
                self.merge(value, name, here)
            else:
                target[str(raw_key)] = _plain(value)

    @staticmethod
    def _other_type(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """A section of another `type` starts afresh: the old one's keys would not fit it."""
        return "type" in new and new.get("type") != old.get("type")


def _place(source: Mapping[str, Any], raw_key: Any, name: str) -> str:
    if isinstance(source, CommentedMap) and raw_key in (source.lc.data or ()):  # a merged key has no place of its own
        line, column = source.lc.data[raw_key][:2]  # of the key
        return f"{name}:{line + 1}:{column + 1}"
    return name


def _plain(value: Any) -> Any:
    """Returns ruamel's scalars as plain Python values."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def load_settings(files: Sequence[str | Path], overrides: Sequence[str] = (), preset: Path | None = None) -> Settings:
    """Reads, merges and validates a configuration.

    Args:
        preset: a file that lies below all others.

    Raises:
        UsageError: all faults at once, each with its place.
    """
    layers = read_layers(files, overrides, preset)
    return validate(layers.tree, layers.places)


def read_layers(
    files: Sequence[str | Path | Mapping[str, Any]], overrides: Sequence[str] = (), preset: Path | None = None
) -> Layers:
    """The preset, files (or their trees) in order, then the environment, then KEY=VALUE; nothing is validated yet.

    Raises:
        UsageError: a file or value that cannot be read.
    """
    if not files:
        raise UsageError("no configuration", todo="Name one with -c, for example -c configs/flights.yaml")
    layers = Layers()
    if preset is not None:
        layers.merge(read_file(preset), f"preset {preset.stem}")
    for file in files:
        if isinstance(file, Mapping):
            layers.merge(file, "argument")
        else:
            layers.merge(read_file(Path(file)), str(file))
    for name, value in sorted(os.environ.items()):
        if name.startswith(ENVIRONMENT):
            keys = _as_spelled(name[len(ENVIRONMENT) :].split("__"), layers.tree)
            _set(layers, keys, value, f"environment {shorten(name)}")
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"'{shorten(text)}' is not KEY=VALUE", todo="Write it like trainer.training.epochs=5")
        _set(layers, path.strip().split("."), value, "override")
    return layers


def _as_spelled(path: Sequence[str], tree: Any) -> list[str]:
    """An environment variable's names as the files or the schema spell them: it is written in capitals, T_max is not."""
    keys, kinds = list[str](), list[Any]([Settings])
    for given_key in path:
        names = [*(tree if isinstance(tree, Mapping) else ()), *(name for kind in kinds for name in kind.model_fields)]
        alike = [name for name in names if name.lower() == given_key.lower()]
        name = given_key if given_key in alike else next(iter(alike), given_key.lower())
        keys.append(name)
        tree = tree.get(name) if isinstance(tree, Mapping) else None
        kinds = [inner for kind in kinds for inner in inner_models(kind, name)]
    return keys


def apply(settings: Settings, overrides: Sequence[str]) -> Settings:
    """A resolved configuration with KEY=VALUE changes."""
    layers = Layers()
    layers.merge(settings.model_dump(mode="json"), "run.json")
    for text in overrides:
        path, _, value = text.partition("=")
        _set(layers, path.strip().split("."), value, "override")
    return validate(layers.tree, layers.places)


def validate(tree: Mapping[str, Any], places: Places | None = None, *, own_models: bool = True) -> Settings:
    """A tree of plain values -> Settings.

    Args:
        own_models: whether code may be named (a model, a metric, a format); False for what a client sent.

    Raises:
        UsageError: all faults at once.
    """
    try:
        return Settings.model_validate(dict(tree), context={"own_models": own_models})
    except ValidationError as error:
        raise faults_of(error, places or {}, Settings) from None


def _others() -> str:
    """Configurations that do lie here, or which folder `here` is."""
    there = sorted(str(path) for folder in (Path(), Path("configs")) for path in folder.glob("*.y*ml"))[:5]
    return f"; here there is {', '.join(there)}" if there else f"; paths begin at {Path.cwd()}"


def read_file(file: Path) -> Mapping[str, Any]:
    """One file's mapping, with the place of each key."""
    where = Where(file=str(file))
    try:
        refuse_special(file)
        with open(file, "rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        todo = "Name a configuration with -c" + (_others() if isinstance(error, FileNotFoundError) else "")
        raise UsageError(f"cannot be read: {error.strerror}", where=where, todo=todo) from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"larger than {MAX_BYTES >> 10} kB: no configuration", where=where, todo="Name another file")
    try:
        loaded = _load(data.decode(), str(file))
    except UnicodeDecodeError:
        raise UsageError("not UTF-8", where=where, todo="Save the file as UTF-8") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        problem = shorten(str(error.problem).splitlines()[0], 200)
        raise UsageError(problem, where=Where(file=at), todo="Correct the YAML") from None
    except (YAMLError, ValueError, RecursionError) as error:
        first = shorten(str(error).splitlines()[0], 200)
        raise UsageError(f"not YAML: {first}", where=where, todo="Correct the file") from None
    if not isinstance(loaded, Mapping):
        raise UsageError("a configuration is a mapping of keys", where=where, todo="Begin with `dataset: NAME`")
    return loaded


def _load(text: str, name: str) -> Any:
    """YAML that is plain and of bounded size once its aliases are followed; looked through before it is built.

    Raises:
        UsageError: naming the place. YAMLError, ValueError: not YAML.
    """
    yaml = YAML(typ="rt")
    yaml.Scanner, yaml.Parser, yaml.Constructor = Scanner, partial(_Parser, name), _Constructor
    loaded = yaml.load(text)
    if _explodes(loaded):
        what = f"more than {MAX_VALUES:,} values, aliases included"
        raise UsageError(what, where=Where(file=name), todo="Write them out")
    return loaded


class _Parser(RoundTripParser):
    """Refuses what is no plain or bounded YAML, event by event: nothing is built before the last one has come."""

    def __init__(self, name: str, loader: Any) -> None:
        super().__init__(loader=loader)
        self.name, self.count, self.depth, self.aliases = name, -1, 0, 0

    def get_event(self) -> Any:
        event = super().get_event()
        self.count += 1
        self.depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        self.aliases += isinstance(event, AliasEvent)
        tag = getattr(event, "tag", None)
        fault = f"nested deeper than {MAX_DEPTH} sections" if self.depth > MAX_DEPTH else ""
        fault = f"more than {MAX_WRITTEN:,} keys and values" if self.count > MAX_WRITTEN else fault
        fault = f"more than {MAX_ALIASES} YAML aliases" if self.aliases > MAX_ALIASES else fault
        fault = f"the tag {shorten(tag)!r} is refused" if tag and tag != "!" and tag not in PLAIN_TAGS else fault
        if fault:
            mark = event.start_mark
            where = Where(file=f"{self.name}:{mark.line + 1}:{mark.column + 1}")
            raise UsageError(fault, where=where, todo="Write plain values out")
        return event


class _Constructor(RoundTripConstructor):
    """Leaves dates as text: 2024-02-30 is then a fault with a place, found where a date is wanted."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def _explodes(loaded: Any) -> bool:
    """Whether a loaded value has too many values once its aliases are followed; one that holds itself never ends."""
    pending, count = [loaded], 0
    while pending and count <= MAX_VALUES:
        value = pending.pop()
        count += 1 + (len(value) // LONG_TEXT if isinstance(value, str) else 0)
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return count > MAX_VALUES


def _set(layers: Layers, path: Sequence[str], text: str, name: str) -> None:
    """Puts one override, its value read as YAML, into the tree."""
    place = f"{name} {shorten('.'.join(path))}".strip()
    if len(path) > MAX_DEPTH:
        raise UsageError(
            f"{place}: nested deeper than {MAX_DEPTH} sections", todo="Write it like trainer.training.epochs=5"
        )
    if len(text) > MAX_BYTES:
        raise UsageError(f"{place}: larger than {MAX_BYTES >> 10} kB", todo="Put it into a file")
    try:
        value = _load(text, place) if text.strip() else None
    except (YAMLError, ValueError, RecursionError) as error:
        what = f"{place}: '{shorten(text)}' is not a value: {shorten(str(error).splitlines()[0], 200)}"
        raise UsageError(what, todo="Write it as YAML, quoted if need be") from None
    nested: Any = value
    for key in reversed(path):
        nested = {key: nested}
    layers.merge(nested, name)
