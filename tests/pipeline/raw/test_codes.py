"""Codes of names over the pieces of a dump, beside a plain dictionary."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from dateshard.pipeline.raw import codes
from dateshard.pipeline.raw.codes import Codes

TABLE = ("b", "a", "", "ü")


def pieces(others: int) -> list[pl.Series]:
    """Twelve pieces of names of the table, of strangers and of none, the same every time."""
    drawn = random.Random(3)
    names = [*TABLE, None, *(f"x{number}" for number in range(others))]
    return [pl.Series(drawn.choices(names, k=drawn.randrange(60)), dtype=pl.String) for _ in range(12)]


@pytest.mark.parametrize("kept", [1, codes.KEPT])
def test_names_of_a_table_are_coded_by_their_places(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where so many strangers came that the mapping of polars begins anew."""
    monkeypatch.setattr(codes, "KEPT", kept)
    place, ours = {name: index for index, name in enumerate(TABLE)}, Codes(TABLE)
    for piece in pieces(40):
        np.testing.assert_array_equal(ours.of(piece), [place.get(name, -1) for name in piece.to_list()])
    assert ours.names == list(TABLE)
    assert set(ours.strangers) == {name for piece in pieces(40) for name in piece.to_list()} - {*TABLE, None}


def test_without_a_table_names_are_coded_as_they_appear() -> None:
    place: dict[str | None, int] = {}
    ours = Codes(None)
    for piece in pieces(40):
        expected = [-1 if name is None else place.setdefault(name, len(place)) for name in piece.to_list()]
        np.testing.assert_array_equal(ours.of(piece), expected)
        assert ours.names == list(place)
    assert not ours.strangers
