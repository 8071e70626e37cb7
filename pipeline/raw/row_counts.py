"""The row counts of a dump, made by `bad_rows`: read, accepted, rejected and changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of a dump's rows: read = accepted + the sum of rejected.

    Attributes:
        rejected: {reason: rows} that are left out.
        changed: {reason: values} that were made missing or moved to a bound in rows that stay.
    """

    read: int
    accepted: int
    rejected: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)


def with_columns(rows: Mapping[str, Any], conflicts: Mapping[str, int]) -> Mapping[str, Any]:
    """The account of a date as it is told: with the raw columns in which rows of one node and instant differ."""
    duplicates = rows.get("duplicates")
    return {**rows, "duplicates": {**duplicates, "columns": dict(conflicts)}} if duplicates else rows
