"""Verdicts that hold: errors by date and by cut against plain numpy, and how often chance alone makes a winner."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.verdicts import told_apart
from dateshard.trainer.assessment import paired
from dateshard.trainer.assessment.baseline_comparison import Comparison
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.assessment.evaluation import Evaluation, Row
from dateshard.trainer.assessment.paired import ErrorsByUnit, compare, interval
from dateshard.trainer.data.shuffle import Shuffle
from dateshard.trainer.data.window_dates import DateOf
from dateshard.trainer.setup import order_of
from tests.kit.events import FIRST, event_world, in_order, make_records

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-07..2024-03-09", "test": ["2024-03-10..2024-03-12", "2024-03-14..2024-03-16"]}


@pytest.mark.parametrize("stride", [1, 5])
def test_errors_by_date_are_those_of_the_windows_whose_first_target_lies_on_it(
    make_world: Make, plain: Make, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    """A clock change, a date that is missing, cells that are missing, batches that cross midnight."""
    world = make_world(
        10,
        first="2024-03-07",
        zone="America/New_York",
        gaps=(6,),
        missing=0.5,
        split=SPLIT,
        window={"history": 12, "horizon": 6, "stride": stride},
    )
    world.prepare()
    seen = list[tuple[str, ErrorsByUnit]]()
    monkeypatch.setattr(
        "dateshard.trainer.assessment.evaluate.ErrorsByUnit",
        lambda *given: seen.append(("", ErrorsByUnit(*given))) or seen[-1][1],
    )
    row = evaluate(world.settings.trainer, world.open(), split="test", baselines=["mean"], model=None).rows[0]
    dataset, written = world.open(), plain(world)
    mean_NF = np.asarray(dataset.statistics.merged.moments_6NF[1] + dataset.statistics.merged.moments_6NF[2])
    scale = dataset.scale
    mean = ((mean_NF - scale.pivot_NF) - scale.delta_NF) / scale.spread_NF
    expected = np.zeros((3, len(dataset.days)))
    dates = [day.date for day in dataset.days]
    for window in written.windows("test", 12, 6, stride):
        error = np.where(window.observed[12:], window.scaled[12:] - mean, 0.0)
        place = dates.index(written.segments[window.segment][window.anchor]["date"])
        expected[:, place] += window.observed[12:].sum(), (error**2).sum(), abs(error).sum()
    np.testing.assert_allclose(seen[0][1].sums[None], expected, rtol=1e-5)
    assert expected[0].sum() == row.scaled["count"]
    assert (expected[0] > 0).sum() == 6


def test_every_position_of_an_order_has_its_date(make_world: Make) -> None:
    world = make_world(6, gaps=(2,), split={"train": "2024-03-01..2024-03-06"})
    world.prepare()
    dataset = world.open()
    from dateshard.trainer.data.order import Window

    order = order_of(dataset, "train", Window(12, 6), 16, Shuffle(1, 1), None)
    date_of = DateOf(dataset, order)
    found = date_of(range(order.num_windows), np.zeros(1, dtype=np.int64))[:, 0].tolist()
    ahead = date_of(range(order.num_windows), np.arange(-12, 6))
    assert (ahead[:, 12] == found).all()
    assert (np.diff(ahead, axis=1) >= 0).all()
    assert ahead[0].tolist() == [0] * 18  # hour 12 of the first date, its history, and what it forecasts
    assert ahead[12 + 24 - 5 - 1].tolist() == [1] * 18  # the last of the first stretch
    assert found == sorted(found)
    assert [found.count(day) for day in range(5)] == [12, 24 - 5, 12, 24, 24 - 5]  # of each stretch without its ends


def test_an_interval_is_about_the_share_that_was_found_and_the_same_every_time() -> None:
    generator = np.random.default_rng(3)
    size = generator.uniform(1, 2, 46)
    gain = 0.2 * size + generator.normal(0, 0.1, 46)
    share, (low, high) = interval(gain, size, 1)
    assert share == pytest.approx(gain.sum() / size.sum())
    assert low is not None
    assert high is not None
    assert 0.1 < low < share < high < 0.3
    assert interval(gain, size, 1) == (share, (low, high))
    wide = interval(gain[:12], size[:12], 1)[1]
    assert wide[0] is not None
    assert wide[1] is not None
    assert wide[1] - wide[0] > high - low


def test_an_interval_ends_where_all_of_the_error_is_gained() -> None:
    gain, size = np.array([0.9, 0.9, 0.9, -1.0, 9.0]), np.array([1.0, 1.0, 1.0, 3.0, 9.0])
    share, (low, high) = interval(gain, size, 1)
    assert share == pytest.approx(10.7 / 15)
    assert low is not None
    assert low < 0
    assert high == 1.0


def test_a_gain_that_is_the_same_share_on_every_date_has_no_width() -> None:
    size = np.random.default_rng(4).uniform(1, 9, 30)
    share, ends = interval(0.25 * size, size, 1)
    assert (share, *ends) == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize(("dates", "horizon_days"), [(1, 1), (2, 1), (3, 1), (9, 4), (46, 23)])
def test_too_few_dates_or_too_long_a_horizon_give_no_interval(dates: int, horizon_days: int) -> None:
    """A block must hold the dates that one window's targets reach over, and there must be two of them."""
    share, ends = interval(np.full(dates, 0.5), np.ones(dates), horizon_days)
    assert (share, ends) == (0.5, (None, None))


