"""The page of the public Python API, docs/python.md, made of signatures and docstrings: `make docs` writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = {
    "dateshard": (
        "preprocess",
        "measure_statistics",
        "open",
        "Opened",
        "Windows",
        "DateBatchedLoader",
        "train",
        "Run",
        "runs",
        "predict",
        "Predictor",
        "RequestPredictor",
        "SimpleTrainer",
        "backtest",
        "bench_epoch",
        "train_events",
    ),
    "dateshard.shardstore": (),
    "dateshard.pipeline": (),
    "dateshard.trainer": (),
}
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Memory|Yields):[ \t]*(.*)")
HEAD = """# Python

The public names of the four packages, with their docstrings; everything else may change with any version. `make docs` writes
this page. The commands are in [commands.md](commands.md), notebooks in [notebooks.md](notebooks.md), models
and metrics of your own in [models.md](models.md) and [metrics.md](metrics.md).

Axes of arrays are steps, nodes, features: `[T, N, F]`; a batch has windows in front: `[B, H, N, F]` is a history of H steps.
"""


def python_page() -> str:
    """Makes the whole page."""
    return HEAD + "".join(f"\n{line}" for package in PACKAGES for line in _package(package)) + "\n"


def _package(package: str) -> Iterator[str]:
    module = import_module(package)
    yield f"## {package}\n"
    yield inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0] + "\n"
    for name in PACKAGES[package] or module.__all__:
        yield from _entry(f"{package}.{name}", getattr(module, name))


def _entry(name: str, thing: Any) -> Iterator[str]:
    kind = "class " if inspect.isclass(thing) else ""
    yield f"### {name}\n"
    yield f"```python\n{kind}{name.rpartition('.')[2]}{_signature(thing)}\n```\n"
    yield from _described(thing.__doc__)
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        yield from _members(thing)


def _signature(thing: Any) -> str:
    """The parameters with their types; none of an exception or a configuration, whose keys stand elsewhere."""
    if inspect.isclass(thing) and (issubclass(thing, Exception) or hasattr(thing, "model_fields")):
        return ""
    parameters = [_parameter(parameter) for parameter in inspect.signature(thing).parameters.values()]
    kinds = [parameter.kind for parameter in inspect.signature(thing).parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    given = ", ".join(parameters)
    back = "" if inspect.isclass(thing) else f" -> {_plain(str(inspect.signature(thing).return_annotation))}"
    return f"({given}){back}" if len(given) < 90 else "(\n    " + ",\n    ".join(parameters) + f",\n){back}"


def _parameter(parameter: inspect.Parameter) -> str:
    default = parameter.default
    shown = "..." if type(default).__name__ in ("_HAS_DEFAULT_FACTORY_CLASS", "FieldInfo") else _written(default)
    ending = "" if default is inspect.Parameter.empty else f" = {_plain(shown)}"
    return f"{parameter.name}: {_plain(str(parameter.annotation))}{ending}"


def _written(default: Any) -> str:
    """A default as code writes it: functions and classes by their name, which is the same in every process."""
    return str(default.__name__) if inspect.isroutine(default) or inspect.isclass(default) else repr(default)


def _plain(text: str) -> str:
    """A type without the modules that its names stand in."""
    return re.sub(r"(?<![\w.])(?:[a-z_]+\.)+(?=[A-Za-z])", "", text)


def _members(thing: type) -> Iterator[str]:
    """Methods and properties that the class itself defines, a line each."""
    rows = []
    for name, member in vars(thing).items():
        bare = (
            getattr(member, "__func__", None)
            or getattr(member, "fget", None)
            or getattr(member, "func", None)
            or member
        )
        if name.startswith("_") or not inspect.isfunction(bare) or not bare.__doc__:
            continue
        call = (
            "" if isinstance(member, property) or hasattr(member, "attrname") else "(" + ", ".join(_named(bare)) + ")"
        )
        rows.append(
            f"- `{name}{call}`: {inspect.cleandoc(bare.__doc__).partition(chr(10) + chr(10))[0].replace(chr(10), ' ')}"
        )
    if rows:
        yield "\n".join(["**Members:**\n", *rows]) + "\n"


def _named(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _described(doc: str | None) -> Iterator[str]:
    """A docstring as Markdown: its sections in bold, their entries as a list."""
    for block in inspect.cleandoc(doc or "").split("\n\n"):
        match = SECTION.match(block)
        if match is None:
            yield block + "\n"
            continue
        body = inspect.cleandoc(block.partition("\n")[2]) if "\n" in block else ""
        entries = [" ".join(map(str.strip, entry.split("\n"))) for entry in re.split(r"\n(?=\S)", body) if entry]
        rows = [re.sub(r"^([\w, ]+):", r"`\1`:", entry) for entry in entries]
        if match[2]:
            yield f"**{match[1]}:** {' '.join([match[2], *entries])}\n"
        else:
            yield "\n".join([f"**{match[1]}:**\n", *(f"- {row}" for row in rows)]) + "\n"


if __name__ == "__main__":
    Path("docs/python.md").write_text(python_page())
