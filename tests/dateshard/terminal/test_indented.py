"""JSON for people: the text of Python's own encoder."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dateshard.terminal.indented import indented

FIGURES = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | st.integers() | FIGURES | st.text()
DOCUMENTS = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("ascii_only", [True, False])
@given(document=DOCUMENTS)
def test_indented_json_is_the_text_of_json_dumps(ascii_only: bool, document: Any) -> None:
    assert indented(document, ascii_only=ascii_only) == json.dumps(
        document, indent=1, allow_nan=False, ensure_ascii=ascii_only
    )


@pytest.mark.parametrize("value", [math.nan, [1.0, math.inf], {"a": [None, -math.inf, []]}])
def test_indented_json_refuses_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        indented(value)