def test_what_makes_no_error_or_is_no_number_is_compared_with_nothing() -> None:
    assert interval(np.zeros(9), np.zeros(9), 1) == (None, (None, None))
    assert interval(np.full(9, np.nan), np.ones(9), 1) == (None, (None, None))
    assert interval(np.full(9, -np.inf), np.ones(9), 1) == (None, (None, None))
    assert (
        Comparison(baseline="repeat", target=None, gain=None, low=None, high=None, dates=9, agrees=False).outcome
        == "worse"
    )


@pytest.mark.parametrize("dates", [10, 46])
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_two_forecasters_of_equal_skill_are_seldom_told_apart(dates: int, rho: float) -> None:
    """At 95 %; 8 % leaves room for the 400 runs, plain percentiles of the same blocks have 16 to 43 %."""
    assert told_apart(400, dates, rho) <= 0.08


@pytest.mark.parametrize("cuts", [4, 20])
def test_two_forecasters_of_equal_skill_are_seldom_told_apart_over_cuts(cuts: int) -> None:
    assert told_apart(400, cuts, 0.0, cuts=True) <= 0.07


@pytest.mark.parametrize("cuts", [6, 20])
def test_an_interval_over_cuts_holds_the_true_share_as_often_as_it_says(cuts: int) -> None:
    """Each cut's error is log-normal, mine 0.8 of theirs but for what is my own: by expectation a gain of 0.2."""
    assert 0.92 <= covered(400, cuts) <= 0.99


def covered(runs: int, cuts: int) -> float:
    generator = np.random.default_rng([7, cuts])
    theirs = np.exp(generator.normal(0, 0.5, (runs, cuts)))
    mine = 0.8 * theirs * np.exp(generator.normal(-0.02, 0.2, (runs, cuts)))  # of mean 1
    held = [interval(b - m, b, None)[1] for m, b in zip(mine, theirs, strict=True)]
    return sum(low is not None and high is not None and low <= 0.2 <= high for low, high in held) / runs


