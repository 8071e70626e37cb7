"""Small traces of LLM requests, as BurstGPT writes them, made of a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
DAY = 86_400
Tokens = NDArray[np.int64]


def write_trace(path: Path, times: NDArray[Any], taken: Tokens, given: Tokens) -> Path:
    """Writes requests in BurstGPT's columns."""
    rows = zip(times.tolist(), taken.tolist(), given.tolist(), strict=True)
    lines = [f"{at},ChatGPT,{into},{out},{into + out},Conversation log\n" for at, into, out in rows]
    path.write_text("".join([HEAD + "\n", *lines]))
    return path


def busy_hours(per_date: int, num_dates: int = 3, hours: int = 3, seed: int = 0) -> NDArray[np.int64]:
    """Whole seconds at which requests come: some hours of each date, in order."""
    chance = np.random.default_rng(seed)
    each = [
        date * DAY + np.sort(chance.integers(8 * 3600, (8 + hours) * 3600, size=per_date)) for date in range(num_dates)
    ]
    return np.concatenate(each)


def drifting_tokens(count: int, spread: float = 1.0, drift: float = 0.0, seed: int = 1) -> Tokens:
    """Tokens whose logarithms spread the more the later they come: from `spread` to `spread + drift`."""
    chance = np.random.default_rng(seed)
    spread_R = spread + drift * np.arange(count) / count
    return np.maximum(1, np.exp(5 + spread_R * chance.standard_normal(count))).astype(np.int64)


def small_trace(path: Path, per_date: int = 400, seed: int = 0) -> Path:
    """Three dates of three busy hours each; one request in a hundred fails."""
    times = busy_hours(per_date, seed=seed)
    taken, given = drifting_tokens(len(times), seed=seed + 1), drifting_tokens(len(times), seed=seed + 2)
    given[50::100] = 0
    return write_trace(path, times, taken, given)
