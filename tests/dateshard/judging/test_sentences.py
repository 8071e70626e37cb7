"""The verdict of an evaluation in sentences: what was won, how sure that is, and what to do about a defeat."""

from __future__ import annotations

from typing import Any

import pytest

from dateshard.judging.prediction_screen import beside_baseline
from dateshard.judging.sentences import training_command, verdicts
from dateshard.trainer.assessment.baseline_comparison import Comparison
from tests.trainer.assessment.test_paired import judged


def said(*comparisons: Comparison, **changes: Any) -> list[tuple[str, bool]]:
    document = judged(*comparisons).to_json()
    return verdicts({**document, **changes})


def found(baseline: str, low: float | None, high: float | None, *, agrees: bool = True, dates: int = 46) -> Comparison:
    gain = 0.015 if low is None or high is None else (low + high) / 2
    return Comparison(baseline=baseline, target=None, gain=gain, low=low, high=high, dates=dates, agrees=agrees)


SURE, TIE, LOST = (0.009, 0.021), (-0.01, 0.04), (-0.06, -0.02)


@pytest.mark.parametrize(
    ("repeat", "mean", "sentence"),
    [
        (SURE, SURE, "The model beats every baseline: 1.5 % less squared error than repeat (95 %: 0.9 to 2.1 % over 46 dates)."),
        (LOST, SURE, "The model does NOT beat repeat: 4.0 % more squared error than repeat (95 %: 2.0 to 6.0 % over 46 dates)."
         " Use repeat."),
        (TIE, SURE, "No clear winner: the model has 1.5 % less squared error than repeat (95 %: -1.0 to 4.0 % over 46 dates). "
         "By squared error and by absolute error mlp is best."),
        (SURE, TIE, "No clear winner: the model has 1.5 % less squared error than mean (95 %: -1.0 to 4.0 % over 46 dates). "
         "By squared error and by absolute error mlp is best."),
    ],
)  # fmt: skip
def test_a_verdict_tells_how_sure_it_is(repeat: tuple[float, float], mean: tuple[float, float], sentence: str) -> None:
    """The stronger baseline first, and of a doubt the baseline that it is about."""
    assert said(found("mean", *mean), found("repeat", *repeat)) == [(sentence, repeat == mean == SURE)]


def test_who_wins_by_squared_and_who_by_absolute_error_are_both_named() -> None:
    """However sure the one is, the other one forbids to call it a victory."""
    result = judged(found("repeat", *SURE, agrees=False), found("mean", *SURE))
    next(row for row in result.rows if row.name == "repeat").scaled["mae"] = 0.1
    ((sentence, good),) = verdicts(result.to_json())
    assert sentence == (
        "No clear winner: the model has 1.5 % less squared error than repeat (95 %: 0.9 to 2.1 % over 46 dates). "
        "By squared error mlp is best, by absolute error repeat."
    )
    assert not good


def test_too_few_dates_are_said_to_be() -> None:
    ((sentence, _),) = said(found("repeat", None, None, dates=1))
    assert sentence.startswith(
        "No clear winner can be told: the model has 1.5 % less squared error than repeat (1 date: too few"
    )


def cuts(low: float | None, high: float | None, count: int) -> Comparison:
    gain = -0.04 if low is None or high is None else (low + high) / 2
    return Comparison(
        baseline="repeat", target=None, gain=gain, low=low, high=high, dates=None, cuts=count, agrees=True
    )


@pytest.mark.parametrize(
    ("by", "by_row", "count", "units"),
    [
        ("subject", False, 12, "12 values of 'subject'"),
        ("row", True, 20, "20 buckets of rows"),
        ("row", False, 20, "20 values of 'row'"),
    ],
)
def test_where_cuts_are_divided_a_verdict_is_about_them_and_not_about_dates(
    by: str, by_row: bool, count: int, units: str
) -> None:
    ((sentence, _),) = said(cuts(*LOST, count), split_by=by, by_row=by_row)
    assert f" than repeat (95 %: 2.0 to 6.0 % over {units}). Use repeat." in sentence
    ((sentence, _),) = said(cuts(None, None, count), split_by=by, by_row=by_row)
    assert f" 4.0 % more squared error than repeat ({units}: too few for an interval)." in sentence


def test_of_one_cut_a_verdict_says_why_it_has_no_interval() -> None:
    ((sentence, _),) = said(cuts(None, None, 1), split_by="part", by_row=False)
    assert " 4.0 % more squared error than repeat (no interval: all test windows are of one 'part')." in sentence


