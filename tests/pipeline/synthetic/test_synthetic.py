"""Synthetic dumps: the truth is known, every date can be made alone, and what is missing is missing as asked for."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from dateshard.pipeline.synthetic import (
    City,
    encode,
    expected,
    expected_value,
    incidents,
    node_table,
    records,
    sensors,
    whole_date,
    working,
)
from dateshard.pipeline.synthetic.truth import day, level
from dateshard.shardstore.errors import UsageError

CITY = City(num_sensors=20)
WHOLE = replace(CITY, lost_records=0, outages=0, short_lived=0)
TUESDAY, SUNDAY = dt.date(2024, 3, 5), dt.date(2024, 3, 10)
AT_8, AT_3 = 96, 36  # steps


def grid(city: City, date: dt.date) -> np.ndarray:
    """[T, N, 2] of a date's records, NaN where there is none."""
    frame = whole_date(city, date)
    start, names = day(city, date).start // 1000, list(sensors(city).names)
    step = ((frame["timestamp"].dt.epoch("us") - start) // 300_000_000).to_numpy()
    node = frame["sensor_id"].cast(pl.Enum(names)).to_physical().to_numpy()
    cells = np.full((day(city, date).num_steps, city.num_sensors, 2), np.nan)
    assert not frame.select("timestamp", "sensor_id").is_duplicated().any()
    cells[step, node] = frame.select("speed", pl.col("vehicles").cast(pl.Float64)).fill_null(np.nan).to_numpy()
    return cells


def test_the_mean_of_many_dates_converges_to_the_truth_within_its_standard_error() -> None:
    dates = list(WHOLE.dates(48))
    errors = np.stack([grid(WHOLE, date) - expected(WHOLE, date) for date in dates])
    spread = np.stack([np.sqrt(expected(WHOLE, date)[..., 1]) for date in dates])
    scaled = np.stack([errors[..., 0] / WHOLE.speed_noise, errors[..., 1] / spread], axis=-1)
    for index in range(2):
        known = ~np.isnan(scaled[..., index])
        cells = np.nansum(scaled[..., index], axis=0) / np.sqrt(known.sum(axis=0))  # each should be standard normal
        assert abs(cells.mean()) < 4 / np.sqrt(cells.size)
        assert cells.std() == pytest.approx(1, abs=0.03)
        assert 0.94 < (np.abs(cells) < 2).mean() < 0.968
        assert np.nanstd(scaled[..., index]) == pytest.approx(1, abs=0.01)
    few, many = (np.sqrt(np.nanmean(np.nanmean(errors[:n, :, :, 0], axis=0) ** 2)) for n in (12, 48))
    assert few / many == pytest.approx(2, rel=0.05)


def test_a_date_made_alone_equals_the_date_made_in_a_series() -> None:
    series = {date: encode(whole_date(CITY, date)) for date in CITY.dates(6)}
    date = CITY.first + dt.timedelta(days=4)
    assert series[date] == encode(whole_date(City(num_sensors=20), date))
    assert len(set(series.values())) == 6
    code = (
        "import datetime as dt, sys; from dateshard.pipeline.synthetic import City, encode, whole_date;"
        f"sys.stdout.buffer.write(encode(whole_date(City(num_sensors=20), dt.date.fromisoformat('{date}'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == series[date]
    assert encode(whole_date(replace(CITY, seed=8), date)) != series[date]


def test_how_many_rows_are_made_at_once_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(records(CITY, TUESDAY))
    monkeypatch.setattr("dateshard.pipeline.synthetic.readings.ROWS_AT_ONCE", 1)
    hours = list(records(CITY, TUESDAY))
    assert (len(whole), len(hours)) == (1, 24)
    assert pl.concat(hours).equals(whole[0])


@pytest.mark.parametrize("num_sensors", [1, 17, 30_000, 100_000])
def test_a_city_of_any_size_comes_in_parts_of_bounded_size(num_sensors: int) -> None:
    city = City(num_sensors=num_sensors)
    frame = next(iter(records(city, TUESDAY)))
    assert 0 < len(frame) <= max(1 << 20, 12 * num_sensors)
    assert set(frame["sensor_id"]) <= set(sensors(city).names)
    assert list(sensors(city).names) == sorted(sensors(city).names)


@pytest.mark.parametrize("settings", [{"num_sensors": 0}, {"num_sensors": 100_001}, {"seed": -1}])
def test_a_city_that_cannot_be_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="Choose"):
        City(**settings)


def test_a_cell_of_the_truth_is_asked_for_by_name() -> None:
    truth = expected(CITY, TUESDAY)
    assert expected_value(CITY, TUESDAY, 100, "s00007", "vehicles") == pytest.approx(truth[100, 7, 1], rel=1e-12)
    np.testing.assert_allclose(expected(CITY, TUESDAY, slice(90, 110)), truth[90:110], rtol=1e-12)


def test_weekdays_have_rush_hours_and_weekends_have_none() -> None:
    weeks = [dt.timedelta(days=7 * week) for week in range(8)]
    weekday = np.mean([expected(CITY, TUESDAY + week) for week in weeks], axis=0)
    weekend = np.mean([expected(CITY, SUNDAY + week) for week in weeks], axis=0)
    inbound = sensors(CITY).inbound_N
    assert (weekday[AT_8, :, 1] > 2.5 * weekday[AT_3, :, 1]).all()
    assert (weekday[AT_8, inbound, 1] > 2 * weekend[AT_8, inbound, 1]).all()
    assert (weekday[AT_8 - 12 : AT_8 + 12, inbound, 1].mean(axis=0) > weekday[198:222, inbound, 1].mean(axis=0)).all()
    assert (weekday[AT_8, inbound, 0] < weekday[AT_3, inbound, 0]).all()


def test_sensors_of_one_corridor_move_together_and_those_of_two_do_not() -> None:
    city = City(num_sensors=48, incidents=0)
    tuesdays = [TUESDAY + dt.timedelta(days=7 * week) for week in range(52)]
    noon = np.array([np.log(expected(city, date, slice(144, 145))[0, :, 1] / level(city, date)) for date in tuesdays])
    correlation = np.corrcoef(noon.T)
    assert min(correlation[k, k + 1] for k in range(47) if (k + 1) % 16) > 0.8
    assert np.abs(correlation[:16, 16:32]).mean() < 0.2


def test_the_truth_goes_on_smoothly_over_midnight() -> None:
    dates = [TUESDAY, TUESDAY + dt.timedelta(days=1)]
    joined = np.concatenate([expected(replace(CITY, incidents=0), date) for date in dates])
    change = np.abs(np.diff(joined[..., 1], axis=0) / joined[:-1, :, 1])
    assert change[287].max() <= change.max()
    assert change[287].max() < 0.05


def test_demand_grows_by_the_year_and_swings_with_the_season() -> None:
    later = CITY.first.replace(year=2027)
    assert level(CITY, later) / level(CITY, CITY.first) == pytest.approx(1 + 3 * CITY.growth, abs=0.01)
    year = [level(replace(CITY, growth=0), CITY.first + dt.timedelta(days=day)) for day in range(365)]
    assert np.mean(year) == pytest.approx(1, abs=1e-3)
    assert (min(year), max(year)) == pytest.approx((0.92, 1.08), abs=1e-3)
    assert max(abs(a - b) for a, b in pairwise(year)) < 0.002


def test_an_incident_slows_its_place_and_its_reach_grows() -> None:
    city = City(num_sensors=320)
    date = next(d for d in city.dates(50) if len(list(incidents(city, d))) == 4)
    calm, truth = expected(replace(city, incidents=0), date), expected(city, date)
    lost = 1 - (truth[..., 0] - 8) / (calm[..., 0] - 8)
    assert lost.min() > -1e-12
    seen = 0
    for incident in incidents(city, date):
        road = slice(incident.corridor * 16, incident.corridor * 16 + 16)
        middle = round((incident.start + incident.seconds / 2 - day(city, date).start / 1e9) / 300)
        alone = sum(other.corridor == incident.corridor for other in incidents(city, date)) == 1
        if not alone or not 20 < middle < 220:
            continue
        seen += 1
        nearest = int(np.abs(sensors(city).place_N[road] - incident.place).argmin())
        assert lost[middle, road][nearest] == pytest.approx(incident.severity, rel=0.15)
        early = round(middle - incident.seconds / 600 + 3)
        assert (lost[early, road] > 0.01).sum() <= (lost[middle, road] > 0.01).sum()
        assert (lost[middle + 60 :, road] == 0).all()
    assert seen
    roads = {incident.corridor for incident in incidents(city, date)}
    before = {incident.corridor for incident in incidents(city, date - dt.timedelta(days=1))}
    others = [k for k in range(320) if k // 16 not in roads | before]
    assert others
    assert np.array_equal(truth[:, others], calm[:, others])


def test_records_get_lost_at_the_rate_asked_for() -> None:
    city = replace(CITY, num_sensors=200, lost_records=0.1, outages=0, short_lived=0)
    missing = 1 - len(whole_date(city, TUESDAY)) / (288 * 200)
    assert missing == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / (288 * 200)))
    assert len(whole_date(WHOLE, TUESDAY)) == 288 * 20


