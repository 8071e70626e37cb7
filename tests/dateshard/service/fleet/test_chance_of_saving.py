"""A saving that may be chance is not called one."""

from __future__ import annotations

import numpy as np
import pytest

from dateshard.service.fleet.chance_of_saving import saving_interval
from dateshard.service.fleet.fleet_judgement import Judgement, replayed, verdict
from dateshard.service.fleet.fleet_load import Load, Service
from dateshard.service.fleet.load_forecasts import BASELINES
from dateshard.service.fleet.replica_hours import (
    CONSTANT,
    DialSetting,
    by_factor,
    constants,
    in_blocks,
)

QUARTER, DAY = 900, 96
SERVICE = Service(capacity=1.0, cold_start=900, objective=60, interval=QUARTER)


def judgement_of(swing: float, noise: float, seed: int) -> Judgement:
    """Six days of quarters of an hour, of which the last one and a half are replayed."""
    chance, place = np.random.default_rng(seed), np.arange(6 * DAY)
    work_K = 9000 * (1 + swing * np.sin(2 * np.pi * place / DAY)) * np.exp(noise * chance.standard_normal(len(place)))
    seconds = np.repeat(work_K / QUARTER, QUARTER)
    load = Load(
        start=978_307_200 * 10**9,
        interval=QUARTER,
        work_S=seconds,
        requests_S=np.ones(len(seconds), int),
        seen_K=np.ones(len(work_K), dtype=bool),
        tuning=6 * DAY - 3 * DAY,
        first=6 * DAY - 3 * DAY // 2,
    )
    factors = np.geomspace(0.9, 3, 18).tolist()
    dials = {CONSTANT: (load.before, constants(load.before, SERVICE), constants(load, SERVICE))}
    for name, each in BASELINES.items():  # same time last week is yesterday here
        early, late = (by_factor(each(span, SERVICE.lead), factors) for span in (load.before, load))
        dials[name] = (load.before, early, late)
    return replayed(load, SERVICE, dials, 0.01)


def test_on_loads_that_nothing_can_forecast_no_predictor_is_called_the_cheapest() -> None:
    judgements = [judgement_of(0.0, 0.4, seed) for seed in (20, 4)]
    assert all(each.cheapest not in (CONSTANT, None) for each in judgements), "by chance one is"
    assert verdict(judgements[0]).startswith("no clear winner: at matched misses")
    assert verdict(judgements[1]).startswith("a constant number of replicas is the cheapest at matched misses")


def test_a_dial_that_was_chosen_before_and_broke_the_misses_does_not_win() -> None:
    judgement = judgement_of(0.0, 0.4, 1)
    assert judgement.cheapest is None
    broke = [name for name, each in judgement.chosen.items() if each is not None]
    assert broke
    assert all(judgement.chosen[name].missed > 0.01 for name in broke)  # type: ignore[union-attr]
    assert "With hindsight, at matched misses" in verdict(judgement)


def test_where_the_load_has_a_rhythm_the_cheapest_is_named_with_its_interval() -> None:
    judgement = judgement_of(0.8, 0.05, 0)
    best = str(judgement.cheapest)
    ends = judgement.saving(best)
    assert ends is not None
    low, high = ends
    constant, chosen = (judgement.at_matched_misses()[name] for name in (CONSTANT, best))
    assert constant is not None
    assert chosen is not None
    assert 0 < low < 1 - chosen.hours / constant.hours < high + 0.02
    assert verdict(judgement).startswith(f"{best} is the cheapest")
    assert f"(95 %: {low:.1%} to {high:.1%})" in verdict(judgement)


def test_blocks_hold_all_replica_hours_and_all_late_requests() -> None:
    judgement = judgement_of(0.5, 0.2, 1)
    load = judgement.load
    requests_B = in_blocks(load.requests_S[load.first * QUARTER :], 1)
    assert requests_B.tolist() == [6 * 3600] * 6
    for setting in judgement.curves["ridge"]:
        assert setting.hours_B.sum() == pytest.approx(setting.hours)
        assert setting.late_B.sum() / requests_B.sum() == pytest.approx(setting.missed)


def setting(hours: list[float], late: list[float]) -> DialSetting:
    return DialSetting(dial="", hours=0, missed=0, left=0, hours_B=np.array(hours), late_B=np.array(late))


def test_equal_blocks_leave_nothing_to_chance_and_dials_are_turned_anew() -> None:
    requests_B = np.full(4, 100.0)
    steady = [setting([10] * 4, [0] * 4), setting([2] * 4, [5] * 4)]
    assert saving_interval(steady, [setting([5] * 4, [1] * 4)], 0.01, requests_B) == (0.5, 0.5)
    burst = [setting([1] * 4, [0, 0, 0, 9]), setting([8] * 4, [0] * 4)]
    low, high = saving_interval(steady, burst, 0.01, requests_B) or (0.0, 0.0)
    assert low == pytest.approx(0.2)
    assert high == pytest.approx(0.9)


def test_blocks_that_a_hole_fills_count_for_nothing_and_too_few_say_nothing() -> None:
    requests_B = np.array([100.0, 0, 100, 100, 100, 0])
    fleet, other = ([setting([hours, 0, hours, hours, hours, 0], [0] * 6)] for hours in (10, 5))
    assert saving_interval(fleet, other, 0.01, requests_B) == (0.5, 0.5)
    assert saving_interval([setting([10] * 3, [0] * 3)], [setting([5] * 3, [0] * 3)], 0.01, requests_B[:3]) is None
