"""Layered configuration with places: defaults < files in order < environment < KEY=VALUE.

YAML 1.2 through ruamel (12:30 stays text, NO stays text, repeated keys are errors), validated by pydantic. All errors
are reported at once, each with file, line and column.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from pipeline.config import Pipeline
from shardstore.errors import UsageError, Where, shorten
from trainer.config import Trainer

ENVIRONMENT = "DATESHARD__"
MAX_BYTES = 256 << 10
MAX_ALIASES, MAX_VALUES = 50, 200_000  # a bomb of aliases parses in a millisecond and explodes when walked
MAX_DEPTH, MAX_WRITTEN = 24, 20_000  # sections inside each other; keys and values as written
MAX_FAULTS, MOST_LOOKED_AT = 20, 200  # told in one message; compared with each other for that
LONG_TEXT = 64  # so many characters count as one more value: an alias of a long text weighs as much
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class Settings(BaseModel):
    """The whole configuration: one YAML, two halves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,63}$", description="its folder's name under data/shards")]
    pipeline: Pipeline | None = None
    trainer: Trainer = Trainer()

    def preparing(self) -> Pipeline:
        """The pipeline half, which preparing cannot do without."""
        if self.pipeline is None:
            raise UsageError(
                "the configuration has no `pipeline:` half", todo="Add it, or pass the file that has it with -c"
            )
        return self.pipeline


@dataclass(slots=True)
class _Layers:
    """The merged tree, and where each of its keys was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[tuple[str, ...], str] = field(default_factory=dict)

    def merge(self, source: Mapping[str, Any], name: str, path: tuple[str, ...] = ()) -> None:
        target = self.tree
        for part in path:
            target = target[part]
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
    """ruamel's scalars as plain Python values."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def load_settings(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Settings:
    """Reads, merges and validates a configuration.

    Raises:
        UsageError: all faults at once, each with its place.
    """
    if not files:
        raise UsageError("no configuration", todo="Name one with -c, for example -c configs/flights.yaml")
    layers = _Layers()
    for file in files:
        layers.merge(_read(Path(file)), str(file))
    for name, value in sorted(os.environ.items()):
        if name.startswith(ENVIRONMENT):
            _set(layers, name[len(ENVIRONMENT) :].lower().split("__"), value, f"environment {shorten(name)}")
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"'{shorten(text)}' is not KEY=VALUE", todo="Write it like trainer.training.epochs=5")
        _set(layers, path.strip().split("."), value, "override")
    return validate(layers.tree, layers.places)


def apply(settings: Settings, overrides: Sequence[str]) -> Settings:
    """A resolved configuration with KEY=VALUE changes."""
    layers = _Layers()
    layers.merge(settings.model_dump(mode="json"), "run.json")
    for text in overrides:
        path, _, value = text.partition("=")
        _set(layers, path.strip().split("."), value, "override")
    return validate(layers.tree, layers.places)


def validate(
    tree: Mapping[str, Any], places: Mapping[tuple[str, ...], str] | None = None, *, own_models: bool = True
) -> Settings:
    """A tree of plain values -> Settings.

    Args:
        own_models: whether `trainer.model.name` may name code; False for what a client sent.

    Raises:
        UsageError: all faults at once.
    """
    try:
        return Settings.model_validate(dict(tree), context={"own_models": own_models})
    except ValidationError as error:
        found = _without_echoes(error.errors()[:MOST_LOOKED_AT])
        faults = [_describe(fault, places or {}) for fault in found[:MAX_FAULTS]]
        more = len(found) - MAX_FAULTS + max(0, error.error_count() - MOST_LOOKED_AT)
        faults += [f"and {more} more"] if more > 0 else []
        raise UsageError("; ".join(faults) if len(faults) == 1 else "\n  ".join(["", *faults])) from None


def _without_echoes(faults: Sequence[Any]) -> list[Any]:
    """A union reports each of its members; those about the whole value only count where no key inside is named."""
    places = [tuple(map(str, fault["loc"])) for fault in faults]
    kept, told = [], set()
    for fault, place in zip(faults, places, strict=True):
        whole = place[:-1] if place[-1][:1].isupper() or "function-" in place[-1] else place
        deeper = any(other[: len(whole)] == whole and len(other) > len(whole) + 1 for other in places)
        if (deeper and fault["type"] in ("literal_error", "model_type")) or whole in told:
            continue
        told.add(whole)
        kept.append(fault)
    return kept


