"""What plans of replicas cost and miss on the held-out part of a trace, and the same at matched misses.

Legend: J held-out intervals, S their seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dateshard.service.fleet.fleet_load import Integers, Load, Service
from dateshard.service.fleet.fleet_queue import backlog, late
from dateshard.shardstore.errors import counted
from dateshard.shardstore.scaling.transform import Floats

FACTORS = tuple(float(factor) for factor in np.geomspace(0.4, 8, 120))  # the dial of a forecast that is one number
CONSTANT = "constant"
BLOCK_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class DialSetting:
    """One setting of a predictor's dial, replayed.

    Attributes:
        dial: as it is shown: a factor, a level, a number of replicas. hours: replica-hours that are paid.
        missed: share of requests that waited longer than the objective. left: work that waited at the end.
        hours_B, late_B: replica-hours, and requests that waited longer, of each block of six hours.
    """

    dial: str
    hours: float
    missed: float
    left: float
    hours_B: Floats = field(compare=False)
    late_B: Floats = field(compare=False)


def minimum(load: Load, service: Service) -> Integers:
    """Returns [J]: replicas that the load of each interval needs if all is known and a replica serves at once."""
    needed_J = np.ceil(load.interval_work[load.first :] / (service.capacity * service.interval) - 1e-9)
    return np.maximum(service.fewest, needed_J).astype(np.int64)


def replicas(forecast_J: Floats, service: Service) -> Integers:
    """Returns [J]: replicas for forecast work."""
    needed_J = np.ceil(forecast_J / (service.capacity * service.interval) - 1e-9)
    return np.maximum(service.fewest, needed_J).astype(np.int64)


def paid(wanted_J: Integers, lead: int) -> Integers:
    """Returns [J] replicas that are paid: from the order on, and kept if they are wanted again before new ones would serve."""
    padded = np.concatenate([wanted_J, np.repeat(wanted_J[-1:], lead)])
    most: Integers = np.lib.stride_tricks.sliding_window_view(padded, lead + 1).max(axis=1)
    return most


def serving(paid_J: Integers, lead: int) -> Integers:
    """Returns [J] replicas that serve: those that have been paid for the whole cold start."""
    padded = np.concatenate([np.repeat(paid_J[:1], lead), paid_J])
    least: Integers = np.lib.stride_tricks.sliding_window_view(padded, lead + 1).min(axis=1)
    return least


def replay(load: Load, service: Service, wanted_J: Integers, dial: str, lead: int | None = None) -> DialSetting:
    """Replays the held-out part with these replicas.

    Args:
        lead: intervals of the cold start; None: the service's.
    """
    lead = service.lead if lead is None else lead
    paid_J = paid(wanted_J, lead)
    seen_J = load.seen_K[load.first :]
    begin = load.first * load.interval
    work_S, requests_S = load.work_S[begin:], load.requests_S[begin:]
    served_S = np.repeat(serving(paid_J, lead) * service.capacity, load.interval)
    waits_S = backlog(work_S, served_S)
    late_S = late(work_S, waits_S, service.objective)
    requests_S = requests_S * np.repeat(seen_J, load.interval)
    late_B = in_blocks(np.where(late_S, requests_S, 0), 1)
    return DialSetting(
        dial=dial,
        hours=float(paid_J[seen_J].sum()) * load.interval / 3600,
        missed=float(late_B.sum()) / max(1, int(requests_S.sum())),
        hours_B=in_blocks(np.where(seen_J, paid_J, 0), load.interval) * load.interval / 3600,
        late_B=late_B,
        left=float(waits_S[-1]),
    )


def in_blocks(values: Integers, seconds: int) -> Floats:
    """Sums of values, each of so many seconds, in blocks of six hours."""
    place = np.arange(len(values)) * seconds // BLOCK_SECONDS
    sums: Floats = np.bincount(place, weights=values).astype(np.float64)
    return sums


@dataclass(frozen=True, slots=True)
class Dial:
    """What a predictor would do at each setting of its dial; a later one never wants fewer replicas.

    Attributes:
        at: returns the name of a setting, by its number, and the forecast work [J].
    """

    size: int
    at: Callable[[int], tuple[str, Floats]]

    def replayed(self, number: int, load: Load, service: Service) -> DialSetting:
        """Replays one setting."""
        name, forecast_J = self.at(number)
        return replay(load, service, replicas(forecast_J, service), name)

    def first_within(self, load: Load, service: Service, most_missed: float) -> int | None:
        """The number of the first setting that misses no more, and so of the cheapest one; None: no setting does."""
        number = bisect_left(
            range(self.size), True, key=lambda k: self.replayed(k, load, service).missed <= most_missed
        )
        return number if number < self.size else None


def turned(load: Load, service: Service, dial: Dial) -> list[DialSetting]:
    """Replays the settings of a dial up to the first that misses nothing; those that want the same replicas once."""
    rows, before = list[DialSetting](), b""
    for number in range(dial.size):
        name, forecast_J = dial.at(number)
        wanted_J = replicas(forecast_J, service)
        if wanted_J.tobytes() == before:
            continue
        before = wanted_J.tobytes()
        rows.append(replay(load, service, wanted_J, name))
        if rows[-1].missed == 0:
            break
    return rows


def by_factor(forecast_J: Floats, factors: Sequence[float] = FACTORS) -> Dial:
    """The dial of a forecast that is one number: a factor."""
    return Dial(len(factors), lambda number: (f"x {factors[number]:.2f}", forecast_J * factors[number]))


def constants(load: Load, service: Service) -> Dial:
    """The dial of a constant fleet: how many replicas it has."""
    count = len(load.seen_K) - load.first
    fewest, most = max(1, service.fewest), int(load.interval_work.max() / service.capacity / service.interval + 1) * 4

    def at(number: int) -> tuple[str, Floats]:
        replicas = fewest + number
        return counted(replicas, "replica"), np.full(count, replicas * service.capacity * service.interval)

    return Dial(most, at)


def matched(settings: Iterable[DialSetting], most_missed: float) -> DialSetting | None:
    """The cheapest setting that misses no more; None: none of the dial does."""
    good = [setting for setting in settings if setting.missed <= most_missed]
    return min(good, key=lambda setting: setting.hours, default=None)
