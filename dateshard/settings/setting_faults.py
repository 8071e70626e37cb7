"""The faults of a configuration: where each was written, which key it is about, and what is wrong with it."""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dateshard.shardstore.errors import UsageError, shorten
from dateshard.terminal.screen import in_a_line

MAX_FAULTS, MOST_LOOKED_AT = 20, 200  # told in one message; compared with each other for that
KINDS = {"tuple_type": "must be a list, as [a, b]", "list_type": "must be a list, as [a, b]"}
KINDS |= {"dict_type": "must be a section, as {name: value}", "model_type": "must be a section, as {name: value}"}
KINDS |= {"model_attributes_type": "must be a section, as {name: value}"}
OTHERS = {"int": "a whole number", "bool": "true, false", "dict": "a section, as {name: value},"}
Places = Mapping[tuple[str, ...], str]  # of each key: where it was written


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a configuration: where it is, of which key, and what is wrong; the first two may be empty.

    `configs/x.yaml:9:5`, `trainer.scheduler.step_size`, `must be greater than 0 (got 0)`."""

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(word for word in (self.place, self.key, self.message) if word)

    @staticmethod
    def of(error: UsageError) -> Fault:
        """A fault that was found before keys could be looked at: a file that cannot be read, or is no YAML."""
        place = str(error.where or "")
        return Fault(place, "", str(error).removeprefix(f"{place}: ") if place else str(error))


class ConfigurationError(UsageError):
    """All faults of one configuration."""

    faults: tuple[Fault, ...] = ()


def configuration_error(faults: Sequence[Fault], more: int = 0) -> ConfigurationError:
    """One error of many faults. The message tells the first and counts the rest, `more` that nobody described included."""
    more += max(0, len(faults) - MAX_FAULTS)
    lines = [*(in_a_line(str(fault)) for fault in faults[:MAX_FAULTS]), *([f"and {more} more"] if more > 0 else [])]
    error = ConfigurationError(lines[0] if len(lines) == 1 else "\n  ".join(["", *lines]))
    error.faults = tuple(faults)
    return error


def faults_of(error: ValidationError, places: Places, model: type[BaseModel]) -> ConfigurationError:
    """What pydantic refused, in words, with its places."""
    errors = _without_echoes(error.errors()[:MOST_LOOKED_AT])
    described = [_describe(fault, places, model) for fault in errors]
    return configuration_error(described, max(0, error.error_count() - MOST_LOOKED_AT))


def place_of(path: Sequence[str], places: Places) -> str:
    """Where a key was written, or the nearest section around it; empty if nobody wrote it."""
    return next((places[tuple(path[:end])] for end in range(len(path), 0, -1) if tuple(path[:end]) in places), "")


def _without_echoes(faults: Sequence[Any]) -> list[Any]:
    """A union reports each of its members; those about the whole value only count where no key inside is named."""
    places = [tuple(map(str, fault["loc"])) for fault in faults]
    kept, seen = list[Any](), set[tuple[str, ...]]()
    for fault, place in zip(faults, places, strict=True):
        whole = place[:-1] if re.match(r"[A-Z]|function-|constrained-|literal|bool$|dict\[", place[-1]) else place
        deeper = any(other[: len(whole)] == whole and len(other) > len(whole) + 1 for other in places)
        if kept and whole in seen and (both := _either(kept[-1], fault)):
            kept[-1] = both
        if (deeper and fault["type"] in ("literal_error", "model_type")) or whole in seen:
            continue
        seen.add(whole)
        kept.append(fault)
    return kept


def _either(first: Any, second: Any) -> Any:
    """One fault of a value that is neither a word nor the number, truth value or section that it might be instead."""
    literal, other = (first, second) if first["type"] == "literal_error" else (second, first)
    kind = OTHERS.get(other["type"].partition("_")[0])
    if literal["type"] != "literal_error" or kind is None or first["loc"][:-1] != second["loc"][:-1]:
        return None
    return {**literal, "msg": f"Input should be {kind} or {literal['ctx']['expected']}"}


def _describe(fault: Any, places: Places, model: type[BaseModel]) -> Fault:
    path = tuple(_known_part(fault["loc"], places))
    dotted = ".".join(map(_shown, path or [str(key) for key in fault["loc"][-1:]]))
    message = re.sub(r"^\w+ should ", "must ", fault["msg"].removeprefix("Value error, "))
    message = KINDS.get(fault["type"], message)
    if fault["type"] == "extra_forbidden":
        message = "unknown key" + _nearest(path, fault["loc"], model)
    elif fault["type"] == "missing":
        message = "is missing"
    elif fault["type"] == "union_tag_invalid":
        message = _no_such_tag(fault["ctx"])
    elif fault["type"] == "string_pattern_mismatch" and path[-1:] == ("custom",):
        message = f"must be my_module:function (got {_shown(fault['input'], quoted=True)})"
    elif fault["type"] == "string_type" and isinstance(fault["input"], int | float | dt.date):
        message = f"must be a text: write {_shown(fault['input'])} in quotes"
    elif not isinstance(fault["input"], dict | BaseModel) and fault["type"] != "value_error":
        message = f"{message} (got {_shown(fault['input'], quoted=True)})"
    return Fault(place_of(path, places), dotted, shorten(message, 400))


def _shown(value: Any, *, quoted: bool = False) -> str:
    """What was written, on one line and not too long."""
    if isinstance(value, str) and value.isprintable() and not quoted:
        return shorten(value)
    try:
        return shorten(repr(value), 100)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"


def _known_part(loc: Sequence[Any], places: Places) -> Iterator[str]:
    """A pydantic place without the tags of unions and the names of types, which nobody wrote."""
    kept: tuple[str, ...] = ()
    for index, key in enumerate(map(str, loc)):
        last = index == len(loc) - 1
        if (*kept, key) not in places:  # else somebody wrote it
            tag = bool(kept) and not last and not key.isdigit() and _is_tag(key)
            if tag or (last and re.search(r"[\[(]|^(str|int|float|date|bool)$|^list\[|^constrained-", key)):
                continue
        kept = (*kept, key)
        yield key


def _is_tag(key: str) -> bool:
    return key in ("step", "none", "plateau", "cosine", "RunsShuffle") or "function-before" in key or "literal" in key


def _no_such_tag(context: Mapping[str, Any]) -> str:
    """Which `type` of section there is none of, and those there are."""
    known = re.findall(r"'([^']*)'", context["expected_tags"])
    near = difflib.get_close_matches(context["tag"], known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    what = f"there is no {context['discriminator'].strip(chr(39))} {_shown(context['tag'], quoted=True)}"
    return f"{what}{hint or '.'} Use {', '.join(known)}"


def _nearest(path: Sequence[str], loc: Sequence[Any], root: type[BaseModel]) -> str:
    """Suggests the nearest name of the section that the key was written in: `; did you mean 'epochs'?`."""
    model: Any = root
    if not path:
        return ""
    kinds: list[Any] = [root]
    for key in path[:-1]:
        kinds = inner_models(model, key)
        if not kinds:
            return ""
        model = next((kind for kind in kinds if _tag(kind) in loc), kinds[0])
    near = difflib.get_close_matches(path[-1], list(model.model_fields), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f" (known: {', '.join(model.model_fields)})"
    others = [_tag(kind) for kind in kinds if path[-1] in kind.model_fields]
    return f" of type {_tag(model)}, it is one of {' and '.join(others)}{hint}" if others else hint


def _tag(kind: Any) -> str:
    """What tells a member of a union from the others: the one value of its `type`."""
    field = kind.model_fields.get("type")
    return str(get_args(field.annotation)[0]) if field and get_args(field.annotation) else ""


def inner_models(model: Any, key: str) -> list[Any]:
    """The section under a key, or those that it may be, through optional and mapping types."""
    field = model.model_fields.get(key)
    pending, models = [field.annotation] if field else [], list[Any]()
    while pending:
        kind = pending.pop(0)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            models.append(kind)
        elif getattr(kind, "__origin__", None) is dict:
            models.append(_Mapping(kind.__args__[1]))
        else:
            pending += list(getattr(kind, "__args__", ()))
    return models or ([model.inner] if isinstance(model, _Mapping) else [])


class _Mapping:
    """A mapping of names to sections: any name leads to the section."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.model_fields = inner, dict[str, Any]()
