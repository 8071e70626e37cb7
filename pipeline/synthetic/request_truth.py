"""What is true of an invented trace: the bound on what any predictor can explain, and what a request tells of its response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.synthetic.request_load import Floats, Workload, expected_wait, holes
from dateshard.pipeline.synthetic.request_rows import requests_of, successes


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTruth:
    """Shares of variance (R2) over all requests that succeed, over gaps that no hole interrupts.

    Attributes:
        next_gap, next_input, next_output: most that any predictor of the next request can explain that knows everything
            before it, with all sessions and the intensity of all minutes to come.
        output_given_input: most that can be explained of response tokens by the request's own.
        logs_given_input: of their logarithms.
    """

    rows: int
    next_gap: float
    next_input: float
    next_output: float
    output_given_input: float
    logs_given_input: float


def truth_of(workload: Workload) -> RequestTruth:
    """States what is true of a trace. Memory: a date; time: that of making the rows."""
    pairs = {name: _Moments() for name in ("gap", "input", "output", "given", "logs")}
    nothing, rows = holes(workload), 0
    for day in range(workload.num_dates):
        day_rows = successes(requests_of(workload, day))
        wait_R = expected_wait(workload, day, day_rows.exact_R)
        time_R = day_rows.time_R + day * 86_400 * 10**9
        named = {"gap": wait_R, "input": day_rows.next_input_R, "output": day_rows.next_output_R}
        gap_R = np.diff(time_R) / 1e9
        clear_R = np.ones(len(gap_R), dtype=bool)
        if day in nothing:
            clear_R[np.searchsorted(day_rows.exact_R, nothing[day].start * 60) - 1] = False
        pairs["gap"].add(wait_R[:-1][clear_R], gap_R[clear_R])
        for name, truth_R in (("input", day_rows.input_R), ("output", day_rows.output_R)):
            pairs[name].add(named[name][:-1], truth_R[1:])
        log_given_R = np.log(day_rows.given_input_R)
        pairs["given"].add(day_rows.given_input_R, day_rows.output_R)
        pairs["logs"].add(log_given_R, np.log(day_rows.output_R))
        rows += len(day_rows)
    share = {name: each.share for name, each in pairs.items()}
    return RequestTruth(
        rows=rows,
        next_gap=share["gap"],
        next_input=share["input"],
        next_output=share["output"],
        output_given_input=share["given"],
        logs_given_input=share["logs"],
    )


class _Moments:
    """Variances of the means that are to be expected and of what came, over all dates."""

    def __init__(self) -> None:
        self.count, self.sums = 0, np.zeros(4)

    def add(self, expected_R: Floats, came_R: NDArray[Any]) -> None:
        """Takes in a date."""
        self.count += len(came_R)
        came_R = came_R.astype(np.float64)
        self.sums += [expected_R.sum(), (expected_R**2).sum(), came_R.sum(), (came_R**2).sum()]

    @property
    def share(self) -> float:
        """The variance of what is to be expected, as a share of all."""
        if not self.count:
            return float("nan")
        mean = self.sums / self.count
        return float((mean[1] - mean[0] ** 2) / (mean[3] - mean[2] ** 2))
