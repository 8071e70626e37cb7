"""One file of many dates: its spills depend on its rows alone, its memory on none, and messages name the file."""

from __future__ import annotations

import datetime as dt
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.observe import whole_file
from dateshard.pipeline.raw import cutting
from dateshard.pipeline.raw.cut_index import Cut
from dateshard.pipeline.raw.cutting import cut
from dateshard.pipeline.raw.formats import batch_rows
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.errors import DumpError

Make = Callable[..., Any]
FIRST = dt.date(2012, 1, 1)


def config_of(path: Path, **source: Any) -> Pipeline:
    given = {"path": str(path), "time": "time", "time_format": "s", **source}
    return Pipeline.model_validate({"source": given, "step": "1h", "features": {"speed": {}}})


def cut_of(root: Path, config: Pipeline) -> Cut:
    with StoreWriter(root):
        whole = whole_file(config)
        assert whole is not None
        return cut(root, config, whole)


def rows_of(num_dates: int, rows_a_date: int) -> pl.DataFrame:
    """Rows of `num_dates` dates in random order."""
    random, day = np.random.default_rng(1), np.repeat(np.arange(num_dates), rows_a_date)
    start = (FIRST - dt.date(1970, 1, 1)).days
    seconds = (start + day) * 86400 + random.integers(0, 86400, len(day))
    frame = pl.DataFrame(
        {"time": seconds, "node": [f"n{k % 7}" for k in range(len(day))], "speed": random.normal(size=len(day))}
    )
    return frame.sample(fraction=1, shuffle=True, seed=2)


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that were held whenever rows went to the spills."""
    found: list[int] = []
    flush = cutting._Spills._flush

    def counted(spills: cutting._Spills) -> None:
        found.append(spills._num_bytes)
        flush(spills)

    monkeypatch.setattr(cutting._Spills, "_flush", counted)
    return found


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_spills_hold_the_rows_of_their_date_whatever_is_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: list[int], suffix: str
) -> None:
    frame, path = rows_of(30, 40), tmp_path / f"all.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path, row_group_size=100)
    config = config_of(path, node="node")
    whole = cut_of(tmp_path / "whole", config)
    flushes.clear()
    monkeypatch.setattr(cutting, "HELD_BYTES", 5000)
    monkeypatch.setattr("dateshard.pipeline.raw.formats.text.BLOCK_BYTES", 2000)
    monkeypatch.setattr("dateshard.pipeline.raw.formats.columnar.read_rows", lambda _: 60)
    again = cut_of(tmp_path / "again", config)
    assert (again.dates, again.rows) == (whole.dates, whole.rows)
    assert len(flushes) > 5
    assert max(flushes) < 3 * 5000
    assert sorted(whole.dates) == [FIRST + dt.timedelta(days=k) for k in range(30)]
    monkeypatch.setattr(cutting, "batch_rows", lambda _: 7)
    small = cut_of(tmp_path / "small", config)
    for date in whole.dates:
        spills = [pl.read_ipc(done.folder / f"{date}.arrow") for done in (whole, small)]
        assert spills[0].equals(spills[1])
        assert len(spills[0]) == 40
    assert whole.rows.accepted == len(frame) == 30 * 40


def test_a_wide_file_is_held_by_its_bytes_not_by_its_rows(tmp_path: Path, flushes: list[int]) -> None:
    random, path = np.random.default_rng(1), tmp_path / "wide.parquet"
    times = pl.Series("time", np.arange(3000) * 600 + 1_700_000_000)
    columns = [pl.Series(f"s{k}", random.normal(size=3000)) for k in range(300)]
    pl.DataFrame([times, *columns]).write_parquet(path, row_group_size=100)  # 7 MB of numbers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "HELD_BYTES", 1 << 20)
        patch.setattr("dateshard.pipeline.raw.formats.BATCH_ROWS", 2000)
        assert batch_rows(4) == 2000
        assert batch_rows(301) == 106
        done = cut_of(tmp_path / "store", config_of(path, wide={"value": "speed", "nodes": "s*"}))
    assert done.rows.accepted == 3000
    assert len(flushes) > 4
    assert max(flushes) < (1 << 20) + 106 * 301 * 9


@pytest.mark.slow
def test_a_file_of_three_thousand_dates_in_random_order_is_cut(tmp_path: Path) -> None:
    frame = rows_of(3000, 100)
    frame.write_csv(tmp_path / "all.csv")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit[1]))
    try:
        done = cut_of(tmp_path / "store", config_of(tmp_path / "all.csv", node="node"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(done.dates) == 3000
    assert done.rows.accepted == len(frame)


def test_messages_about_a_spill_name_the_file_its_row_and_its_own_columns(make_world: Make) -> None:
    world = make_world(3, missing=0)
    header, *rest = world.dump(min(world.rows)).read_text().splitlines()
    lines = [line for date in sorted(world.rows)[1:] for line in world.dump(date).read_text().splitlines()[1:]]
    big = world.folder / "big.csv"
    big.write_text("\n".join([header, *rest, *lines, rest[4], ""]))
    world.tree["pipeline"]["source"] |= {"path": str(big), "duplicates": "refuse"}
    (failure,) = world.prepare().failed.values()
    assert str(failure).startswith(
        f"{big}, date {min(world.rows)}, row 6, column 'time': a later row has the same node and instant"
    )
    lines[3] = lines[3].rsplit(",", 1)[0] + ",many"
    big.write_text("\n".join([header, *rest, *lines, ""]))
    (failure,) = world.prepare().failed.values()
    assert f"{big}, date {sorted(world.rows)[1]}, row {len(rest) + 5}, column 'vehicles', value 'many'" in str(failure)


def test_columns_of_any_name_come_through_a_cut(make_world: Make) -> None:
    world = make_world(3)
    world.tree["pipeline"]["features"] = {"speed": {"column": "__speed__"}}
    for date in world.rows:
        world.dump(date).write_text(world.dump(date).read_text().replace("speed", "__speed__", 1))
    world.prepare()
    expected = world.open().manifest.dates
    lines = [line for date in sorted(world.rows) for line in world.dump(date).read_text().splitlines()[1:]]
    (world.folder / "big.csv").write_text("\n".join(["time,node,__speed__,vehicles", *lines, ""]))
    world.tree["dataset"], world.tree["pipeline"]["source"]["path"] = "cut", str(world.folder / "big.csv")
    assert world.prepare().failed == {}
    assert world.open().manifest.dates == expected


def test_a_bad_number_of_another_date_leaves_no_mark_in_a_spill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: list[int]
) -> None:
    """Which rows are held together depends on the memory limit and on the bounds: no spill may."""
    lines = [f"{at},{node},{speed!r}" for at, node, speed in rows_of(6, 40).sort("time").rows()]
    lines[3] = lines[3].rsplit(",", 1)[0] + ",many"
    (tmp_path / "all.csv").write_text("\n".join(["time,node,speed", *lines, ""]))
    config = config_of(tmp_path / "all.csv", node="node")
    monkeypatch.setattr("dateshard.pipeline.raw.formats.text.BLOCK_BYTES", 2000)
    whole = cut_of(tmp_path / "whole", config)
    monkeypatch.setattr(cutting, "HELD_BYTES", 3000)
    assert cut_of(tmp_path / "again", config).dates == whole.dates
    assert len(flushes) > 2


def test_rows_of_another_number_of_fields_belong_to_no_date_and_are_counted(tmp_path: Path) -> None:
    lines = [f"{at},{node},{speed!r}" for at, node, speed in rows_of(3, 40).sort("time").rows()]
    (tmp_path / "all.csv").write_text("\n".join(["time,node,speed", *lines, "1,n0", ""]))
    whole = cut_of(tmp_path / "store", config_of(tmp_path / "all.csv", node="node", max_bad_fraction=0.1))
    assert (whole.rows.read, whole.rows.accepted) == (121, 120)
    assert whole.rows.rejected == {"of another number of fields": 1}
    assert [rows for _, _, rows in whole.dates.values()] == [40, 40, 40]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["2019-03-30 02:00", "2019-03-31 02:00", "2019-03-31 02:30"], "skips that time"),
        (["2019-03-31 02:00", "2019-10-27 02:00"], "skips some of those times and has others twice"),
        (["2018-10-28 02:00", "2019-03-31 02:00"], "skips some of those times and has others twice"),
    ],
)
def test_a_file_of_many_dates_by_a_clock_that_is_never_put_forward_is_answered_with_its_zone(
    tmp_path: Path, times: list[str], words: str
) -> None:
    path = tmp_path / "all.csv"
    path.write_text("time,speed\n" + "".join(f"{time},1\n" for time in times))
    config = config_of(path, time_format="iso", timezone="Europe/Berlin")
    with pytest.raises(DumpError) as refused:
        cut_of(tmp_path / "store", config)
    assert str(refused.value).endswith(
        f"The clock of Europe/Berlin {words}. For one that is never put forward, set pipeline.source.timezone: Etc/GMT-1, "
        "or correct the dump"
    )
    rows = cut_of(tmp_path / "again", config_of(path, time_format="iso", timezone="Etc/GMT-1")).rows
    assert rows.accepted == len(times)