def test_cuts_are_drawn_each_by_itself_and_their_order_says_nothing() -> None:
    """Against plain numpy: quantiles of the drawn shares, about the share, wider as Student's t of 11 degrees is."""
    generator = np.random.default_rng(8)
    size = generator.uniform(1, 3, 12)
    gain = 0.3 * size + generator.normal(0, 0.4, 12)
    drawn = np.random.default_rng(paired.SEED).integers(0, 12, (paired.DRAWS, 12))
    share = gain.sum() / size.sum()
    away = np.quantile(gain[drawn].sum(1) / size[drawn].sum(1) - share, [0.025, 0.975])
    expected = share + away * np.sqrt(12 / 11) * paired._student(11) / paired.NORMAL
    assert interval(gain, size, None) == (pytest.approx(share), pytest.approx(tuple(expected)))
    shuffled = generator.permutation(12)
    other = interval(gain[shuffled], size[shuffled], None)[1]
    assert other == pytest.approx(tuple(expected), abs=0.15 * (expected[1] - expected[0]))


def test_many_cuts_take_the_memory_of_a_thousand_and_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    size = generator.uniform(1, 3, 3000)
    gain = 0.3 * size + generator.normal(0, 0.4, 3000)
    drawn = list[int]()
    sums = paired._block_sums
    monkeypatch.setattr(paired, "_block_sums", lambda values, block: drawn.append(len(values)) or sums(values, block))
    share, (low, high) = interval(gain, size, None)
    assert drawn == [1000, 1000]
    assert low is not None
    assert high is not None
    error = np.std(gain - share * size) / np.sqrt(3000) / size.mean()  # of a ratio, by the delta method
    assert (low, high) == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=0.15 * 1.96 * error)


def test_too_few_cuts_give_no_interval_nor_do_cuts_most_of_which_have_no_error() -> None:
    """A draw of those alone would compare with nothing."""
    assert interval(np.full(3, 0.5), np.ones(3), None) == (0.5, (None, None))
    silent = np.array([0.0, 0.0, 0.0, 0.0, 2.0])
    assert interval(0.5 * silent, silent, None) == (0.5, (None, None))
    assert interval(0.5 * silent, silent, 0) == (0.5, (None, None))


