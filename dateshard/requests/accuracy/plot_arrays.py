"""What plots of a trace need, bounded: requests a minute over its whole time, and how gaps and tokens are distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.requests.trace import Trace
from dateshard.requests.trace_dumps import MINUTE

COLUMNS = 360  # of a chart over time
BINS = 48


def plot_arrays(sample: Trace) -> dict[str, NDArray[Any]]:
    """Arrays that are kept with a model: `load_*` over time, and `bins_*`, `shares_*` of the values.

    `load_mean`, `load_low`, `load_high`: requests a minute in a column, the least and the most of its minutes; `load_time`:
    where it begins. `shares_*` [2, BINS]: of the first 70 % of the records, and of the rest, over logarithms to base 10.
    """
    minute_R = sample.time_R // MINUTE
    first, count = int(minute_R[0]), int(minute_R[-1] - minute_R[0]) + 1
    load_M = np.bincount(minute_R - first, minlength=count)
    edges = np.unique(np.linspace(0, count, min(COLUMNS, count) + 1).astype(np.int64))
    arrays: dict[str, NDArray[Any]] = {
        "load_time": (first + edges[:-1]) * MINUTE,
        "load_mean": np.add.reduceat(load_M, edges[:-1]) / np.diff(edges),
        "load_low": np.minimum.reduceat(load_M, edges[:-1]),
        "load_high": np.maximum.reduceat(load_M, edges[:-1]),
    }
    gap_R = np.diff(sample.time_R) / 1e9
    for name, values_R in (("gap", gap_R), ("request_tokens", sample.input_R), ("response_tokens", sample.output_R)):
        arrays[f"bins_{name}"], arrays[f"shares_{name}"] = _distribution(np.asarray(values_R, dtype=np.float64))
    return arrays


def _distribution(values_R: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns (edges of the bins, shares [2, BINS]) of the logarithms; what is 0 counts in the lowest bin."""
    above = values_R[values_R > 0]
    least = float(np.quantile(above, 0.001)) if len(above) else 1.0
    log_R = np.log10(np.maximum(values_R, least))
    high = float(np.quantile(log_R, 0.9995)) if len(log_R) else 1.0
    edges = np.linspace(np.log10(least), max(high, np.log10(least) + 0.1), BINS + 1)
    border = round(0.7 * len(log_R))
    pieces = (log_R[:border], log_R[border:])
    shares = [np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0] / max(1, len(each)) for each in pieces]
    return edges, np.stack(shares)
