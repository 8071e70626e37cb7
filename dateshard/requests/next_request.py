"""The next request after a history: when it comes, its tokens in and out, each with an interval and what it is worth.

Legend: H history, F the three values of a request.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dateshard.requests.accuracy.followed import NO_HOUR, reach_of_json
from dateshard.requests.accuracy.next_request_facts import VALUES
from dateshard.requests.packed_model import PackedModel
from dateshard.requests.request_history import RequestHistory
from dateshard.requests.trace import TimeScale
from dateshard.shardstore.errors import UsageError, counted
from dateshard.shardstore.scaling.transform import Floats

NAMES = {"gap": "timestamp", "request_tokens": "request_tokens", "response_tokens": "response_tokens"}


def raw_values(history: RequestHistory, length: int) -> Floats:
    """The values of the last records, [H, F]: seconds since the record before, and tokens.

    The first gap is NaN where the history has no record before.
    """
    low = len(history) - length
    gap_R = np.full(length, np.nan)
    before = history.time_R[max(0, low - 1) : -1] if length > 1 or low else history.time_R[:0]
    gap_R[length - len(before) :] = (history.time_R[len(history) - len(before) :] - before) / 1e9
    return np.stack([gap_R, history.input_R[low:], history.output_R[low:]], axis=1)


def predict_next(model: PackedModel, history: RequestHistory, scale: TimeScale) -> dict[str, Any]:
    """The next request by one model, with the keys of the notes and what was measured of it.

    Raises:
        UsageError: the history is too short; says how many rows are needed.
    """
    length = model.window.history
    if len(history) < length:
        dropped = history.num_rows - len(history)
        bad = f", {counted(dropped, 'row')} cannot be used" if dropped else ""
        what = f"{model.facts['model']} looks back {length} requests, and the history has {len(history)}{bad}"
        raise UsageError(what, todo=f"Give at least {length} rows")
    values_HNF, _ = model.encoded(raw_values(history, length))
    time_H = history.time_R[-length:]
    codes_W = model.codes(np.append(time_H, time_H[-1]))
    scaled_F = model.scaled(values_HNF[None, :, 0], codes_W[None])[0, 0]
    reach = reach_of_json(model.facts["reach"])
    ends_2F = scaled_F + reach.at(np.array([NO_HOUR]))[:, 0, 0]
    value_F, low_F, high_F = model.raw(np.stack([scaled_F, *ends_2F]))
    return _answer(model, scale, int(time_H[-1]), (value_F, low_F, high_F))


def _answer(model: PackedModel, scale: TimeScale, last: int, ends: tuple[Floats, Floats, Floats]) -> dict[str, Any]:
    """The prediction as a dictionary of plain values; tokens are integers."""
    facts = model.facts
    value, low, high = (_written(each, scale, last) for each in ends)
    shares = [share for share in facts["coverage"].values() if share is not None]
    return {
        **value,
        "confidence": round(float(np.mean(shares)), 3),
        "interval": {name: {"level": facts["level"], "low": low[name], "high": high[name]} for name in value},
        "coverage": {NAMES[name]: share for name, share in facts["coverage"].items()},
        "median_absolute_error": {NAMES[name]: error for name, error in facts["median_absolute_error"].items()},
        "calibration": facts["calibration"],
    }


def _written(values_F: Floats, scale: TimeScale, last: int) -> dict[str, Any]:
    """Values as they are written: the instant on the trace's own scale, tokens as integers."""
    gap, taken, given = (float(value) for value in values_F)
    at = last + round(min(gap, 1e9) * 1e9)
    return dict(zip(NAMES.values(), (scale.written(at), max(1, round(taken)), max(1, round(given))), strict=True))


assert tuple(NAMES) == VALUES, "names are in the order of the values"