def _read(file: Path) -> Mapping[str, Any]:
    where = Where(file=str(file))
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", where=where, todo="Name a configuration with -c"
        ) from None
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
        raise UsageError(f"{at}: {problem}", todo="Correct the YAML") from None
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
    depth = aliases = 0
    for count, event in enumerate(_yaml().parse(text)):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        aliases += isinstance(event, AliasEvent)
        tag = getattr(event, "tag", None)
        fault = f"nested deeper than {MAX_DEPTH} sections" if depth > MAX_DEPTH else ""
        fault = f"more than {MAX_WRITTEN:,} keys and values" if count > MAX_WRITTEN else fault
        fault = f"more than {MAX_ALIASES} YAML aliases" if aliases > MAX_ALIASES else fault
        fault = f"the tag {shorten(tag)!r} is refused" if tag and tag != "!" and tag not in PLAIN_TAGS else fault
        if fault:
            mark = event.start_mark
            raise UsageError(f"{name}:{mark.line + 1}:{mark.column + 1}: {fault}", todo="Write plain values out")
    loaded = _yaml().load(text)
    if _explodes(loaded):
        what = f"more than {MAX_VALUES:,} values, aliases included"
        raise UsageError(what, where=Where(file=name), todo="Write them out")
    return loaded


class _Constructor(RoundTripConstructor):
    """Leaves dates as text: 2024-02-30 is then a fault with a place, found where a date is wanted."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.Constructor = _Constructor
    return yaml


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


def _set(layers: _Layers, path: Sequence[str], text: str, name: str) -> None:
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
    for part in reversed(path):
        nested = {part: nested}
    layers.merge(nested, name)


def _describe(fault: Any, places: Mapping[tuple[str, ...], str]) -> str:
    """`configs/x.yaml:9:5: trainer.scheduler.step_size: must be greater than 0 (got 0)`."""
    path = tuple(_known_part(fault["loc"], places))
    dotted = ".".join(map(_shown, path or [str(part) for part in fault["loc"][-1:]]))
    place = next((places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in places), "")
    message = re.sub(r"^\w+ should ", "must ", fault["msg"].removeprefix("Value error, "))
    if fault["type"] == "extra_forbidden":
        message = "unknown key" + _nearest(path)
    elif fault["type"] == "missing":
        message = "is missing"
    elif not isinstance(fault["input"], dict | BaseModel) and fault["type"] != "value_error":
        message = f"{message} (got {_shown(fault['input'], quoted=True)})"
    return ": ".join(part for part in (place, dotted, shorten(message, 400)) if part)


def _shown(value: Any, *, quoted: bool = False) -> str:
    """What was written, on one line and not too long."""
    if isinstance(value, str) and value.isprintable() and not quoted:
        return shorten(value)
    try:
        return shorten(repr(value), 100)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"


def _known_part(loc: Sequence[Any], places: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    """A pydantic place without the tags of unions and the names of types, which nobody wrote."""
    kept: tuple[str, ...] = ()
    for index, part in enumerate(map(str, loc)):
        last = index == len(loc) - 1
        tag = (*kept, part) not in places and bool(kept) and not last and not part.isdigit()
        if (last and re.search(r"[\[(]|^(str|int|float|date|bool)$|^list\[", part)) or (tag and _is_tag(part)):
            continue
        kept = (*kept, part)
        yield part


def _is_tag(part: str) -> bool:
    return (
        part in ("step", "none", "plateau", "cosine", "RunsShuffle") or "function-before" in part or "literal" in part
    )


def _nearest(path: Sequence[str]) -> str:
    """`; did you mean 'epochs'?` from the names of the section that the key was written in."""
    model: Any = Settings
    if not path:
        return ""
    for part in path[:-1]:
        model = _inner_model(model, part)
        if model is None:
            return ""
    if path[-1] in model.model_fields:
        return " for this type of section"
    near = difflib.get_close_matches(path[-1], list(model.model_fields), n=1)
    return f"; did you mean '{near[0]}'?" if near else f" (known: {', '.join(model.model_fields)})"


def _inner_model(model: Any, part: str) -> Any:
    """The section under a key, through optional and mapping types."""
    found = model.model_fields.get(part)
    pending = [found.annotation] if found else []
    while pending:
        kind = pending.pop(0)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        if getattr(kind, "__origin__", None) is dict:
            return _Mapping(kind.__args__[1])
        pending += list(getattr(kind, "__args__", ()))
    return model.inner if isinstance(model, _Mapping) else None


class _Mapping:
    """A mapping of names to sections: any name leads to the section."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.model_fields = inner, dict[str, Any]()
