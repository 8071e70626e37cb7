"""A saving that may be chance is not called one."""

from __future__ import annotations

import numpy as np
import pytest

from dateshard.service.fleet.chance_of_saving import saving_interval
from dateshard.service.fleet.fleet_judgement import Judgement, verdict
from dateshard.service.fleet.fleet_load import Load, Service
from dateshard.service.fleet.load_forecasts import BASELINES
from dateshard.service.fleet.replica_hours import (
    CONSTANT,
    DialSetting,
    by_factor,
    constants,
    in_blocks,
    minimum,
    replay,
    turned,
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
        first=6 * DAY - 3 * DAY // 2,
    )
    factors = np.geomspace(0.9, 3, 18).tolist()
    curves = {CONSTANT: constants(load, SERVICE)}
    for name, each in BASELINES.items():  # same time last week is yesterday here
        curves[name] = turned(load, SERVICE, by_factor(each(load, SERVICE.lead), factors))
    lowest = replay(load, SERVICE, minimum(load, SERVICE), "", lead=0)
    return Judgement(load=load, service=SERVICE, curves=curves, lowest=lowest, most_missed=0.01)


def test_on_loads_that_nothing_can_forecast_no_predictor_is_called_the_cheapest() -> None:
    judgements = [judgement_of(0.0, 0.4, seed) for seed in (2, 6)]
    assert any(each.cheapest != CONSTANT for each in judgements), "by chance one of them is"
    for each in judgements:
        assert verdict(each).startswith(("a constant number", "no clear winner"))


def test_where_the_load_has_a_rhythm_the_cheapest_is_named_with_its_interval() -> None:
    judgement = judgement_of(0.8, 0.05, 0)
    best = str(judgement.cheapest)
    low, high = judgement.saving(best)
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
    low, high = saving_interval(steady, burst, 0.01, requests_B)
    assert low == pytest.approx(0.2)
    assert high == pytest.approx(0.9)
