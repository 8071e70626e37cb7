"""A configuration as text: each guess on a line of its own, with what it was guessed from behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLAIN = re.compile(  # texts that YAML reads as they stand: words, steps and rolling ranges
    r"[A-Za-z_][A-Za-z0-9_./ -]*[A-Za-z0-9_./-]|[A-Za-z_]|[0-9]+(ms|[smhd])|(\.\.)?latest-[0-9]+|last:[0-9]+"
)
WORDS = {
    "null",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "nan",
}  # that other readers of YAML take for values
WIDTH = 48  # of a key and its value, behind which what they were guessed from begins in one column


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A key of the configuration, at some depth; no value: a section. `why` stands behind it."""

    depth: int
    key: str
    value: Any = None
    why: str = ""


def written(lines: Iterable[KeyLine], top: Sequence[str]) -> str:
    """The text of a configuration.

    Args:
        top: sentences above it.
    """
    rows = [(f"{'  ' * line.depth}{_head(line)}", _in_a_line(line.why)) for line in lines]
    usual = max((len(row) for row, why in rows if why and len(row) < WIDTH), default=0)
    body = [f"{row:<{usual}}  # {why}" if why else row for row, why in rows]
    return "\n".join([*(f"# {_in_a_line(sentence)}" for sentence in top), *body]) + "\n"


def _head(line: KeyLine) -> str:
    if line.key == "#":
        return f"# {_in_a_line(str(line.value))}"
    return f"{scalar(line.key)}:" if line.value is None else f"{scalar(line.key)}: {flow(line.value)}"


def _in_a_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: ascii(match[0])[1:-1], text)


def flow(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(key))}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return scalar(value) if isinstance(value, str) else f"{value}"


def scalar(text: str) -> str:
    """A text in YAML: plain where no reader takes it for something else."""
    return text if PLAIN.fullmatch(text) and text.lower() not in WORDS else json.dumps(text, ensure_ascii=False)
