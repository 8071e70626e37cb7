"""Whatever rows a date has: the history's bytes are those of the shard that preprocess would publish."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dateshard.pipeline.acts import measure_date, normalise_date
from dateshard.pipeline.generation_settings import settings_of, table_of, target_of
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.recent.raw_files import raw_files
from dateshard.pipeline.recent.recent_steps import RecentSteps, read_history
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError
from dateshard.shardstore.identity import hash_file
from dateshard.shardstore.times.instants import parse_instant
from tests.conftest import World, build_world

STEPS = 24
DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=number) for number in range(4)]
MEMORY = 1 << 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = build_world(tmp_path_factory.mktemp("history"), DATES[:3], split={"train": "..2024-03-02"}, missing=0.4)
    made.tree["pipeline"]["features"] |= {
        "volume": {"column": "vehicles", "aggregate": "sum", "transform": "log1p", "fill": "mean", "fill_limit": 2},
        "last": {"column": "vehicles", "aggregate": "last", "scale": "minmax", "scale_per": "node"},
        "rows": {"aggregate": "count", "scale": "none"},
    }
    made.prepare()
    return made


def shard_of(world: World, path: Path, date: dt.date) -> tuple[np.ndarray, np.ndarray]:
    """(values, mask) as the two acts publish them for such a dump."""
    dataset = world.open()
    size, digest = hash_file(path)
    dump = Dump(name=str(path), size=size, hash=digest, file_names=(str(path),), hashes=(digest,))
    config = settings_of(dataset)
    key = digest[:16]
    measure_date(world.store, dump, date, key, config, table_of(dataset, config), MEMORY)
    done = normalise_date(world.store, date, key, config, target_of(dataset), MEMORY)
    shape = (done.entry.num_steps, dataset.manifest.num_nodes, len(dataset.features))
    folder = world.store / "shards" / str(date) / done.entry.parts[0].id
    values = np.fromfile(folder / "values" / "0.0.0", dtype="<f4").reshape(shape)
    mask = folder / "observed" / "0.0.0"
    return values, np.fromfile(mask, dtype=bool).reshape(shape) if mask.exists() else np.ones(shape, bool)


def history_of(dataset: Dataset, path: Path, num_steps: int, until: str | None = None) -> RecentSteps:
    config = settings_of(dataset)
    end = parse_instant(until, dataset.manifest.timezone, end=True) if until else None
    with raw_files([str(path)], config) as raw:
        return read_history(raw, target_of(dataset), table_of(dataset, config), num_steps, end)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kept=st.lists(st.booleans(), min_size=STEPS * 3, max_size=STEPS * 3),
    seed=st.integers(0, 3),
    stop=st.integers(1, STEPS),
)
def test_any_rows_and_any_end_give_the_bytes_of_the_shard(
    world: World, tmp_path: Path, kept: list[bool], seed: int, stop: int
) -> None:
    """Also where the dump ends early: rows that are yet to come change nothing of the steps before them."""
    date, dataset = DATES[2], world.open()
    generator = np.random.default_rng(seed)
    rows = [
        f"{date}T{step:02d}:{int(generator.integers(0, 60)):02d}:00+00:00,n{node},{generator.normal():.3f},{node + step}"
        for step in range(STEPS)
        for node in range(3)
        if kept[step * 3 + node]
    ]
    whole, early = tmp_path / f"{date}.csv", tmp_path / "early" / f"{date}.csv"
    early.parent.mkdir(exist_ok=True)
    whole.write_text("\n".join(["time,node,speed,vehicles", *rows]) + "\n")
    early.write_text("\n".join(["time,node,speed,vehicles", *(r for r in rows if int(r[11:13]) < stop)]) + "\n")
    if not rows:
        return
    values, seen = shard_of(world, whole, date)
    found = history_of(dataset, whole, STEPS, str(date))
    assert found.values_HNF.tobytes() == values.tobytes()
    assert found.observed_HNF.tobytes() == seen.tobytes()
    until = f"{date}T{stop:02d}:00" if stop < STEPS else str(date)
    if early.read_text().count("\n") > 1:
        before = history_of(dataset, early, stop, until)
        assert before.values_HNF.tobytes() == shard_of(world, early, date)[0][:stop].tobytes()
        others = [
            place for place, name in enumerate(dataset.feature_names) if name != "rows"
        ]  # which knows the date's nodes
        assert before.values_HNF[..., others].tobytes() == values[:stop][..., others].tobytes()
    last = max((int(row[11:13]) for row in rows), default=0)
    assert history_of(dataset, whole, last + 1).values_HNF.tobytes() == values[: last + 1].tobytes()


def test_each_needed_dump_is_decoded_once_and_no_other_is_opened(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dateshard.pipeline import arrays
    from dateshard.pipeline.recent import raw_files as recent

    decoded: list[dt.date] = []
    real = arrays.stage

    def counting(dump: Dump, date: dt.date, *more: Any, **named: Any) -> Any:
        decoded.append(date)
        return real(dump, date, *more, **named)

    monkeypatch.setattr(recent, "stage", counting)
    found = history_of(world.open(), world.folder / "raw" / "{date}.csv", 30)
    assert decoded == [DATES[2], DATES[1]]
    assert [piece.day.date for piece in found.pieces] == DATES[1:3]
    assert not list(Path(tmp_path).glob("dateshard-*"))


def test_what_a_history_lacks_is_told_before_anything_is_decoded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.pipeline.recent import raw_files as recent

    monkeypatch.setattr(recent, "stage", lambda *_, **__: pytest.fail("nothing can be made of it"))
    pattern = world.folder / "raw" / "{date}.csv"
    with pytest.raises(DumpError, match=r"has 72 steps \(2024-03-01..2024-03-03\), and the model looks back 80"):
        history_of(world.open(), pattern, 80, "2024-03-03")
    with pytest.raises(DumpError, match=r"raw/2024-02-29.csv.*Add the dumps of 2024-02-29"):
        history_of(world.open(), pattern, 80, "2024-03-03")
    with pytest.raises(DumpError, match="lacks 2024-03-04"):
        history_of(world.open(), pattern, 30, "2024-03-04")


def test_a_missing_date_in_between_is_named(world: World) -> None:
    config, dataset = settings_of(world.open()), world.open()
    names = [str(world.dump(DATES[number])) for number in (0, 2)]
    with raw_files(names, config) as raw, pytest.raises(DumpError, match="lacks 2024-03-02"):
        read_history(raw, target_of(dataset), table_of(dataset, config), 60)


@pytest.mark.parametrize(
    ("pattern", "name", "date"),
    [
        ("raw/{date}.csv", "elsewhere/2024-03-01.csv", "2024-03-01"),
        ("raw/{date:%d.%m.%Y}.csv", "01.03.2024.csv", "2024-03-01"),
        ("raw/{date:%Y}/{date:%m%d}.csv", "x/20240301.csv", "2024-03-01"),
        ("raw/{date}/part-*.csv", "there/2024-03-01", "2024-03-01"),
        ("all.csv", "readings-20240301.csv.gz", "2024-03-01"),
        ("all.csv", "readings-20241301.csv", None),
        ("all.csv", "all.csv", None),
        ("raw/{date}.csv", "1234567890123.csv", None),
    ],
)
def test_a_file_tells_its_date_by_its_name(pattern: str, name: str, date: str | None) -> None:
    from dateshard.pipeline.raw.dumps import date_of

    assert date_of(Path(name), pattern) == (date and dt.date.fromisoformat(date))


def test_a_history_over_a_change_of_the_clock_has_the_steps_of_its_dates(make_world: Callable[..., World]) -> None:
    dates = [dt.date(2013, 3, 9), dt.date(2013, 3, 10), dt.date(2013, 3, 11)]
    world = make_world(dates, zone="America/New_York", split={"train": "..2013-03-10"})
    world.prepare()
    dataset = world.open()
    found = history_of(dataset, world.folder / "raw" / "{date}.csv", 48, "2013-03-11")
    assert [(piece.day.num_steps, piece.rows) for piece in found.pieces] == [
        (24, slice(23, 24)),
        (23, slice(0, 23)),
        (24, slice(0, 24)),
    ]
    whole = np.concatenate([np.asarray(dataset.map(day.date)) for day in dataset.days])
    assert found.values_HNF.tobytes() == whole[-48:].tobytes()
