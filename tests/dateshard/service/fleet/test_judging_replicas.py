"""The judge of replicas: its queue, what a plan pays and serves, and what it says of predictors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dateshard.cli import run
from dateshard.pipeline.synthetic.request_load import Workload
from dateshard.pipeline.synthetic.request_rows import write_burstgpt
from dateshard.requests.trace import read_trace
from dateshard.service.fleet.fleet_judgement import judged, verdict
from dateshard.service.fleet.fleet_load import Load, Service, load_of
from dateshard.service.fleet.fleet_queue import backlog, late
from dateshard.service.fleet.load_forecasts import BASELINES, LoadPredictor
from dateshard.service.fleet.replica_hours import minimum, paid, replay, serving
from dateshard.shardstore.scaling.transform import Floats

whole = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=40)
SERVICE = Service(capacity=10.0, cold_start=120, interval=60)


def flat_load(work_K: Floats, first: int) -> Load:
    """A load whose work comes evenly within each interval of a minute, from a Monday on."""
    work_S = np.repeat(work_K / 60, 60)
    seen_K = np.ones(len(work_K), dtype=bool)
    start = 978_307_200 * 10**9
    requests_S = np.ones(len(work_S), int)
    parts = {"tuning": first - 720, "first": first}
    return Load(start=start, interval=60, work_S=work_S, requests_S=requests_S, seen_K=seen_K, **parts)


def varying(num_days: int = 2, seed: int = 0) -> Load:
    chance = np.random.default_rng(seed)
    minute_K = np.arange(num_days * 1440)
    work_K = 3000 + 2000 * np.sin(minute_K * 2 * np.pi / 1440) + 300 * chance.random(len(minute_K))
    return flat_load(work_K, (num_days - 1) * 1440)


@given(whole)
@settings(max_examples=200, deadline=None)
def test_the_queue_is_that_of_a_loop_and_loses_no_work(seconds: list[tuple[int, int]]) -> None:
    came, could = (np.array(column, dtype=float) for column in zip(*seconds, strict=True))
    waits, queue, done = 0, list[int](), dict[int, int]()
    expected = []
    for second, (work, most) in enumerate(zip(came.tolist(), could.tolist(), strict=True)):
        queue += [second] * int(work)
        served, queue = queue[: int(most)], queue[int(most) :]
        done |= dict.fromkeys(served, second)
        waits = len(queue)
        expected.append(waits)
    assert backlog(came, could).tolist() == expected
    assert sum(came) - expected[-1] <= sum(could)
    still = set(queue)
    delays = [
        (len(seconds) if second in still else done.get(second, second)) - second if came[second] else None
        for second in range(len(seconds))
    ]
    waits_S = backlog(came, could)
    for objective in (0.0, 1.0, 2.5, 7.0, 60.0):
        for delay, mine in zip(delays, late(came, waits_S, objective).tolist(), strict=True):
            assert delay is None or (delay > objective) == mine


@given(whole, st.lists(st.integers(0, 3), min_size=40, max_size=40))
@settings(max_examples=100, deadline=None)
def test_more_replicas_never_make_anybody_wait_longer(seconds: list[tuple[int, int]], more: list[int]) -> None:
    came, could = (np.array(column, dtype=float) for column in zip(*seconds, strict=True))
    added = could + np.array(more[: len(could)])
    assert (backlog(came, added) <= backlog(came, could)).all()
    for objective in (0.0, 3.0):
        assert (late(came, backlog(came, added), objective) <= late(came, backlog(came, could), objective)).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 4))
def test_replicas_are_paid_for_their_cold_start_and_serve_where_they_are_wanted(wanted: list[int], lead: int) -> None:
    wanted_J = np.array(wanted)
    cost = paid(wanted_J, lead)
    ready = serving(cost, lead)
    assert (ready >= wanted_J).all()
    assert (cost >= ready).all()
    for place in range(lead, len(wanted)):
        assert ready[place] == cost[place - lead : place + 1].min()
    assert lead or (cost == wanted_J).all()


def test_no_plan_that_leaves_nothing_waiting_costs_less_than_the_zero_lag_minimum() -> None:
    load, chance = varying(), np.random.default_rng(3)
    lowest = minimum(load, SERVICE)
    cost = replay(load, SERVICE, lowest, "", lead=0).hours
    work_S = load.work_S[load.first * 60 :]
    assert backlog(work_S, np.repeat(lowest * SERVICE.capacity, 60))[59::60].max() < 1e-6
    tried = 0
    for share in (0.0, 0.02, 0.2):
        plan = lowest + chance.integers(0, 2, len(lowest)) - (chance.random(len(lowest)) < share)
        left = backlog(work_S, np.repeat(plan * SERVICE.capacity, 60))[59::60].max()
        if left < 1e-6:
            tried += 1
            assert replay(load, SERVICE, plan, "", lead=0).hours >= cost
        else:
            assert (plan < lowest).any()
    assert tried


@pytest.mark.parametrize("name", BASELINES)
def test_a_predictor_looks_at_nothing_that_is_not_known_yet(name: str) -> None:
    load, lead, at = flat_load(varying(3).interval_work, 1440), 3, 2000
    changed = load.interval_work.copy()
    changed[at - lead :] *= 7
    before, after = (BASELINES[name](each, lead) for each in (load, flat_load(changed, load.first)))
    same = at + 1 - load.first
    np.testing.assert_allclose(before[:same], after[:same])
    assert not np.allclose(before[same:], after[same:])


def replayed(work_of: LoadPredictor | None, load: Load) -> dict[str, float]:
    """Replica-hours at matched misses on that load."""
    from dateshard.service.fleet import replica_hours as hours

    names = {"other": work_of} if work_of else {}
    dials = {
        name: hours.by_factor(each(load, SERVICE.lead), hours.FACTORS[::6])
        for name, each in {**BASELINES, **names}.items()
    }
    dials["constant"] = hours.constants(load, SERVICE)
    curves = {name: hours.turned(load, SERVICE, dial) for name, dial in dials.items()}
    return {name: setting.hours for name, each in curves.items() if (setting := hours.matched(each, 0.0))}


def test_a_predictor_of_ones_own_that_knows_all_is_the_cheapest_and_pays_the_cold_start_alone() -> None:
    load = varying()
    costs = replayed(lambda all_of, lead: all_of.interval_work[all_of.first :], load)
    lowest = replay(load, SERVICE, minimum(load, SERVICE), "", lead=0).hours
    assert costs["other"] == min(costs.values())
    assert lowest <= costs["other"] < 1.3 * lowest
    assert costs["constant"] > 1.5 * lowest


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "requests.csv"
    with open(path, "wb") as file:
        write_burstgpt(Workload(rows_a_day=4_000, num_dates=3, num_holes=1, hole_minutes=90), file)
    return path


def test_the_load_holds_all_work_of_whole_intervals_and_knows_its_hole(trace: Path) -> None:
    records = read_trace(trace)
    load = load_of(records, SERVICE)
    inside = (records.time_R >= load.start) & (records.time_R < load.start + len(load.work_S) * 10**9)
    assert load.work_S.sum() == pytest.approx((0.1 * records.input_R + records.output_R)[inside].sum())
    assert load.requests_S.sum() == inside.sum()
    assert 89 <= (~load.seen_K).sum() <= 110
    assert load.interval_work[~load.seen_K].sum() < 0.002 * load.interval_work.sum()


def test_where_a_constant_number_is_the_cheapest_it_is_said(trace: Path) -> None:
    records = read_trace(trace)
    enough = judged(records, Service(capacity=1e6))
    assert enough.cheapest == "constant"
    assert "no forecast pays" in verdict(enough)
    busy = judged(records, Service(capacity=15.0, objective=120.0))
    assert busy.cheapest != "constant"
    each = busy.at_matched_misses()
    constant, best = each["constant"], each[str(busy.cheapest)]
    assert constant is not None
    assert best is not None
    assert best.hours < constant.hours
    assert best.missed <= 0.01
    assert str(busy.cheapest) in verdict(busy)


def test_the_command_prints_a_row_for_each_and_draws_a_curve_of_each(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["requests", "judge", "--data-path", str(trace), "--objective", "120", "--capacity", "15"]
    assert run([*words, "--plot", "r.html"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [row[0] for row in rows] == ["predictor", "constant", *BASELINES, "zero-lag minimum"]
    page = (tmp_path / "r.html").read_text()
    assert all(name in page for name in BASELINES)
    assert page.count('class="curve line"') >= 3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--capacity", "0"], "no capacity"),
        (["--cold-start", "nan"], "--cold-start nan"),
        (["--misses", "1"], "--misses 1"),
        (["--plot", "r.png"], "not the name of a page"),
        (["--input-weight", "0", "--output-weight", "0"], "no load"),
    ],
)
def test_what_no_fleet_has_is_refused(
    words: list[str], why: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["requests", "judge", "--data-path", str(trace), "--no-model", *words]) == 2
    assert why in capsys.readouterr().err


def test_a_short_trace_is_refused_with_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.csv"
    lines = [f"{60 * k},ChatGPT,10,10,20,API log\n" for k in range(100)]
    path.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(lines))
    assert run(["requests", "judge", "--data-path", str(path)]) == 65
    assert "69 + 15 + 15 whole intervals of 60 s to learn from" in capsys.readouterr().err


def test_half_lives_and_widths_are_those_that_did_best_before_the_replay() -> None:
    steady, lead = varying(9), SERVICE.lead
    noise = np.exp(0.5 * np.random.default_rng(3).standard_normal(len(steady.seen_K)))
    noisy = flat_load(steady.interval_work * noise, steady.first)
    truth_J = steady.interval_work[steady.first :]
    for name in ("same time last week", "EWMA"):
        errors = [np.abs(BASELINES[name](each, lead) - truth_J).mean() for each in (steady, noisy)]
        assert errors[0] < 0.05 * truth_J.mean()
        assert errors[1] < 0.2 * truth_J.mean(), "one interval alone is off by half of it"
