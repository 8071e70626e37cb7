"""The requests of an invented fleet, a date at a time, and the files of traces that hold them.

A request either begins a session or goes on with an open one; then it carries what was said before. Tokens of a message are
log-normal, a response's depend on its request's by a given strength. Sessions end with their date.

Legend: R requests of a date, S places for open sessions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.synthetic.request_load import FIRST, MINUTES, WEEK, Floats, Workload, holes, intensity

Integers = NDArray[np.int64]
MOST_CARRIED = 30_000  # tokens of what was said before: more is cut off
MODELS = ("ChatGPT", "GPT-4")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """The requests of one date that were written, failed ones among them.

    Attributes:
        time_R: nanoseconds since midnight, by the clock of the trace. exact_R: seconds, as they came.
        output_R: 0 of a request that failed. session_R: number of its session, from 1.
        next_input_R, next_output_R: tokens that are to be expected of the next request, by one who knows all sessions.
        given_input_R: response tokens that are to be expected by one who knows the request's own.
    """

    day: int
    time_R: Integers
    exact_R: Floats
    input_R: Integers
    output_R: Integers
    session_R: Integers
    next_input_R: Floats
    next_output_R: Floats
    given_input_R: Floats

    def __len__(self) -> int:
        return len(self.time_R)


def requests_of(workload: Workload, day: int) -> Requests:
    """Makes the requests of one date, from its own random numbers alone."""
    second_R = _arrivals(workload, day)
    chance = workload.stream(5, day)
    tokens = _conversations(workload, day, len(second_R), chance)
    failed_R = chance.random(len(second_R)) < workload.failures
    output_R = np.where(failed_R, 0, tokens.output_R)
    written_R = np.ones(len(second_R), dtype=bool)
    if hole := holes(workload).get(day):
        written_R = (second_R < hole.start * 60) | (second_R >= hole.stop * 60)
    ticks = workload.ticks_ns
    return Requests(
        day=day,
        time_R=(second_R[written_R] * 1e9).astype(np.int64) // ticks * ticks,
        exact_R=second_R[written_R],
        input_R=tokens.input_R[written_R],
        output_R=output_R[written_R],
        session_R=tokens.session_R[written_R],
        next_input_R=tokens.next_input_R[written_R],
        next_output_R=tokens.next_output_R[written_R],
        given_input_R=tokens.given_input_R[written_R],
    )


def _arrivals(workload: Workload, day: int) -> Floats:
    """Seconds since midnight at which requests come: a Poisson process."""
    chance = workload.stream(4, day)
    count_M = chance.poisson(intensity(workload, day))
    return np.sort(np.repeat(np.arange(MINUTES), count_M) * 60.0 + chance.uniform(0, 60, int(count_M.sum())))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    input_R: Integers
    output_R: Integers
    session_R: Integers
    next_input_R: Floats
    next_output_R: Floats
    given_input_R: Floats


def _conversations(workload: Workload, day: int, count: int, chance: np.random.Generator) -> _Tokens:
    """Tokens of all requests: turn after turn of all sessions at once."""
    grown = np.exp(workload.token_growth * day / WEEK)
    law = _Law(workload, grown)
    slot_R = chance.integers(0, workload.open_sessions, count)
    goes_on_R = chance.random(count) < workload.in_session
    message_R, noise_R = law.messages(chance.normal(size=count)), chance.normal(size=count)
    by_slot = np.argsort(slot_R, kind="stable")
    first = np.diff(slot_R[by_slot], prepend=-1) != 0
    begins = first | ~goes_on_R[by_slot]
    turn = np.arange(count) - np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    carried, taken, given = np.zeros(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    message, noise = message_R[by_slot], noise_R[by_slot]
    for number in range(int(turn.max(initial=-1)) + 1):
        here = np.flatnonzero(turn == number)
        if number:
            carried[here] = np.minimum(taken[here - 1] + given[here - 1], MOST_CARRIED)
        taken[here] = np.maximum(1, np.rint(carried[here] + message[here]))
        given[here] = np.maximum(1, np.rint(law.responses(taken[here], noise[here])))
    kept = np.minimum(taken + given, MOST_CARRIED).astype(np.float64)  # what a session carries on after each request
    expected = [law.expected_input(kept), law.expected_output(kept)]
    mean_next = [
        _next_mean(values, at_0, first, by_slot, workload) for values, at_0 in zip(expected, law.new, strict=True)
    ]
    back = np.empty(count, dtype=np.int64)
    back[by_slot] = np.arange(count)
    input_R = taken[back]
    return _Tokens(
        input_R=input_R,
        output_R=given[back],
        session_R=np.cumsum(begins)[back],
        next_input_R=mean_next[0],
        next_output_R=mean_next[1],
        given_input_R=law.expected_response(input_R),
    )


def _next_mean(values: Floats, new: float, first: NDArray[np.bool_], by_slot: Integers, workload: Workload) -> Floats:
    """Returns [R], the mean of the next request: of a new session, or of any open one that goes on.

    Args:
        values: to be expected if the session goes on that has just had a request, in the order of slots. new: of a new one.
        first: the first request of a slot, before which it was empty.
    """
    before = np.where(first, new, np.concatenate([[new], values[:-1]]))
    change_R = np.empty(len(values))
    change_R[by_slot] = values - before
    mean_R: Floats = new + workload.in_session * np.cumsum(change_R) / workload.open_sessions
    return mean_R


class _Law:
    """How tokens are distributed on one date."""

    def __init__(self, workload: Workload, grown: float) -> None:
        self.tail, self.told = workload.tail, workload.told_by_input
        self.middle_in = np.log(workload.mean_input * grown) - self.tail**2 / 2
        self.middle_out = np.log(workload.mean_output * grown) - self.tail**2 / 2
        self.new = (workload.mean_input * grown, workload.mean_output * grown)

    def messages(self, normal_R: Floats) -> Floats:
        """Tokens of messages, of standard normal numbers."""
        message_R: Floats = np.exp(self.middle_in + self.tail * normal_R)
        return message_R

    def responses(self, input_R: NDArray[Any], noise_R: Floats | float) -> Floats:
        """Response tokens, given those of the request and standard normal numbers."""
        said = (np.log(input_R) - self.middle_in) * np.sqrt(self.told)
        answer: Floats = np.exp(self.middle_out + said + self.tail * np.sqrt(1 - self.told) * noise_R)
        return answer

    def expected_response(self, input_R: NDArray[Any]) -> Floats:
        """Mean response tokens, given those of the request."""
        mean_R: Floats = self.responses(input_R, 0.0) * np.exp(self.tail**2 * (1 - self.told) / 2)
        return mean_R

    def expected_input(self, carried: Floats) -> Floats:
        """Mean tokens of a request that carries so many."""
        return carried + self.new[0]

    def expected_output(self, carried: Floats) -> Floats:
        """Mean response tokens to a request that carries so many: over its message, by quadrature."""
        each = (
            weight * self.expected_response(carried + np.exp(self.middle_in + self.tail * node))
            for node, weight in zip(NODES, WEIGHTS, strict=True)
        )
        return np.asarray(sum(each), dtype=np.float64)


def burstgpt(workload: Workload, day: int, *, newer: bool = False) -> pl.DataFrame:
    """A date in BurstGPT's columns, seconds from the midnight of the first date; the newer ones have sessions too."""
    rows = requests_of(workload, day)
    chance = workload.stream(6, day)
    seconds = (rows.time_R + day * 86_400 * 10**9) / 1e9
    whole = workload.tick_seconds >= 1 and float(workload.tick_seconds).is_integer()
    columns: dict[str, Any] = {"Timestamp": seconds.astype(np.int64) if whole else seconds.round(3)}
    if newer:
        columns["Session ID"] = [f"{day}-{number}" for number in rows.session_R.tolist()]
        columns["Elapsed time"] = (0.3 + 0.02 * rows.output_R * chance.uniform(0.8, 1.2, len(rows))).round(2)
    columns["Model"] = np.asarray(MODELS)[(chance.random(len(rows)) < 0.25).astype(int)]
    columns["Request tokens"], columns["Response tokens"] = rows.input_R, rows.output_R
    columns["Total tokens"] = rows.input_R + rows.output_R
    columns["Log Type"] = np.where(chance.random(len(rows)) < 0.5, "Conversation log", "API log")
    return pl.DataFrame(columns)


