"""What is written down of a preprocess: rows of the sources file, and the account of all rows at its end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.plan import Dump
from pipeline.rows import Rows
from shardstore.errors import DateshardError


def dump_row(dump: Dump | None) -> dict[str, Any]:
    """Which bytes a date was made of."""
    if dump is None:
        return {"path": "", "size": 0, "hash": ""}
    return {"path": str(dump.path), "size": dump.size, "hash": dump.hash}


def failure_row(error: DateshardError, key: str, dump: Dump | None, tolerated: str) -> dict[str, Any]:
    """Why a date failed, and under which tolerance: when either changes, it is tried again."""
    return {"staged": key, "what": str(error), "kind": error.kind, "dump": dump_row(dump), "tolerated": tolerated}


def total(rows_by_date: Mapping[dt.date, Mapping[str, Any]], cut: Rows | None = None) -> dict[str, Any]:
    """{read, accepted, rejected: {reason: rows}, changed: {reason: values}, by_date} over all dates.

    Args:
        cut: of the file of many dates that was cut before: rows that it left out belong to no date. Adds `cut`.
    """
    rows: dict[str, Any] = {"read": 0, "accepted": 0, "rejected": {}, "changed": {}}
    outside = [{**asdict(cut), "read": cut.read - cut.accepted, "accepted": 0}] if cut else []
    for found in [*rows_by_date.values(), *outside]:
        rows["read"] += found["read"]
        rows["accepted"] += found["accepted"]
        for kind in ("rejected", "changed"):
            for reason, count in found[kind].items():
                rows[kind][reason] = rows[kind].get(reason, 0) + count
    rows |= {"cut": asdict(cut)} if cut else {}
    return rows | {"by_date": {str(date): dict(found) for date, found in sorted(rows_by_date.items())}}
