"""The page of every key that `--json` prints, docs/json.md, made of the JSON Schemas: `make docs` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dateshard.documents import DOCUMENTS, WRITTEN_OUT, document_schema

Schema = Mapping[str, Any]
KINDS = {"string": "text", "boolean": "true or false"}
SEE = {"evaluate": "metrics.md", "predict": "predicting.md"}
WRITTEN = {
    "inspect": "What the shards hold: figures are of observed cells, raw and scaled.",
    "statistics": "The frozen statistics, in units after the transform; with `--by-date` and `--drift` the rows of dates.",
    "diff": "What changed between two generations.",
}


def page(before: str) -> str:
    """Makes the whole page; the text in front of its first section is taken over from `before`."""
    sections = ["\n".join(_section(name)) for name in DOCUMENTS] + [
        "\n".join(_written_out(name)) for name in WRITTEN_OUT
    ]
    return before.partition("## ")[0] + "\n\n".join(sections) + "\n"


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
    if isinstance(kinds := schema.get("type"), list):
        return _kind({"anyOf": [{**schema, "type": kind} for kind in kinds]})
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
    items = schema.get("items") or (schema.get("prefixItems") or [None])[0]
    if not items or "properties" in items:
        return "list"
    length = "pair" if schema.get("maxItems", len(schema.get("prefixItems", ()))) == 2 else "list"
    return f"{length} of {_kind(items)}"


def _written_out(name: str) -> Iterator[str]:
    yield f"## {name}\n\n{WRITTEN[name]} Of a list the keys are those of its items.\n"
    yield from ("| key | what |", "|---|---|")
    yield from (f"| `{path}` | {_kind(kind)} |" for path, kind in _paths(document_schema(name), ""))


def _paths(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    """Walks the dotted keys of a schema with what they are; of a list its items' keys."""
    for branch in (schema, schema.get("items") or {}, *schema.get("anyOf", ())):
        for key, inner in branch.get("properties", {}).items():
            yield prefix + key, inner
            yield from _paths(inner, f"{prefix}{key}.")


if __name__ == "__main__":
    target = Path("docs/json.md")
    target.write_text(page(target.read_text()))
