"""The body of a start from the words of a command line: a JSON file, and FIELD=VALUE above it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dateshard.shardstore.errors import UsageError, Where, shorten

MOST_BYTES = 1 << 20


def read_fields(words: Sequence[str], file: str | None) -> dict[str, Any]:
    """The fields of a file and of words, of which later ones win; a value is read as YAML.

    Raises:
        UsageError: a word without `=`, or a file that is no JSON object.
    """
    fields = _of_file(file) if file is not None else {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"'{shorten(word)}' is not FIELD=VALUE", todo="Write it like epochs=5")
        try:
            fields[name] = YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError):
            raise UsageError(f"{shorten(name)}: '{shorten(text)}' is not a value", todo="Write it as YAML") from None
    return fields


def _of_file(file: str) -> dict[str, Any]:
    where = Where(file="standard input" if file == "-" else file)
    try:
        if file == "-":
            text = sys.stdin.read(MOST_BYTES + 1)
        else:
            with open(file, encoding="utf-8") as opened:
                text = opened.read(MOST_BYTES + 1)
        fields = json.loads(text)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=where, todo="Name a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is no JSON: {error}", where=where, todo="Correct it") from None
    if not isinstance(fields, dict):
        raise UsageError("holds no JSON object", where=where, todo='Write it like {"name": "night", "epochs": 5}')
    return fields
