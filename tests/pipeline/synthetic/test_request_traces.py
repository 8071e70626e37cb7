"""Invented traces of requests: what is stated as their truth holds on their rows."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from dateshard.pipeline.synthetic.request_load import Floats, Workload, expected_wait, holes, intensities
from dateshard.pipeline.synthetic.request_rows import (
    Requests,
    burstgpt,
    requests_of,
    successes,
    write_azure,
    write_burstgpt,
    write_mooncake,
)
from dateshard.pipeline.synthetic.request_truth import truth_of

BUSY = Workload(rows_a_day=20_000, num_dates=3)


def explained(expected_R: Floats, came_R: Floats) -> float:
    return float(1 - ((came_R - expected_R) ** 2).sum() / ((came_R - came_R.mean()) ** 2).sum())


def dates_of(workload: Workload) -> list[Requests]:
    return [successes(requests_of(workload, day)) for day in range(workload.num_dates)]


@pytest.mark.parametrize("tick", [0.0, 3.0])
def test_who_knows_the_intensity_explains_the_stated_share_of_the_next_gap_and_no_more(tick: float) -> None:
    workload = replace(BUSY, tick_seconds=tick)
    rows = dates_of(workload)
    gaps = np.concatenate([np.diff(each.time_R) / 1e9 for each in rows])
    known = np.concatenate([expected_wait(workload, each.day, each.exact_R)[:-1] for each in rows])
    truth = truth_of(workload)
    assert explained(known, gaps) == pytest.approx(truth.next_gap, abs=0.01)
    assert abs((gaps - known).mean()) < 4 * gaps.std() / np.sqrt(len(gaps))  # nothing is left over on the whole
    before = np.concatenate([[gaps.mean()], gaps[:-1]])
    assert explained(before, gaps) < truth.next_gap


def test_who_knows_all_sessions_explains_the_stated_share_of_the_next_tokens() -> None:
    workload = replace(BUSY, in_session=0.8, open_sessions=4, tail=0.5)
    truth, rows = truth_of(workload), dates_of(workload)
    for stated, next_R, came_R in (
        (truth.next_input, "next_input_R", "input_R"),
        (truth.next_output, "next_output_R", "output_R"),
    ):
        known = np.concatenate([getattr(each, next_R)[:-1] for each in rows])
        came = np.concatenate([getattr(each, came_R)[1:] for each in rows]).astype(np.float64)
        assert stated > 0.05
        assert explained(known, came) == pytest.approx(stated, abs=0.01)
        assert abs((came - known).mean()) < 5 * came.std() / np.sqrt(len(came))


def test_tokens_without_sessions_cannot_be_known_before() -> None:
    truth = truth_of(replace(BUSY, in_session=0.0))
    assert truth.next_input == pytest.approx(0, abs=1e-9)
    assert truth.next_output == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("told", [0.0, 0.3, 0.8])
def test_a_request_tells_the_given_share_of_its_response(told: float) -> None:
    workload = replace(BUSY, told_by_input=told, in_session=0.0, tail=0.5)
    truth, rows = truth_of(workload), dates_of(workload)
    assert truth.logs_given_input == pytest.approx(told, abs=0.02)
    known = np.concatenate([each.given_input_R for each in rows])
    came = np.concatenate([each.output_R for each in rows]).astype(np.float64)
    assert explained(known, came) == pytest.approx(truth.output_given_input, abs=0.03)


def test_the_minutes_receive_what_their_intensity_says() -> None:
    workload = replace(BUSY, num_dates=2, failures=0.0)
    for day, load_M in enumerate(intensities(workload)):
        count_M = np.bincount((requests_of(workload, day).exact_R // 60).astype(int), minlength=1440)
        assert np.mean((count_M - load_M) ** 2 / load_M) == pytest.approx(1, abs=0.15)  # Poisson: variance is the mean


@pytest.mark.parametrize("rows", [1_500, 150_000])
def test_a_date_has_about_as_many_rows_as_were_asked_for(rows: int) -> None:
    workload = Workload(rows_a_day=rows, bursts_a_day=0, unrest=0, weekend=0, num_dates=1)
    assert len(requests_of(workload, 0)) == pytest.approx(rows, abs=5 * np.sqrt(rows))


def test_sessions_grow_and_growth_and_weekends_show() -> None:
    rows = requests_of(replace(BUSY, in_session=0.6, tail=0.3), 0)
    order = np.argsort(rows.session_R, kind="stable")
    again = np.diff(rows.session_R[order]) == 0
    growing = np.diff(rows.input_R[order])[again] > 0
    assert growing.mean() > 0.95  # what is cut off does not grow
    grown = replace(BUSY, growth=0.7, token_growth=0.5, unrest=0, bursts_a_day=0, in_session=0.0)
    first, later = requests_of(grown, 0), requests_of(grown, 7)
    assert len(later) / len(first) == pytest.approx(np.exp(0.7), rel=0.05)
    assert np.median(later.input_R) / np.median(first.input_R) == pytest.approx(np.exp(0.5), rel=0.05)
    calm = replace(BUSY, unrest=0, bursts_a_day=0, weekend=0.5)
    assert len(requests_of(calm, 5)) / len(requests_of(calm, 4)) == pytest.approx(0.5, rel=0.05)


def test_a_clock_of_three_seconds_ties_most_stamps_and_a_hole_is_empty() -> None:
    workload = Workload(rows_a_day=100_000, num_dates=2, tick_seconds=3, num_holes=1, failures=0.1)
    ((day, hole),) = holes(workload).items()
    rows = requests_of(workload, day)
    assert (np.diff(rows.time_R) == 0).mean() > 0.5
    assert not (rows.time_R % 3_000_000_000).any()
    minute_R = rows.time_R // 60_000_000_000
    assert not ((minute_R >= hole.start) & (minute_R < hole.stop)).any()
    assert (rows.output_R == 0).mean() == pytest.approx(0.1, abs=0.01)


def test_any_date_can_be_made_alone_and_the_seed_decides() -> None:
    file = io.BytesIO()
    small = Workload(rows_a_day=1_500, num_dates=3)
    write_burstgpt(small, file)
    alone = pl.concat([burstgpt(small, day) for day in (0, 1, 2)])
    assert file.getvalue() == alone.write_csv().encode()
    assert alone["Timestamp"].is_sorted()
    assert not burstgpt(replace(small, seed=12), 1).equals(burstgpt(small, 1))


def test_three_formats_hold_the_same_requests() -> None:
    small = Workload(rows_a_day=1_500, num_dates=2, tick_seconds=3)
    files = [io.BytesIO() for _ in range(3)]
    write_burstgpt(small, files[0], newer=True)
    write_azure(small, files[1])
    write_mooncake(small, files[2])
    burst = pl.read_csv(files[0].getvalue()).filter(pl.col("Response tokens") > 0)
    assert burst.columns == [
        *("Timestamp", "Session ID", "Elapsed time", "Model"),
        *("Request tokens", "Response tokens", "Total tokens", "Log Type"),
    ]
    azure = pl.read_csv(files[1].getvalue(), try_parse_dates=True)
    mooncake = [json.loads(line) for line in files[2].getvalue().splitlines()]
    assert burst["Request tokens"].to_list() == azure["ContextTokens"].to_list()
    assert burst["Response tokens"].to_list() == [row["output_length"] for row in mooncake]
    assert (burst["Timestamp"] * 1000).to_list() == [row["timestamp"] for row in mooncake]
    begin = pl.datetime(2024, 4, 1, time_unit="us")
    assert azure.select((pl.col("TIMESTAMP") - begin).dt.total_seconds())["TIMESTAMP"].to_list() == (
        burst["Timestamp"].to_list()
    )
