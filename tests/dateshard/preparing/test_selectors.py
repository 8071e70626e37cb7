"""Date selectors of the command line."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from dateshard.cli.options import split_arguments
from dateshard.preparing.selectors import plain_dates, select_dates
from dateshard.shardstore.errors import UsageError

KNOWN = [dt.date(2013, 2, 27) + dt.timedelta(days=k) for k in range(20)]
SPLIT = {"train": ((KNOWN[0], KNOWN[9]),), "test": ((KNOWN[12], KNOWN[13]), (KNOWN[15], KNOWN[15]))}


@pytest.mark.parametrize(
    ("word", "first", "last"),
    [
        ("2013-03-05", "2013-03-05", "2013-03-05"),
        ("20130305", "2013-03-05", "2013-03-05"),
        ("2013-03", "2013-03-01", "2013-03-18"),
        ("2013-02", "2013-02-27", "2013-02-28"),
        ("2013-W10", "2013-03-04", "2013-03-10"),
        ("2013W10", "2013-03-04", "2013-03-10"),
        ("2013-03-03..2013-03-06", "2013-03-03", "2013-03-06"),
        ("..2013-03-01", "2013-02-27", "2013-03-01"),
        ("2013-03-17..", "2013-03-17", "2013-03-18"),
        ("latest", "2013-03-18", "2013-03-18"),
        ("last:2", "2013-03-17", "2013-03-18"),
        ("last:99", "2013-02-27", "2013-03-18"),
        ("train", "2013-02-27", "2013-03-08"),
    ],
)
def test_a_selector_names_its_dates(word: str, first: str, last: str) -> None:
    found = select_dates([word], KNOWN, SPLIT)
    assert found is not None
    assert (str(min(found)), str(max(found))) == (first, last)
    assert len(found) == (max(found) - min(found)).days + 1


def test_a_split_of_several_ranges_is_all_of_them() -> None:
    assert select_dates(["test"], KNOWN, SPLIT) == frozenset([KNOWN[12], KNOWN[13], KNOWN[15]])


def test_selectors_are_joined_and_a_file_of_them_counts_as_written_out(tmp_path: Path) -> None:
    (tmp_path / "dates.txt").write_text("2013-03-05\n2013-W10\n")
    both = select_dates([f"@{tmp_path}/dates.txt", "latest"], KNOWN, SPLIT)
    assert both == select_dates(["2013-W10", "2013-03-18"], KNOWN, SPLIT)


def test_no_selector_means_all_and_one_that_matches_nothing_means_none() -> None:
    assert select_dates([], KNOWN, SPLIT) is None
    for word in ("2014-03", "last:0", "2015-W01", "2014-01-01..2014-02-01"):
        assert select_dates([word], KNOWN, SPLIT) == frozenset()
    assert select_dates(["latest"], [], {}) == frozenset()


@pytest.mark.parametrize("word", ["yesterday", "2013-02-30", "validation", "last:", "@nowhere.txt", "..", "W10"])
def test_what_is_no_selector_is_refused_with_what_would_be(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        select_dates([word], KNOWN, SPLIT)
    assert word.removeprefix("@") in str(caught.value)
    assert caught.value.todo


def test_a_file_that_names_itself_or_is_no_text_is_refused(tmp_path: Path) -> None:
    loop, bytes_ = tmp_path / "loop.txt", tmp_path / "bytes.txt"
    loop.write_text(f"@{loop}")
    bytes_.write_bytes(b"\xff\xfe")
    for path in (loop, bytes_):
        with pytest.raises(UsageError, match=path.name):
            select_dates([f"@{path}"], KNOWN, SPLIT)


def test_only_plain_dates_need_no_list_of_the_others() -> None:
    assert plain_dates(["2013-03-05", "20130306"]) == [dt.date(2013, 3, 5), dt.date(2013, 3, 6)]
    for word in ("2013-W10", "2013-03", "latest", "2013-03-05..", "@file", "2013-02-31", "2013-W10-1"):
        assert plain_dates(["2013-03-05", word]) == []


def test_words_with_an_equals_sign_are_overrides() -> None:
    assert split_arguments(["2013-03", "a.b=1", "latest"]) == (["2013-03", "latest"], ["a.b=1"])
