"""A baseline of the user's own: what its function is handed, how its answer is judged, and how its faults are told."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.judging.sentences import verdicts
from dateshard.settings import validate
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.assessment.baseline_comparison import Comparison
from dateshard.trainer.assessment.baselines import within_reach
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.assessment.evaluation import Evaluation, Row
from dateshard.trainer.data.window_sample import WindowSample
from tests.kit.events import FIRST, event_world, make_records, write

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06..2024-03-07"}
LAST = """
import numpy as np
calls = []
def forecast(history, times, steps, levels):
    print("working")
    calls.append((history, times, steps, levels))
    back = (~np.isnan(history))[:, ::-1].argmax(1)
    return np.repeat(history[np.arange(len(history)), -1 - back][:, None], steps, axis=1)
def quantiles(*asked):
    return forecast(*asked)[..., None] + np.array([-9.0, 0.0, 20.0])
def crossing(*asked):
    return np.where(np.arange(asked[2])[:, None] == 1, quantiles(*asked)[..., ::-1], quantiles(*asked))
"""


@pytest.fixture(autouse=True)
def _rival(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the working directory."""
    Path("its_rival.py").write_text(LAST)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("its_rival", None)


def prepared(make_world: Make, **changes: Any) -> Any:
    world = make_world(7, split=SPLIT, missing=0.6, window={"history": 12, "horizon": 4}, **changes)
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    world.prepare()
    return world


def judged(world: Any, *names: str, **changes: Any) -> Evaluation:
    config = world.settings.trainer.model_copy(update=changes)
    return evaluate(config, world.open(), split="test", baselines=names, model=None)


def row_of(result: Evaluation, name: str) -> Row:
    return next(row for row in result.rows if row.name == name)


@pytest.mark.parametrize("name", ["its_rival:forecast", "its_rival:quantiles"])
def test_a_function_that_repeats_the_last_value_is_judged_as_repeat_is(make_world: Make, name: str) -> None:
    """Through raw units and back, past cells that are missing and histories without any value, of a log1p feature too."""
    result = judged(prepared(make_world), name, "repeat")
    own, repeat = (row_of(result, each) for each in (name, "repeat"))
    assert own.kind == "baseline"
    assert own.scaled["count"] == repeat.scaled["count"] > 0
    for feature in ("speed", "volume"):
        for figure in ("mse", "mae", "bias", "r2"):
            found, expected = (row.raw["by_feature"][feature][figure] for row in (own, repeat))
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), (feature, figure)


