"""The requests and tokens of an interval some minutes ahead, as quantiles that are never negative.

Legend: H minutes of history, P target minutes, Q levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dateshard.requests.interval_facts import LEVELS, SumErrors, weights_of
from dateshard.requests.packed_model import PackedModel
from dateshard.requests.request_history import RequestHistory
from dateshard.requests.trace_dumps import MINUTE
from dateshard.shardstore.errors import UsageError, counted
from dateshard.shardstore.scaling.transform import Floats

SECOND = 10**9
Quantiles = dict[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalForecast:
    """What comes in an interval: of each level its quantile.

    Attributes:
        count: requests. mean_input, mean_output: tokens of a request. input_tokens, output_tokens: of all together.
        fallback: why these are the last values instead of a forecast; None where it is one.
    """

    count: Quantiles
    mean_input: Quantiles
    mean_output: Quantiles
    input_tokens: Quantiles
    output_tokens: Quantiles
    fallback: str | None = None


@dataclass(slots=True, kw_only=True)
class IntervalModel:
    """A packed model of minutes, which answers for any interval that it reaches.

    Attributes:
        kept: {(length, lead): errors of such sums on held-out minutes}, made when first asked for.
    """

    model: PackedModel
    kept: dict[tuple[float, float], SumErrors] = field(default_factory=dict)

    @property
    def reach_seconds(self) -> float:
        """So far after the last record an interval may end."""
        return 60.0 * self.model.window.horizon

    @property
    def history_seconds(self) -> float:
        """So long a history is looked at."""
        return 60.0 * self.model.window.history

    def forecast(
        self, history: RequestHistory, now: int, length: float, lead: float, levels: Sequence[float]
    ) -> IntervalForecast:
        """Forecasts the interval that begins `lead` seconds after `now`."""
        minutes_H3 = counted_minutes(history, now, self.model.window.history)
        values_HNF, _ = self.model.encoded(minutes_H3)
        begin_W = now + (np.arange(self.model.window.length) - self.model.window.history) * MINUTE
        scaled_P3 = self.model.scaled(values_HNF[None, :, 0], self.model.codes(begin_W)[None])[0]
        weights_P = weights_of(length, lead, self.model.window.horizon)
        sums_3 = weights_P @ self.model.raw(scaled_P3)
        errors = self.errors(length, lead)
        sums, means = errors.quantiles(sums_3, levels), errors.mean_quantiles(sums_3, levels)
        return _answer((sums[0], *means, *sums[1:]), levels, None)

    def errors(self, length: float, lead: float) -> SumErrors:
        """The errors of such sums on held-out minutes."""
        if (length, lead) not in self.kept:
            weights_P = weights_of(length, lead, self.model.window.horizon)
            forecast_W3, truth_W3 = (
                np.einsum("wpf,p->wf", self.model.held_out[name].astype(np.float64), weights_P)
                for name in ("forecast", "truth")
            )
            whole_W = np.isfinite(truth_W3).all(axis=1)
            self.kept[length, lead] = SumErrors.of(forecast_W3[whole_W], truth_W3[whole_W])
        return self.kept[length, lead]


def refuse_interval(length: float, lead: float, levels: Sequence[float], reach: float | None) -> None:
    """Refuses an interval that is empty, lies in the past, or beyond what a model reaches.

    Raises:
        UsageError: saying what is possible.
    """
    if not (np.isfinite(length) and length > 0):
        raise UsageError(f"an interval of {length:g} s is empty", todo="Give a length above 0, as length=60")
    if not (np.isfinite(lead) and lead >= 0):
        raise UsageError(f"a lead of {lead:g} s lies in the past", todo="Give 0 or more, as lead=180")
    if not levels or any(not 0 < level < 1 for level in levels):
        raise UsageError(f"levels lie between 0 and 1, and these are {list(levels)}", todo=f"Give some, as {LEVELS}")
    if reach is not None and length + lead > reach:
        what = f"the interval ends {length + lead:g} s after now, and the model reaches {reach:g} s"
        raise UsageError(what, todo="Give a shorter lead or length")


def counted_minutes(history: RequestHistory, now: int, num_minutes: int) -> Floats:
    """Requests, input tokens and output tokens of the last minutes, [H, 3]; the last one ends with `now`."""
    back_R = num_minutes - 1 - (now - history.time_R) // MINUTE
    inside_R = (back_R >= 0) & (history.time_R <= now)
    place_R = back_R[inside_R]
    columns = (None, history.input_R[inside_R], history.output_R[inside_R])
    return np.stack(
        [np.bincount(place_R, weights=each, minlength=num_minutes).astype(np.float64) for each in columns], 1
    )


def last_values(
    history: RequestHistory, now: int, length: float, levels: Sequence[float], why: str
) -> IntervalForecast:
    """What came in the last interval of that length, or in the part of it that the history holds, for all levels.

    Raises:
        UsageError: the history has no usable record.
    """
    until_R = history.time_R <= now
    if not until_R.any():
        what = f"of {counted(history.num_rows, 'row')} of the history none can be used"
        raise UsageError(what, todo="Give at least one request")
    begin = max(now - round(length * SECOND), int(history.time_R[0]) - SECOND)
    inside_R = until_R & (history.time_R > begin)
    share = length / max((now - begin) / SECOND, 1.0)
    count = float(inside_R.sum())
    taken, given = (float(column[inside_R].sum()) for column in (history.input_R, history.output_R))
    newest = [float(column[until_R][-1]) for column in (history.input_R, history.output_R)]
    means = [total / count if count else last for total, last in zip((taken, given), newest, strict=True)]
    sums = (count * share, *means, taken * share, given * share)
    return _answer([np.full(len(levels), value) for value in sums], levels, why)


def _answer(each: Sequence[Floats], levels: Sequence[float], fallback: str | None) -> IntervalForecast:
    """Puts quantiles together; a higher level never has a lower one."""
    named = [dict(zip(levels, np.maximum(0.0, values).tolist(), strict=True)) for values in each]
    return IntervalForecast(
        count=named[0],
        mean_input=named[1],
        mean_output=named[2],
        input_tokens=named[3],
        output_tokens=named[4],
        fallback=fallback,
    )