def test_an_outage_lasts_hours_and_reaches_over_midnight() -> None:
    city = City(num_sensors=50, outages=0.3, lost_records=0, short_lived=0)
    dates = [TUESDAY + dt.timedelta(days=index) for index in range(12)]
    present = np.concatenate([~np.isnan(grid(city, date)[..., 1]) for date in dates])
    assert np.array_equal(present, np.concatenate([working(city, date) for date in dates]))
    lengths, over_midnight = [], 0
    for sensor in range(50):
        edges = np.flatnonzero(np.diff(np.concatenate([[True], present[:, sensor], [True]])))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            lengths.append(last - first)
            over_midnight += first // 288 != (last - 1) // 288
    assert 100 < len(lengths) < 260  # 180 on average, some of them joined
    assert np.quantile(lengths, 0.05) >= 12
    assert np.median(lengths) < 144 + 1
    assert over_midnight > 20


def test_sensors_appear_late_and_vanish() -> None:
    city = City(num_sensors=200, short_lived=0.2, lost_records=0, outages=0)
    where, first = sensors(city), city.first.toordinal()
    late, gone = where.born_N > first, where.gone_N < first + 366
    assert 20 < late.sum() < 60
    assert 20 < gone.sum() < 60
    for index in (0, 15, 100, 400):
        date = city.first + dt.timedelta(days=index)
        sending = set(whole_date(city, date)["sensor_id"])
        ordinal = date.toordinal()
        lives = (where.born_N <= ordinal) & (ordinal < where.gone_N)
        assert sending == {name for name, alive in zip(where.names, lives, strict=True) if alive}
    assert len(sending) == 200 - gone.sum()


