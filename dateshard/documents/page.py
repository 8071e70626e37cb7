"""The page of every key that `--json` prints, docs/json.md, made of the JSON Schemas: `make docs` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dateshard.documents import DOCUMENTS, document_schema

Schema = Mapping[str, Any]
KINDS = {"string": "text", "boolean": "true or false"}
SEE = {"evaluate": "metrics.md", "backtest": "metrics.md", "predict": "predicting.md", "export-model": "predicting.md"}


def page(before: str) -> str:
    """Makes the whole page; the text in front of its first section is taken over from `before`."""
    return before.partition("## ")[0] + "\n\n".join("\n".join(_section(name)) for name in DOCUMENTS) + "\n"


def _section(name: str) -> Iterator[str]:
    schema = document_schema(name)
    yield f"## {name}\n"
    if schema["type"] == "array":
        yield f"A {_kind(schema)}."
    else:
        see = f" More in [{SEE[name]}]({SEE[name]})." if name in SEE else ""
        yield f"{schema['description']}{see}\n"
        yield from _table(schema)
    for name_inner, inner in sorted(schema.get("$defs", {}).items()):
        yield f"\n**{name_inner}**: {inner['description']}\n"
        yield from _table(inner)


def _table(schema: Schema) -> Iterator[str]:
    yield from ("| key | what | |", "|---|---|---|")
    for key, kind in schema["properties"].items():
        notes = [kind["description"]] if "description" in kind else []
        notes += ["may be absent"] if key not in schema["required"] else []
        yield f"| `{key}` | {_kind(kind)} | {'; '.join(notes).replace('|', chr(92) + '|')} |"


def _kind(schema: Schema) -> str:
    """Says what a value is: `list of text`, `[CostDocument]`, `number or null`."""
    if "$ref" in schema:
        return f"[{schema['$ref'].rpartition('/')[2]}]"
    if "anyOf" in schema:
        *first, last = [_kind(kind).replace("true or false", "true, false") for kind in schema["anyOf"]]
        return f"{', '.join(first)} or {last}"
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return _kind_of_list(schema)
    if schema.get("type") == "object":
        return _kind_of_object(schema)
    if schema.get("pattern", "").startswith(r"^\d{4}"):
        return "date"
    kind = str(schema.get("type", "value"))
    return KINDS.get(kind, kind)


def _kind_of_object(schema: Schema) -> str:
    for inner in schema.get("patternProperties", {}).values():
        return f"{{date: {_kind(inner)}}}"
    inner = schema.get("additionalProperties")
    return f"{{name: {_kind(inner)}}}" if isinstance(inner, Mapping) and inner else "object"


def _kind_of_list(schema: Schema) -> str:
    items = schema.get("items")
    if not items:
        return "list"
    length = "pair" if schema.get("maxItems") == 2 else "list"
    return f"{length} of {_kind(items)}"


if __name__ == "__main__":
    target = Path("docs/json.md")
    target.write_text(page(target.read_text()))
