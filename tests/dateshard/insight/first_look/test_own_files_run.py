"""The raw data of every example in five forms: what `init --from` writes for them is prepared and trained on as it stands."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dateshard.examples import flights
from dateshard.pipeline.synthetic import City
from dateshard.pipeline.synthetic.formats import in_text
from dateshard.pipeline.synthetic.machines import machines
from dateshard.pipeline.synthetic.motion import Lab, dates, recording
from dateshard.pipeline.synthetic.readings import whole_date
from dateshard.pipeline.synthetic.request_load import Workload
from dateshard.pipeline.synthetic.request_rows import burstgpt
from dateshard.settings.resolved import check
from dateshard.shardstore.dataset import Dataset

Days = tuple[tuple[dt.date | None, pl.DataFrame], ...]
Run = Callable[..., Any]
NUM_DATES = 5
SIMPLE = ["trainer.training.epochs=1", "trainer.training.max_steps=2", "trainer.baselines=[repeat, mean]"]


def traffic(num_dates: int) -> Iterator[tuple[dt.date | None, pl.DataFrame]]:
    city = City(num_sensors=4, lost_records=0.02)
    yield from ((date, in_text(whole_date(city, date))) for date in city.dates(num_dates))


def flown(num_dates: int) -> Iterator[tuple[dt.date | None, pl.DataFrame]]:
    _, *days = islice(flights.dumps(), num_dates + 1)
    for name, content in days:
        yield dt.date.fromisoformat(name[:10]), pl.read_csv(content, infer_schema=False)


def sensors(num_dates: int) -> Iterator[tuple[dt.date | None, pl.DataFrame]]:
    lab = Lab(num_subjects=5, num_sensors=3, num_joints=2, seconds=6)
    yield from ((date, recording(lab, date)) for date in dates(num_dates))


def tabular(_num_dates: int) -> Iterator[tuple[dt.date | None, pl.DataFrame]]:
    table = machines(600)
    yield from ((None, rows) for rows in table.iter_slices(200))


def requests(num_dates: int) -> Iterator[tuple[dt.date | None, pl.DataFrame]]:
    load = Workload(rows_a_day=250)
    yield from ((load.dates[day], burstgpt(load, day)) for day in range(num_dates))


EXAMPLES = {"traffic": traffic, "flights": flown, "sensors": sensors, "tabular": tabular, "requests": requests}


@cache
def days_of(example: str) -> Days:
    return tuple(EXAMPLES[example](NUM_DATES))


def together(days: Days) -> pl.DataFrame:
    return pl.concat(frame for _, frame in days)


def name_of(date: dt.date | None, number: int) -> str:
    return f"part_{number}.csv" if date is None else f"{date}.csv"


def plain(days: Days, folder: Path) -> Path:
    for number, (date, frame) in enumerate(days):
        frame.write_csv(folder / name_of(date, number))
    return folder


def one_file(days: Days, folder: Path) -> Path:
    together(days).write_csv(folder / "all.csv")
    return folder / "all.csv"


def packed(days: Days, folder: Path) -> Path:
    for number, (date, frame) in enumerate(days):
        (folder / f"{name_of(date, number)}.gz").write_bytes(gzip.compress(frame.write_csv().encode(), 1))
    return folder


def wide(days: Days, folder: Path) -> Path:
    """A column for each node, or whatever comes nearest to it."""
    for number, (date, frame) in enumerate(days):
        _as_wide(frame).write_csv(folder / name_of(date, number))
    return folder


def _as_wide(frame: pl.DataFrame) -> pl.DataFrame:
    names = frame.columns
    if "sensor_id" in names:
        return frame.pivot("sensor_id", index="timestamp", values="speed", aggregate_function="last", sort_columns=True)
    if "destination" in names:  # flights an hour
        hours = frame.select(pl.col("scheduled").str.slice(0, 13) + ":00-05:00", "destination", one=pl.lit(1))
        return hours.pivot("destination", index="scheduled", values="one", aggregate_function="sum").fill_null(0)
    if "subject" in names:
        return frame.filter(pl.col("subject") == frame["subject"][0]).drop("subject")
    if "Model" in names:  # tokens a minute
        minutes = frame.with_columns((pl.col("Timestamp").cast(pl.Float64) // 60 * 60).cast(pl.Int64))
        spread = minutes.pivot("Model", index="Timestamp", values="Total tokens", aggregate_function="sum")
        return spread.sort("Timestamp").fill_null(0)
    return frame.with_columns((pl.col("maker") == name).cast(pl.Int8).alias(f"maker_{name}") for name in "ABC")


def messy(days: Days, folder: Path) -> Path:
    """Semicolons, decimal commas, a byte order mark, three ways to miss a value, doubled rows in no order, one column more."""
    for number, (date, frame) in enumerate(days):
        chance = random.Random(number)
        rows = [_messy(row, frame, chance) for row in frame.rows()]
        rows += [rows[k] for k in range(0, len(rows), 17)]
        if frame.columns[0] != "Timestamp":  # whose order alone says that it is a time
            chance.shuffle(rows)
        text = io.StringIO()
        text.write("\ufeff" + ";".join([*frame.columns, "remark"]) + "\r\n")
        text.writelines(";".join(row) + "\r\n" for row in rows)
        (folder / name_of(date, number)).write_bytes(text.getvalue().encode())
    return folder


def _messy(row: tuple[Any, ...], frame: pl.DataFrame, chance: random.Random) -> list[str]:
    values = []
    for name, value in zip(frame.columns, row, strict=True):
        text = "" if value is None else str(value)
        number = text.lstrip("-").replace(".", "", 1).isdigit()
        if number and name not in (frame.columns[0], "flight") and chance.random() < 0.03:
            text = chance.choice(["-9999", "NA", ""])
        values.append(text.replace(".", ",") if number else text)
    return [*values, chance.choice(["", "ok", "Überprüft"])]


FORMS = {"plain": plain, "wide": wide, "one": one_file, "gz": packed, "messy": messy}
LAYOUTS = {"traffic": "grid", "flights": "events", "sensors": "events", "tabular": "table", "requests": "events"}
TRAINED = {("traffic", "messy"), ("flights", "plain"), ("sensors", "gz"), ("tabular", "messy"), ("requests", "one")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_guessed_of_an_examples_raw_data_is_prepared_and_trained_on(
    example: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ds: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    days = days_of(example)
    place = FORMS[form](days, tmp_path / "mine").relative_to(tmp_path)
    said = ds("init", "--from", str(place)).out
    (config,) = (tmp_path / "configs").iterdir()
    assert f"wrote configs/{config.name}" in said
    assert "\nnext: " in said
    settings, faults = check([str(config)], [])
    assert settings is not None
    assert faults == []
    pipeline = settings.pipeline
    assert pipeline is not None
    if form != "wide":
        assert pipeline.layout == LAYOUTS[example]
    ds("preprocess", "-c", str(config), "--workers", "1")
    dataset = Dataset.open(Path("data/shards", settings.dataset))
    assert len(dataset.manifest.dates) == (1 if example == "tabular" else NUM_DATES)
    if example == "traffic":
        assert dataset.manifest.num_nodes == 4
        assert pipeline.step == "5m"
    if (example, form) in TRAINED:
        ds("train", "-c", str(config), *SIMPLE)