def test_whole_dates_are_missing_at_the_rate_asked_for_and_the_others_stay_the_same() -> None:
    some = replace(CITY, missing_dates=0.1)
    kept = list(some.dates(3650))
    assert 3650 * 0.9 - 75 < len(kept) < 3650 * 0.9 + 75
    assert list(some.dates(100)) == [date for date in kept if date < CITY.first + dt.timedelta(days=100)]
    assert whole_date(some, kept[-1]).equals(whole_date(CITY, kept[-1]))


@pytest.mark.parametrize(
    ("zone", "date", "hours"),
    [
        ("Europe/Berlin", dt.date(2024, 3, 31), 23),
        ("Europe/Berlin", dt.date(2024, 10, 27), 25),
        ("Australia/Lord_Howe", dt.date(2024, 4, 7), 24.5),
        ("Pacific/Apia", dt.date(2011, 12, 31), 24),  # the date before it was never
    ],
)
def test_dates_are_as_long_as_their_zone_says(zone: str, date: dt.date, hours: float) -> None:
    city = replace(WHOLE, timezone=zone)
    frame = whole_date(city, date)
    assert len(frame) == hours * 12 * 20
    assert set(frame["timestamp"].dt.date()) == {date}
    assert frame["timestamp"].is_sorted()


def test_a_date_that_the_zone_never_had_has_no_dump() -> None:
    samoa = replace(CITY, timezone="Pacific/Apia", first=dt.date(2011, 12, 29))
    assert [date.day for date in samoa.dates(3)] == [29, 31]


def test_rush_hours_follow_the_clock_of_the_zone() -> None:
    berlin, utc = replace(WHOLE, timezone="Europe/Berlin", incidents=0), replace(WHOLE, incidents=0)
    dates = [TUESDAY + dt.timedelta(days=7 * week) for week in range(12)]
    peaks = [np.mean([expected(c, d)[60:132, ::2, 1] for d in dates], axis=(0, 2)).argmax() for c in (berlin, utc)]
    assert abs(int(peaks[0]) - int(peaks[1])) <= 3


def test_the_node_table_puts_the_ring_around_the_centre_and_roads_out_of_town() -> None:
    table = node_table(City(num_sensors=80))
    north = (table["latitude"] - 50.0) * 111.32
    east = (table["longitude"] - 10.0) * 111.32 * np.cos(np.radians(50.0))
    distance = (north**2 + east**2).sqrt()
    assert distance[:16].to_numpy() == pytest.approx(6, abs=0.01)
    assert distance[16:].min() > 2
    assert distance[16:].max() < 22
    assert (distance[16:32].diff().drop_nulls() > 0).all()
    assert not table.select("latitude", "longitude").is_duplicated().any()
