"""Times of one width against Python's own, whole and with one character changed to any other."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import pytest

from dateshard.pipeline.raw.clocks.iso_words import readings

FORM = re.compile(r"(\d{4}-\d\d-\d\d)([T ])(\d\d:\d\d)(:\d\d)?(?:\.(\d+))?(Z?)", re.ASCII)
EPOCH = dt.datetime(1970, 1, 1)


def by_hand(text: str, sample: str) -> int | None:
    """Nanoseconds since 1970; None where it is no time of the sample's form."""
    found, form = FORM.fullmatch(text), FORM.fullmatch(sample)
    assert form is not None
    if found is None or found[2] != form[2] or len(found[5] or "") != len(form[5] or ""):
        return None
    try:
        instant = dt.datetime.strptime(f"{found[1]} {found[3]}{found[4] or ':00'}", "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    if instant.second > 59 or not 1678 <= instant.year <= 2261:
        return None
    return (instant - EPOCH) // dt.timedelta(seconds=1) * 10**9 + int((found[5] or "").ljust(9, "0"))


@pytest.mark.parametrize("suffix", ["", "Z"])
@pytest.mark.parametrize("digits", [None, *range(10)])  # of the fraction; None: no seconds
def test_times_of_one_width_are_those_of_python(digits: int | None, suffix: str) -> None:
    random = np.random.default_rng(3)
    texts = []
    for day in (0, *random.integers(-80_000, 80_000, 20).tolist()):
        clock = dt.datetime(2024, 2, 29, 23, 59, 59) + dt.timedelta(days=day, seconds=int(random.integers(-86400, 1)))
        whole = f"{clock:%Y-%m-%dT%H:%M}" if digits is None else f"{clock:%Y-%m-%dT%H:%M:%S}"
        whole += "." + "".join(map(str, random.integers(0, 10, digits))) if digits else ""
        texts += [whole + suffix] * 3
    sample, changed = texts[0], list(texts)
    for place in range(len(sample)):
        characters = [*"0123456789:-T .Z/;\x00\x7f", *map(chr, random.integers(1, 128, 5).tolist())]
        changed += [sample[:place] + character + sample[place + 1 :] for character in characters]
    for some in (texts[:3], changed):  # of one date, and of many
        matrix = np.array([list(text.encode("latin-1")) for text in some], dtype=np.uint8)
        times, valid = readings(matrix, sample, digits or 0, seconds=digits is not None)
        found = [time if known else None for time, known in zip(times.tolist(), valid.tolist(), strict=True)]
        assert found == [by_hand(text, sample) for text in some]


def test_bytes_beyond_ascii_are_no_digits() -> None:
    text = np.frombuffer(b"2024-03-01T07:05:09.123", np.uint8)
    for place in range(len(text)):
        for byte in range(128, 256):
            matrix = np.stack([text, text])
            matrix[1, place] = byte
            assert readings(matrix, "2024-03-01T07:05:09.123", 3, seconds=True)[1].tolist() == [True, False]
