"""JSON for people, indented by one blank a level, at the cost of JSON on one line.

Python's own encoder takes several calls for each value as soon as it indents, and a document may have one for every node.
"""

from __future__ import annotations

import json

PLAIN = {str, int, float, bool, type(None)}


def indented(value: object, *, ascii_only: bool = True, level: int = 1) -> str:
    """What `json.dumps(value, indent=1, allow_nan=False)` gives; the values of a plain list cost no call.

    Args:
        level: of what stands in `value`.

    Raises:
        ValueError: a number that JSON has no word for.
    """
    inside, end = "\n" + " " * level, "\n" + " " * (level - 1)
    encoder = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False, separators=("," + inside, ": "))
    if isinstance(value, dict) and value:
        rows = ((encoder.encode({key: 0})[1:-1].removesuffix("0"), inner) for key, inner in value.items())
        texts = [key + indented(inner, ascii_only=ascii_only, level=level + 1) for key, inner in rows]
        return "{" + inside + ("," + inside).join(texts) + end + "}"
    if not isinstance(value, list | tuple) or not value:
        return encoder.encode(value)
    if {*map(type, value)} <= PLAIN:
        return "[" + inside + encoder.encode(value)[1:-1] + end + "]"
    texts = [indented(inner, ascii_only=ascii_only, level=level + 1) for inner in value]
    return "[" + inside + ("," + inside).join(texts) + end + "]"