def test_an_evaluation_that_is_older_than_cuts_is_told_as_it_was() -> None:
    document = judged(found("repeat", *LOST)).to_json()
    del document["split_by"], document["comparisons"][0]["cuts"]
    assert "(95 %: 2.0 to 6.0 % over 46 dates)" in verdicts(document)[0][0]


@pytest.mark.parametrize(
    ("ratio", "low", "high", "sentence"),
    [
        (1.9, 1.5, 2.3, "90.0 % more squared error than repeat (95 %: 50.0 to 130.0 % over 46 dates)"),
        (10.0, 8.25, 11.6, "10 times the squared error of repeat (95 %: 8.2 to 12 times over 46 dates)"),
        (1_523_242.7, 12_345.0, 3.1e9, "1.5 million times the squared error of repeat (95 %: 12,345 to 3.1 billion times over"),
        (3.2e14, -5.0, 9e14, "3e+14 times the squared error of repeat (95 %: 0.0 to 9e+14 times over"),
        (1e-9, 1e-10, 1e-8, ">99.9 % less squared error than repeat (95 %: >99.9 to >99.9 % over"),
    ],
)  # fmt: skip
def test_an_error_that_is_many_times_another_is_told_as_a_factor(
    ratio: float, low: float, high: float, sentence: str
) -> None:
    compared = Comparison(
        baseline="repeat", target=None, gain=1 - ratio, low=1 - high, high=1 - low, dates=46, agrees=True
    )
    assert sentence in said(compared)[0][0]
    few = Comparison(baseline="repeat", target=None, gain=1 - ratio, low=None, high=None, dates=1, agrees=True)
    assert f"{sentence.partition(' (')[0]} (1 date: too few" in said(few)[0][0]


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (0.067, "93.3 % less than mean"),
        (1.4, "40.0 % MORE than mean"),
        (1_523_242.7, "1.5 million TIMES that of mean"),
        (1e-9, ">99.9 % less than mean"),
    ],
)
def test_a_forecast_tells_a_ratio_of_errors_as_a_verdict_does(ratio: float, sentence: str) -> None:
    assert beside_baseline(ratio, "mean") == sentence


def test_a_single_baseline_is_not_every_baseline() -> None:
    ((sentence, _),) = said(found("mean", *SURE))
    assert sentence.startswith("The model beats the only baseline mean: ")


def test_what_is_without_error_cannot_be_beaten() -> None:
    result = judged(Comparison(baseline="repeat", target=None, gain=None, low=None, high=None, dates=46, agrees=False))
    next(row for row in result.rows if row.name == "repeat").scaled["mse"] = 0.0
    assert verdicts(result.to_json()) == [("repeat is without any error.", False)]


def test_a_category_is_judged_by_its_accuracy() -> None:
    better = Comparison(baseline="mean", target="kind", gain=0.05, low=0.03, high=0.07, dates=46, agrees=True)
    assert said(
        better, Comparison(baseline="repeat", target="kind", gain=0.25, low=0.2, high=0.3, dates=46, agrees=True)
    ) == [
        (
            "kind: the model beats every baseline: 5.0 points more accuracy than mean (95 %: 3.0 to 7.0 over 46 dates).",
            True,
        )
    ]
    worse = Comparison(baseline="mean", target="kind", gain=-0.05, low=-0.07, high=-0.03, dates=46, agrees=True)
    assert said(worse) == [
        (
            "kind: the model does NOT beat mean: 5.0 points less accuracy than mean (95 %: 3.0 to 7.0 over 46 dates). Use mean.",
            False,
        )
    ]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("ridge", "dateshard train trainer.model.name=ridge -c CONFIG"),
        (
            "ridge:last",
            "dateshard train trainer.model.name=ridge "
            "'trainer.model.normalisations=[last]' 'trainer.model.histories=[168]' -c CONFIG",
        ),
        ("ridge:504", "dateshard train trainer.model.name=ridge trainer.window.history=504 -c CONFIG"),
        ("repeat", None),
        ("ridge_of_mine:forecast", None),
    ],
)
def test_the_command_that_trains_what_is_better_is_told(name: str, command: str | None) -> None:
    document = judged(found("repeat", *LOST)).to_json()
    document["history"] = 168
    for part in (document["rows"][0], document["comparisons"][0]):
        part["name" if "name" in part else "baseline"] = name
    assert training_command(document) == command
    document["comparisons"][0]["outcome"] = "unclear"
    assert training_command(document) is None
