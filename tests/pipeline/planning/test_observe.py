"""The cache of dump hashes: how it is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from dateshard.pipeline.planning.observe import write_cache


def test_a_cache_that_cannot_be_replaced_is_named_and_leaves_nothing_in_staging(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "dumps.json").mkdir()
    with pytest.raises(OSError, match=r"directory") as raised:
        write_cache(tmp_path, {})
    assert raised.value.filename == str(tmp_path / "dumps.json")
    assert list((tmp_path / "staging").iterdir()) == []
