"""Quantiles of the requests of a minute hold their level where most minutes have none, too."""

from __future__ import annotations

import numpy as np
import pytest

from dateshard.requests.interval_facts import SumErrors, spread
from dateshard.requests.request_screen import inside_sentence

LEVELS = (0.1, 0.5, 0.9)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0, 20.0])
def test_quantiles_of_counts_are_whole_and_hold_their_level(rate: float) -> None:
    chance = np.random.default_rng(1)
    mean_2W = rate * np.exp(0.5 * chance.standard_normal((2, 6000)))
    count_2W = chance.poisson(mean_2W)
    forecast, truth = (np.stack([each, 90.0 * each, 30.0 * each], axis=-1) for each in (mean_2W, count_2W))
    errors = SumErrors.of(forecast[0], truth[0])
    quantiles_W3Q = np.stack([errors.quantiles(each, LEVELS) for each in forecast[1]])
    assert (quantiles_W3Q == np.floor(quantiles_W3Q)).all()
    for place, level in enumerate(LEVELS):
        quantile_W3 = quantiles_W3Q[:, :, place]
        assert ((truth[1] < quantile_W3).mean(axis=0) <= level + 0.015).all()
        assert ((truth[1] <= quantile_W3).mean(axis=0) >= level - 0.015).all()


@pytest.mark.parametrize("count", [1, 20_000, 20_001, 51_840])
def test_windows_that_are_kept_span_all_held_out_dates(count: int) -> None:
    kept = np.arange(count)[spread(count)]
    assert 10_000 < len(kept) <= 20_000 or len(kept) == count
    assert kept[0] == 0
    assert kept[-1] > count - 4


def test_minutes_that_equal_the_lower_quantile_are_told_apart() -> None:
    names = ("count", "input_tokens", "output_tokens")
    facts = {"test": 900, "coverage": {"inside": dict.fromkeys(names, 0.93), "above": dict.fromkeys(names, 0.31)}}
    assert "900 test minutes: requests 31.0% to 93.0%, input tokens" in inside_sentence(facts)
    assert "without and with those that equal the lower one" in inside_sentence(facts)
    facts["coverage"] = {"inside": dict.fromkeys(names, 0.8)}  # type: ignore[dict-item]
    assert inside_sentence(facts).endswith("requests 80.0%, input tokens 80.0%, output tokens 80.0%")
