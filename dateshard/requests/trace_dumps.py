"""A trace as daily dumps: of its records, and of what came in each minute; and the configurations that read them.

    data/raw/requests/<name>/2001-01-01.parquet           time, part, request_tokens, response_tokens
    data/raw/requests/<name>/minutes/2001-01-01.parquet   time, count, input_tokens, output_tokens

Dumps of the same records have the same name, so that a second training prepares nothing anew.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from dateshard.places import data_folder
from dateshard.requests.trace import Integers, Trace
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.identity import hash_bytes
from dateshard.shardstore.times.instants import date_at

MINUTE = 60 * 10**9
PARTS = ("train", "validation", "test")
SHARES = (0.7, 0.85)  # of the records: where validation begins, and the test set
TOKENS = ("count", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteCounts:
    """What came in each minute.

    Attributes:
        time_M: nanoseconds, where each begins; minutes of a hole are not there.
        values_M3: requests, input tokens, output tokens.
    """

    time_M: Integers
    values_M3: Integers


def minutes_of(trace: Trace) -> MinuteCounts:
    """Counts whole minutes: the first and the last one, which the trace may cut, and those of a hole are left out."""
    minute_R = trace.time_R // MINUTE
    first, last = int(minute_R[0]), int(minute_R[-1])
    place_R = minute_R - first
    sums = [
        np.bincount(place_R, weights=weights, minlength=last - first + 1).astype(np.int64)
        for weights in (None, trace.input_R, trace.output_R)
    ]
    whole_M = np.ones(last - first + 1, dtype=bool)
    whole_M[[0, -1]] = False
    for start in trace.hole_starts().tolist():
        whole_M[place_R[start - 1] : place_R[start] + 1] = False
    time_M = (first + np.flatnonzero(whole_M)) * MINUTE
    return MinuteCounts(time_M=time_M, values_M3=np.stack(sums, axis=1)[whole_M])


def parts_of(trace: Trace) -> list[str]:
    """The part of each record, `train.0` and so on: a share of the records each, and a new number after a hole."""
    edges = [round(share * len(trace)) for share in SHARES]
    starts = sorted({0, *edges, *trace.hole_starts().tolist()})
    named = np.empty(len(trace), dtype=object)
    for number, (low, high) in enumerate(zip(starts, [*starts[1:], len(trace)], strict=True)):
        named[low:high] = f"{number:06}.{PARTS[int(np.searchsorted(edges, low, side='right'))]}"
    return named.tolist()


def name_of(trace: Trace) -> str:
    """A name for the records of a trace: that of its file, and a hash of what they hold."""
    content = b"".join(column.tobytes() for column in (trace.time_R, trace.input_R, trace.output_R))
    stem = re.sub(r"[^a-z0-9]+", "-", Path(trace.file).name.split(".")[0].lower()).strip("-") or "trace"
    return f"requests-{stem[:30]}-{hash_bytes(content)[:8]}"


def write_record_dumps(trace: Trace, name: str) -> Path:
    """Writes a dump a date of the records; returns their folder."""
    frame = pl.DataFrame(
        {
            "time": pl.Series(trace.time_R).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC"),
            "part": parts_of(trace),
            "request_tokens": trace.input_R,
            "response_tokens": trace.output_R,
        }
    )
    return _write(frame, trace.time_R, data_folder() / "raw" / "requests" / name)


def write_minute_dumps(minutes: MinuteCounts, name: str) -> Path:
    """Writes a dump a date of the minutes; returns their folder."""
    columns = dict(zip(TOKENS, minutes.values_M3.T, strict=True))
    time = pl.Series(minutes.time_M).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    frame = pl.DataFrame({"time": time, **columns})
    return _write(frame, minutes.time_M, data_folder() / "raw" / "requests" / name / "minutes")


def _write(frame: pl.DataFrame, time_R: Integers, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for date, rows in by_date(time_R):
        path = folder / f"{date}.parquet"
        if not path.exists():
            with appearing(path, durable=False) as temporary:
                frame[rows].write_parquet(temporary)
    return folder


def by_date(time_R: Integers) -> Iterator[tuple[dt.date, slice]]:
    """Yields each date (in UTC) with its records."""
    day_R = time_R // (1440 * MINUTE)
    edges = np.flatnonzero(np.diff(day_R, prepend=day_R[:1] - 1)).tolist()
    for low, high in zip(edges, [*edges[1:], len(day_R)], strict=True):
        yield date_at(int(time_R[low]), "UTC"), slice(low, high)
