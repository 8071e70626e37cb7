"""How far a saving may be chance: the held-out part is cut into blocks of time, which are drawn again with replacement.

At 1 % of misses, a burst or two decide what a fleet needs. A method whose noise happens to stand high just then looks cheap: on
loads that nothing can forecast, the best of several methods seems to save some percent.

Legend: D settings of a dial, B blocks, S resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dateshard.service.fleet.fleet_load import Integers
from dateshard.service.fleet.replica_hours import DialSetting
from dateshard.shardstore.scaling.transform import Floats

RESAMPLES, LEVEL = 1000, 0.95
FEWEST_BLOCKS = 4  # fewer say nothing of chance


def saving_interval(
    constant: Sequence[DialSetting], other: Sequence[DialSetting], most_missed: float, requests_B: Floats
) -> tuple[float, float] | None:
    """Returns the ends of the 95 % interval of the share of a constant fleet's replica-hours that another dial saves.

    Both dials are turned anew in every resample. None: too few blocks were replayed; one that a hole fills is none.
    """
    replayed_B = np.flatnonzero(constant[0].hours_B)
    num_blocks, requests_B = len(replayed_B), requests_B[replayed_B]
    if num_blocks < FEWEST_BLOCKS:
        return None
    random = np.random.default_rng(0)
    weight_SB = random.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), RESAMPLES).astype(np.float64)
    allowed_S = most_missed * (weight_SB @ requests_B)
    usual_S, others_S = (_cheapest(each, replayed_B, weight_SB, allowed_S) for each in (constant, other))
    low, high = np.quantile(1 - others_S / usual_S, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def _cheapest(settings: Sequence[DialSetting], chosen_B: Integers, weight_SB: Floats, allowed_S: Floats) -> Floats:
    """The replica-hours [S] of the cheapest setting that misses no more; where none does, of that which misses least."""
    hours_SD = weight_SB @ np.stack([setting.hours_B[chosen_B] for setting in settings]).T
    late_SD = weight_SB @ np.stack([setting.late_B[chosen_B] for setting in settings]).T
    good_SD = late_SD <= allowed_S[:, None] + 1e-9
    cheapest_S = np.where(good_SD, hours_SD, np.inf).min(axis=1)
    least_S = hours_SD[np.arange(len(hours_SD)), late_SD.argmin(axis=1)]
    chosen_S: Floats = np.where(good_SD.any(axis=1), cheapest_S, least_S)
    return chosen_S
