"""The load of a trace in work: weighed tokens of each second and of each interval.

Legend: K intervals, S seconds (S = K x seconds of an interval).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dateshard.requests.request_settings import held_out_dates
from dateshard.requests.trace import Trace
from dateshard.requests.trace_dumps import SHARES, minutes_of
from dateshard.shardstore.errors import DumpError, UsageError, Where
from dateshard.shardstore.scaling.transform import Floats
from dateshard.shardstore.times.calendar import midnight

SECOND = 10**9
FEWEST = 60  # intervals of each part: to learn from, to choose dials on, to replay
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How a fleet serves, and what is asked of it.

    Attributes:
        capacity: work that a replica does in a second. input_weight, output_weight: work of a token.
        cold_start: seconds from the order of a replica until it serves; objective: that a request may wait.
        interval: seconds between decisions. fewest: replicas that always run.
    """

    capacity: float
    input_weight: float = 0.1
    output_weight: float = 1.0
    cold_start: float = 180.0
    objective: float = 10.0
    interval: int = 60
    fewest: int = 1

    @property
    def lead(self) -> int:
        """Whole intervals that a replica must be ordered ahead."""
        return int(np.ceil(self.cold_start / self.interval))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came, from the first whole interval of a trace to the last.

    Attributes:
        start: nanoseconds, where the first interval begins. work_S: of each second; requests_S: how many came.
        seen_K: False where an interval touches a hole of the trace.
        tuning, first: intervals where the part begins that dials are chosen on, and the held-out part after it.
    """

    start: int
    interval: int
    work_S: Floats
    requests_S: Integers
    seen_K: NDArray[np.bool_]
    tuning: int
    first: int

    @property
    def before(self) -> Load:
        """The load before the held-out part, with the part that dials are chosen on in its place."""
        seconds = self.first * self.interval
        return replace(
            self,
            work_S=self.work_S[:seconds],
            requests_S=self.requests_S[:seconds],
            seen_K=self.seen_K[: self.first],
            first=self.tuning,
        )

    @property
    def interval_work(self) -> Floats:
        """Returns [K] work."""
        work: Floats = self.work_S.reshape(-1, self.interval).sum(axis=1)
        return work

    @property
    def times(self) -> Integers:
        """Returns [K] nanoseconds, where each interval begins."""
        return self.start + np.arange(len(self.seen_K)) * self.interval * SECOND


def load_of(trace: Trace, service: Service) -> Load:
    """Weighs a trace's tokens, and divides its time. Memory: 24 bytes a second of the trace.

    Raises:
        DumpError: the trace is too short.
    """
    width = service.interval * SECOND
    start = -(-int(trace.time_R[0]) // width) * width
    num_intervals = (int(trace.time_R[-1]) - start) // width
    place_R = (trace.time_R - start) // SECOND
    inside_R = (place_R >= 0) & (place_R < num_intervals * service.interval)
    place_R, length = place_R[inside_R], max(0, num_intervals * service.interval)
    weighed_R = service.input_weight * trace.input_R[inside_R] + service.output_weight * trace.output_R[inside_R]
    tuning, first = (-(-(time - start) // width) for time in _borders(trace))
    counts = (tuning, first - tuning, num_intervals - first)
    if min(counts) < FEWEST:
        held = " + ".join(f"{max(0, count)}" for count in counts)
        what = (
            f"it holds {held} whole intervals of {service.interval} s to learn from, to choose dials on, and to replay"
        )
        what += f"; a judgement needs {FEWEST} of each"
        raise DumpError(what, where=Where(file=trace.file), todo="Give a longer trace, or a shorter --length")
    seen_K = np.ones(num_intervals, dtype=bool)
    for place in trace.hole_starts().tolist():
        low, high = ((int(trace.time_R[at]) - start) // width for at in (place - 1, place))
        seen_K[max(low, 0) : high + 1] = False
    return Load(
        start=start,
        interval=service.interval,
        work_S=np.bincount(place_R, weights=weighed_R, minlength=length).astype(np.float64),
        requests_S=np.bincount(place_R, minlength=length),
        seen_K=seen_K,
        tuning=tuning,
        first=first,
    )


def _borders(trace: Trace) -> tuple[int, int]:
    """The instants at which validation and the test set begin: those of a model of minutes, or shares of the records."""
    dates = held_out_dates(minutes_of(trace))
    if isinstance(dates, str):
        validation, test = (int(trace.time_R[round(share * (len(trace) - 1))]) for share in SHARES)
        return validation, test
    return midnight(dates[0], "UTC"), midnight(dates[1], "UTC")


def refuse_service(service: Service) -> None:
    """Refuses numbers that no fleet has.

    Raises:
        UsageError: naming the option.
    """
    for option, value, least in (
        ("--capacity", service.capacity, 1e-9),
        ("--cold-start", service.cold_start, 0),
        ("--objective", service.objective, 0),
        ("--length", service.interval, 1),
        ("--fewest", service.fewest, 0),
        ("--input-weight", service.input_weight, 0),
        ("--output-weight", service.output_weight, 0),
    ):
        if not (np.isfinite(value) and value >= least):
            raise UsageError(f"{option} {value:g} cannot be", todo=f"Give a number of {least:g} or more")
    if not service.input_weight + service.output_weight:
        raise UsageError("tokens without weight are no load", todo="Give --input-weight or --output-weight above 0")