@pytest.mark.parametrize("name", ["its_rival:quantiles", "its_rival:crossing"])
def test_the_quantiles_of_a_function_are_scored_and_sorted_where_they_cross(
    make_world: Make, plain: Make, name: str
) -> None:
    world = prepared(make_world)
    result = judged(world, name, "its_rival:forecast", "repeat")
    assert row_of(result, "its_rival:forecast").interval is None  # forecasts alone
    assert row_of(result, "repeat").interval is None
    scores = row_of(result, name).interval
    assert scores is not None
    inside, widths = list[bool](), list[float]()
    for window in plain(world).windows("test", 12, 4):
        for node in range(3):
            past = [
                raw for raw, seen in zip(window.raw[:12, node, 0], window.observed[:12, node, 0], strict=True) if seen
            ]
            for step in range(12, 16) if past else ():
                if window.observed[step, node, 0]:
                    inside.append(past[-1] - 9 <= window.raw[step, node, 0] <= past[-1] + 20)
                    widths.append(29)
    speed = scores["raw"]["by_feature"]["speed"]
    assert speed["count"] == len(inside)
    assert speed["coverage"] == pytest.approx(np.mean(inside))
    assert speed["width"] == pytest.approx(np.mean(widths), rel=1e-5)
    assert scores["level"] == 0.9
    asked = sum(len(call[0]) for call in sys.modules["its_rival"].calls) // 2
    crossed = {"its_rival:quantiles": 0, "its_rival:crossing": scores["of"] // 4}[name]
    assert scores["crossed"] == crossed
    assert 0 < scores["of"] < 4 * asked
    assert row_of(judged(world, name, baseline_windows=10).sample or result, name).interval is not None


def test_a_function_is_handed_raw_values_and_the_instants_of_its_window(
    make_world: Make, plain: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = prepared(make_world)
    judged(world, "its_rival:forecast")
    assert capsys.readouterr().out == ""  # what it prints is not the command's answer
    calls, written = sys.modules["its_rival"].calls, plain(world)
    windows = written.windows("test", 12, 4)
    first = dt.datetime(2024, 3, 1, tzinfo=written.zone).timestamp()
    assert {(steps, tuple(levels)) for _, _, steps, levels in calls} == {(4, (0.05, 0.5, 0.95))}
    assert len(calls[0][0]) <= 2 * 3  # two windows are tried before the others
    for place in range(2):
        given = calls[2 + place :: 2]  # after those that are tried, the targets of a batch one after the other
        history, times = (np.concatenate([call[k] for call in given]) for k in range(2))
        expected = np.stack(
            [np.where(w.observed[:12], w.raw[:12], np.nan)[:, n, place] for w in windows for n in range(3)]
        )
        instants = np.repeat(
            [[first + 3600 * step for step in range(w.anchor - 12, w.anchor + 4)] for w in windows], 3, 0
        )
        known = ~np.isnan(expected).all(1)
        np.testing.assert_allclose(history, expected[known], rtol=1e-5, atol=1e-5)
        assert (times.astype("M8[s]").astype(np.int64) == instants[known]).all()


def test_a_function_looks_as_far_back_as_its_name_says(make_world: Make) -> None:
    world = prepared(make_world)
    judged(world, "its_rival:forecast:36", "repeat")
    assert {call[0].shape[1] for call in sys.modules["its_rival"].calls} == {36}
    assert {call[1].shape[1] for call in sys.modules["its_rival"].calls} == {40}
    with pytest.raises(UsageError, match="1,000 steps back, and the first windows of this split have 120"):
        judged(world, "its_rival:forecast:1000")
    names = ["its_rival:forecast:1000", "its_rival:forecast"]
    kept, notes = within_reach(world.settings.trainer, world.open(), "test", names)
    assert kept == ["its_rival:forecast"]
    assert notes == ["its_rival:forecast:1000 left out: the first windows have 120 steps before them"]


ONE_NAN = "return np.where(np.arange(steps) == 1, np.nan, np.zeros((len(history), steps)))"
FAULTS = {
    "return history[:, :3]": r"must return \[\d, 4\] or \[\d, 4, 3\] for a history of \[\d, 12\], and returned \[\d, 3\]",
    "return history[0]": r"must return .* and returned \[12\]",
    ONE_NAN: r"returned NaN or infinity in \d+ of \d+ values of \[\d, 4\] .* series 0, step 1",
    "return np.full((len(history), steps), np.inf)": "returned NaN or infinity",
    "return None": "returned NoneType for a history of .* no array of numbers",
    "return [['a'] * steps] * len(history)": "returned list for .* no array of numbers",
    "return [[1.0], [1.0, 2.0]]": "returned list for .* no array of numbers: ValueError",
    "raise ValueError('no weights')": r"fails on a history of \[\d, 12\]: ValueError: no weights \(.*its_rival.py, line 2\)",
    "return missing": "fails on a history of .* NameError",
    "return np.full((len(history), steps), -7.0)": "forecasts -7 for volume, which is scaled by log1p",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_of_a_function_is_told_by_name_and_shape_before_anything_is_fitted(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    Path("its_rival.py").write_text(f"import numpy as np\ndef forecast(history, times, steps, levels): {line}\n")
    monkeypatch.setattr("dateshard.trainer.assessment.baselines.fit", lambda *_: pytest.fail("a ridge is fitted"))
    world = prepared(make_world)
    if "-7" in line:  # a count has a bound, and training saw values between -1 and 0
        monkeypatch.setattr(
            "dateshard.trainer.assessment.baselines.bounds_of", lambda *_: np.array([[-9e9] * 2, [9e9] * 2])
        )
    with pytest.raises(UsageError, match=FAULTS[line]) as refused:
        judged(world, "ridge", "its_rival:forecast")
    assert "baseline 'its_rival:forecast'" in str(refused.value)
    assert refused.value.todo


def test_no_number_in_a_later_window_ends_the_evaluation(make_world: Make) -> None:
    text = LAST.replace(
        "calls.append",
        "steps = steps\n    if len(calls) > 4: return np.full((len(history), steps), np.nan)\n    calls.append",
    )
    Path("its_rival.py").write_text(text)
    world = prepared(make_world, training={"batch_size": 8})
    with pytest.raises(UsageError, match="its_rival:forecast' returned NaN"):
        judged(world, "its_rival:forecast")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:forecast", "baselines: there is no module 'nowhere'"),
        ("its_rival:other", "has no 'other'"),
        ("its_rival:calls", "nothing that can be called"),
        ("its rival:forecast", "there is no baseline"),
        ("ridge:best", "there is no baseline 'ridge:best'"),
    ],
)
def test_a_name_that_is_no_function_is_refused(make_world: Make, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judged(prepared(make_world), name)


def test_a_client_names_no_baseline_of_his_own() -> None:
    for name in ("seasonal:24", "ridge:last", "ridge:336", "its_rival:forecast"):
        tree = {"dataset": "d", "trainer": {"baselines": [name]}}
        assert validate(tree).trainer.baselines == (name,)
        if name != "its_rival:forecast":
            assert validate(tree, own_models=False).trainer.baselines == (name,)
    for name in ("its_rival:forecast", "os.path:exists:24"):
        with pytest.raises(UsageError, match="names code, which is not imported from here"):
            validate({"dataset": "d", "trainer": {"baselines": ["repeat", name]}}, own_models=False)


def test_slow_baselines_are_judged_on_a_sample_and_every_row_of_its_table_on_the_same_windows(
    make_world: Make, plain: Make
) -> None:
    world = prepared(make_world)
    names, written = ("repeat", "its_rival:forecast", "mean"), plain(world)
    whole = judged(world, *names, baseline_windows=10)
    windows = written.windows("test", 12, 4)
    few = [windows[k] for k in WindowSample(len(windows), 10, 7).windows(np.arange(10))]
    assert [row.name for row in whole.rows] == ["repeat", "mean"]
    assert whole.sample is not None
    assert (whole.windows, whole.sample.windows) == (len(windows), 10)
    assert [row.name for row in whole.sample.rows] == list(names)
    seen = np.array([w.observed[12:] for w in few])
    assert {row.scaled["count"] for row in whole.sample.rows} == {int(seen.sum())}
    target = np.array([w.scaled[12:] for w in few])[..., 0]
    level = float(target[seen[..., 0]].mean())
    mean = row_of(whole.sample, "mean").scaled["by_feature"]["speed"]
    assert mean["r2"] == pytest.approx(1 - mean["mse"] / float(((target[seen[..., 0]] - level) ** 2).mean()), rel=1e-5)
    own, repeat = (row_of(whole.sample, name).scaled["mse"] for name in ("its_rival:forecast", "repeat"))
    assert own == pytest.approx(repeat, rel=1e-5)
    calls = sys.modules["its_rival"].calls
    assert sum(len(call[0]) for call in calls[2::2]) <= 10 * 3  # and no other window was asked for
    document = whole.to_json()
    assert document["sample"]["windows"] == 10
    assert [row["name"] for row in document["sample"]["rows"]] == list(names)


def test_there_is_one_table_where_a_sample_would_be_all_windows_or_nothing_is_slow(make_world: Make) -> None:
    world = prepared(make_world)
    whole = judged(world, "its_rival:forecast", baseline_windows=45)
    assert (whole.windows, whole.sample) == (45, None)
    plain = judged(world, "repeat", baseline_windows=10)
    assert plain.sample is None
    assert plain.notes[0].startswith("baseline_windows is for functions of your own, and there is none")


def test_a_sample_of_which_nothing_was_observed_is_told(make_world: Make) -> None:
    world = prepared(make_world)
    date = dt.date(2024, 3, 7)
    world.rows[date] = [(instant, node, None, volume) for instant, node, _, volume in world.rows[date]][:1]
    world.write(date)
    world.prepare()
    windows = [k for k in range(1, 45) if int(WindowSample(45, 1, k).windows(np.arange(1))[0]) > 24]  # of the last date
    training = world.settings.trainer.training.model_copy(update={"seed": windows[0]})
    result = judged(world, "repeat", "its_rival:forecast", baseline_windows=1, training=training)
    assert "no target of the 1 window of the sample was observed: raise baseline_windows" in result.notes


@pytest.mark.parametrize(
    ("whole", "few", "expected"),
    [
        ("better", "better", "beats"),
        ("better", "unclear", "unclear"),
        ("unclear", "better", "unclear"),
        ("better", "worse", "loses"),
        ("worse", "better", "loses"),
        (None, "better", "beats"),
        (None, None, None),
    ],
)
def test_a_model_beats_its_baselines_only_where_it_does_so_on_the_sample_too(
    whole: str | None, few: str | None, expected: str | None
) -> None:
    tables = []
    for outcome in (whole, few):
        row = Row(name="mean", kind="baseline", scaled={"mse": 1.0, "mae": 1.0}, raw={})
        ends = {"better": (0.1, 0.3), "worse": (-0.3, -0.1), "unclear": (-0.1, 0.3)}
        made = [
            Comparison(baseline="mean", target=None, gain=0.2, low=low, high=high, dates=9, agrees=True)
            for low, high in [ends[outcome or "better"]]
        ]
        table = Evaluation(split="test", windows=9, features=["speed"], rows=[row], notes=[])
        tables.append(replace(table, comparisons=made if outcome else []))
    result = replace(tables[0], windows=90, sample=tables[1])
    assert result.outcome == expected
    assert result.beats_baselines == (None if expected is None else expected == "beats")
    said = [text for text, _ in verdicts(result.to_json())]
    starts = [f"All 90 windows: {'The' if whole != 'unclear' else 'No clear'} "] if whole else []
    starts += [f"A sample of 9 of the 90 windows: {'The' if few != 'unclear' else 'No clear'} "] if few else []
    assert [text[: len(start)] for text, start in zip(said, starts, strict=True)] == starts


def test_what_lies_before_an_interval_has_neither_a_value_nor_an_instant(tmp_path: Path) -> None:
    """Records of other cuts and older ones are padding: no more is known than the records of the last two hours."""
    dates = [FIRST + dt.timedelta(days=k) for k in range(3)]
    records = {date: make_records(date, 80, ("ann", "bo"), 5) for date in dates}
    split = {"train": f"{dates[0]}..{dates[1]}", "test": str(dates[2])}
    window = {"history": "2h", "most": 4, "horizon": 1}
    world = event_world(tmp_path, records, cut=True, split=split, window=window, targets=["value"], inputs=["value"])
    for date, rows in records.items():
        write(world, date, rows)
    world.prepare()
    result = judged(world, "its_rival:forecast", "repeat")
    own, repeat = (row_of(result, name).scaled["mse"] for name in ("its_rival:forecast", "repeat"))
    assert own == pytest.approx(repeat, rel=1e-5)
    calls, of_value = sys.modules["its_rival"].calls, {row.value: row for row in records[dates[2]]}
    padded = 0
    for history, times, *_ in calls:
        known, instants = ~np.isnan(history), times.astype("M8[ns]").astype(np.int64)
        assert (np.isnat(times[:, :4]) == ~known).all()
        padded += int((~known).sum())
        for values, when in zip(history, instants, strict=True):
            shown = [of_value[round(value)] for value in values[~np.isnan(values)]]
            assert [row.time for row in shown] == when[:4][~np.isnan(values)].tolist()
            assert len({row.cut for row in shown}) == 1
            assert all(when[4] - row.time <= 2 * 3600 * 10**9 for row in shown)
    assert padded > 10