def write_burstgpt(workload: Workload, file: IO[bytes], *, newer: bool = False) -> None:
    """Writes a trace as BurstGPT has it. Memory: a date."""
    for day in range(workload.num_dates):
        burstgpt(workload, day, newer=newer).write_csv(file, include_header=day == 0)


def write_azure(workload: Workload, file: IO[bytes]) -> None:
    """Writes a trace as Azure has it: instants as text, and tokens. Memory: a date."""
    for day, rows in _succeeded(workload):
        time = np.datetime64(FIRST, "ns") + (rows.time_R + day * 86_400 * 10**9).astype("timedelta64[ns]")
        text = pl.Series(time).dt.strftime("%Y-%m-%d %H:%M:%S%.6f")
        frame = {"TIMESTAMP": text, "ContextTokens": rows.input_R, "GeneratedTokens": rows.output_R}
        pl.DataFrame(frame).write_csv(file, include_header=day == 0)


def write_mooncake(workload: Workload, file: IO[bytes]) -> None:
    """Writes a trace as Mooncake has it: a JSON object a line, milliseconds from the beginning. Memory: a date."""
    for day, rows in _succeeded(workload):
        time = rows.time_R // 10**6 + day * 86_400_000
        for at, taken, given in zip(time.tolist(), rows.input_R.tolist(), rows.output_R.tolist(), strict=True):
            file.write(json.dumps({"timestamp": at, "input_length": taken, "output_length": given}).encode() + b"\n")


def _succeeded(workload: Workload) -> Iterator[tuple[int, Requests]]:
    """Yields the requests of each date that had a response: those formats have no failures."""
    for day in range(workload.num_dates):
        yield day, successes(requests_of(workload, day))


def successes(rows: Requests) -> Requests:
    """The requests that had a response."""
    good = rows.output_R > 0
    columns = {name: getattr(rows, name)[good] for name in Requests.__slots__ if name != "day"}
    return Requests(day=rows.day, **columns)
