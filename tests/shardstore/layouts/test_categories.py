"""Codes: a date's own vocabulary, the frozen one, and what is in neither."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dateshard.shardstore.layouts.category_codes import MOST_CODES, own_vocabulary, recode, sorted_names

words = st.sampled_from(["car", "bus", "Bus", "Zug", "", "tr\u00e0m", "\u6f22", "z", "0"])
cells = st.lists(words | st.none(), min_size=1, max_size=30)


def coded(texts: list[str | None], names: list[str]) -> np.ndarray:
    return np.array([math.nan if text is None else names.index(text) for text in texts]).reshape(-1, 1)


@given(cells, st.permutations(["car", "bus", "Bus", "Zug", "", "tr\u00e0m", "\u6f22", "z", "0"]))
def test_a_dates_vocabulary_is_what_stands_in_its_cells_sorted_by_bytes(
    texts: list[str | None], names: list[str]
) -> None:
    places, vocabulary = own_vocabulary(coded(texts, names), names)
    assert list(vocabulary) == sorted({text for text in texts if text is not None}, key=str.encode)
    assert [None if math.isnan(x) else vocabulary[int(x)] for x in places[:, 0]] == texts


@given(cells, st.sets(words))
def test_frozen_codes_count_from_one_and_unseen_categories_are_zero(texts: list[str | None], trained: set[str]) -> None:
    own, frozen = sorted_names([text for text in texts if text is not None]), sorted_names(trained)
    codes, unknown = recode(coded(texts, list(own)), own, frozen)
    for text, code in zip(texts, codes[:, 0].tolist(), strict=True):
        if text is None:
            assert math.isnan(code)
        else:
            assert code == (frozen.index(text) + 1 if text in trained else 0)
    assert unknown == len(set(own) - trained)


def test_every_code_is_exact_in_float32() -> None:
    last = np.array([MOST_CODES - 1, MOST_CODES])
    assert last.astype(np.float32).astype(np.int64).tolist() == last.tolist()
    assert np.float32(MOST_CODES + 2) == np.float32(MOST_CODES + 1)  # one more would still do, two more would not
