"""The date in a path: a pattern that names no date is refused, and one that matches nothing is held against what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dateshard.pipeline.raw.dumps import find_dumps, no_match
from dateshard.pipeline.source import Source
from dateshard.shardstore.errors import UsageError


def files(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def source_of(path: str) -> Source:
    return Source.model_validate({"path": path, "time": "t"})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("raw/taxi_{date:%Y-%m}.csv", "'{date:%Y-%m}' has no day, .*write raw/taxi_[*].csv"),
        ("raw/{date:%Y}/*.csv", "has no month and no day, .*write raw/[*]/[*].csv"),
        ("raw/{date:%m-%d}.csv", "has no year, "),
        ("raw/{date:%H}.csv", "'{date:%H}' is not a pattern of a date. Write %Y, %m and %d"),
        ("raw/{date:%Y-%-m-%-d}.csv", "is not a pattern of a date"),
        ("raw/{date:%Y/%m/%d}.csv", "'{date:%Y/%m/%d}' reaches over folders"),
        ("raw/{date:%Y}/{date:%m%d}.csv", "spells its date in two ways"),
    ],
)
def test_a_pattern_that_names_no_date_is_refused_in_the_configuration(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_of(path)
    with pytest.raises(UsageError, match=message):
        find_dumps(path)


@pytest.mark.parametrize("style", ["%Y%j", "%G-W%V-%u", "%d %b %Y", "%y%m%d", "%Y-%m-%dT%H"])
def test_a_pattern_that_names_a_date_otherwise_is_taken(style: str) -> None:
    assert source_of(f"raw/{{date:{style}}}.csv").path == f"raw/{{date:{style}}}.csv"


@pytest.mark.parametrize(
    ("names", "pattern", "meant"),
    [
        (["20130301.csv", "20130302.csv"], "{date}.csv", "{date:%Y%m%d}.csv (2 dates)"),
        (["03-01-2013.csv", "03-02-2013.csv", "03-13-2013.csv"], "{date}.csv", "{date:%m-%d-%Y}.csv (3 dates)"),
        (["s7_01.03.2013_v2.csv", "s7_02.03.2013_v2.csv"], "{date}.csv", "s7_{date:%d.%m.%Y}_v2.csv (2 dates)"),
        (["2013-03-01.csv.gz", "2013-03-02.csv.gz", "z.csv"], "{date:%Y%m%d}.csv", "{date}.csv.gz (2 dates)"),
        (["20130301.csv"], "*_{date}.csv", "{date:%Y%m%d}.csv (1 date)"),
    ],
)
def test_a_path_that_nothing_matches_is_answered_with_the_one_that_most_dates_match(
    tmp_path: Path, names: list[str], pattern: str, meant: str
) -> None:
    files(tmp_path / "raw", *names)
    assert f"; did you mean {tmp_path}/raw/{meant}?" in no_match(f"{tmp_path}/raw/{pattern}")


def test_names_without_a_date_are_not_taken_for_dates(tmp_path: Path) -> None:
    files(tmp_path / "raw", "2013.csv", "readings_130301007.csv", "nodes.csv", "2013-02-30.csv")
    assert "did you mean" not in no_match(f"{tmp_path}/raw/{{date}}.csv")