def test_errors_by_cut_are_those_of_the_windows_in_it_on_whichever_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five sessions on three dates, two of them train; windows of three targets cross no cut."""
    dates = [FIRST + dt.timedelta(days=number) for number in range(3)]
    records = {date: make_records(date, 200, ("a", "b", "c", "d", "e"), 3) for date in dates}
    split = {"by": "session", "train": ["d", "b"], "test": ["e", "a", "c"]}
    world = event_world(tmp_path, records, cut=True, split=split, window={"history": 4, "horizon": 3})
    world.prepare()
    kept = list[ErrorsByUnit]()
    monkeypatch.setattr(
        "dateshard.trainer.assessment.evaluate.ErrorsByUnit",
        lambda *given: kept.append(ErrorsByUnit(*given)) or kept[-1],
    )
    dataset = world.open()
    config = world.settings.trainer.model_copy(update={"targets": ["value"]})
    evaluate(config, dataset, split="test", baselines=["mean"], model=None)
    names = dataset.manifest.split_cuts["test"]
    trained = [row.value for rows in records.values() for row in rows if row.cut in "bd"]
    expected = np.zeros((3, len(names)))
    for rows in records.values():
        for place, name in enumerate(names):
            values = np.array([row.value for row in in_order(rows, cut=True) if row.cut == name])
            for anchor in range(4, len(values) - 2):
                error = values[anchor : anchor + 3] - np.mean(trained)
                expected[:, place] += 3, (error**2).sum(), abs(error).sum()
    np.testing.assert_allclose(kept[0].sums[None], expected, rtol=1e-4)
    assert (expected[0] > 0).all()


def test_a_forecaster_that_is_clearly_better_is_told_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    better = [interval(0.15 * other, other, 0)[1][0] for other in np.random.default_rng(5).uniform(1, 3, (5, 46))]
    assert all(low is not None and low > 0 for low in better)


def by_unit(squared: np.ndarray, absolute: np.ndarray) -> ErrorsByUnit:
    made = ErrorsByUnit(None, len(squared))  # type: ignore[arg-type]
    made.sums[None] = np.stack([np.full(len(squared), 10.0), squared, absolute])
    return made


@pytest.mark.parametrize(
    ("squared", "absolute", "outcome"),
    [(0.5, 0.5, "better"), (0.5, 1.5, "unclear"), (1.5, 1.5, "worse"), (1.5, 0.5, "unclear"), (0.999, 0.5, "unclear")],
)
def test_better_is_who_is_so_beyond_chance_and_by_both_errors(squared: float, absolute: float, outcome: str) -> None:
    generator = np.random.default_rng(6)
    theirs, noise = generator.uniform(1, 2, 46), generator.normal(0, 0.1, 46)
    mine = by_unit(squared * theirs + noise, absolute * theirs)
    found = compare(mine, by_unit(theirs, theirs), "repeat", 1)
    assert [(one.baseline, one.target, one.dates, one.outcome) for one in found] == [("repeat", None, 46, outcome)]
    assert found[0].gain == pytest.approx(1 - (squared * theirs + noise).sum() / theirs.sum())


def told(baseline: str, target: str | None, outcome: str) -> Comparison:
    low, high = {"better": (0.1, 0.3), "worse": (-0.3, -0.1), "unclear": (-0.1, 0.3)}[outcome]
    return Comparison(
        baseline=baseline, target=target, gain=(low + high) / 2, low=low, high=high, dates=46, agrees=True
    )


def judged(*comparisons: Comparison) -> Evaluation:
    """A model of numbers and a category beside two baselines: repeat is the best of the one, mean of the other."""

    def row(name: str, kind: str, error: float, right: float) -> Row:
        scaled = {"mse": error, "mae": error}
        return Row(
            name=name, kind=kind, scaled=scaled, raw={}, classes={"kind": {"accuracy": right, "log_loss": 1 - right}}
        )

    rows = [row("repeat", "baseline", 1.0, 0.6), row("mean", "baseline", 2.0, 0.8), row("mlp", "model", 0.9, 0.85)]
    return Evaluation(
        split="test",
        windows=9,
        features=["speed"],
        rows=rows,
        notes=[],
        categorical=["kind"],
        twins=[],
        comparisons=list(comparisons),
    )


@pytest.mark.parametrize(
    ("repeat", "mean", "repeat_kind", "mean_kind", "outcome"),
    [
        ("better", "better", "better", "better", "beats"),
        ("better", "better", "better", "worse", "unclear"),  # one number won, one category lost
        ("better", "unclear", "better", "better", "unclear"),
        ("worse", "better", "better", "better", "unclear"),
        ("worse", "better", "better", "worse", "loses"),  # to the best of each
        ("better", "worse", "worse", "better", "unclear"),
    ],
)
def test_a_model_beats_baselines_only_in_all_that_it_forecasts(
    repeat: str, mean: str, repeat_kind: str, mean_kind: str, outcome: str
) -> None:
    result = judged(
        told("repeat", None, repeat),
        told("mean", None, mean),
        told("repeat", "kind", repeat_kind),
        told("mean", "kind", mean_kind),
    )
    assert result.outcome == outcome
    document = result.to_json()
    assert (document["outcome"], document["beats_baselines"]) == (outcome, outcome == "beats")
    assert judged().outcome is None
    assert judged().beats_baselines is None


def test_blocks_are_as_long_as_the_horizon_and_as_the_root_of_the_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = list[int]()
    sums = paired._block_sums
    monkeypatch.setattr(paired, "_block_sums", lambda values, block: lengths.append(block) or sums(values, block))
    for dates, days in ((4, 0), (7, 0), (46, 1), (46, 9), (400, 1)):
        interval(np.ones(dates), np.ones(dates), days)
    assert lengths[::2] == [2, 3, 7, 10, 20]


def test_quantiles_of_student_lie_between_those_that_are_known() -> None:
    assert paired._student(1) == 12.706
    assert paired._student(2.5) == pytest.approx(3.54, abs=0.1)  # 3.558
    assert paired._student(7) == pytest.approx(2.365, abs=0.01)
    assert paired._student(1e9) == pytest.approx(1.96)
