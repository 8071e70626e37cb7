"""What a preprocess compares on the machines of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from dateshard.pipeline.raw.object_files import copy_of
from dateshard.pipeline.workers.same_everywhere import some_of
from dateshard.shardstore.objects.object_store import ObjectName


def test_dumps_are_looked_at_but_no_copy_of_an_object_which_may_have_to_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy, dump = copy_of(ObjectName("s3://bucket/2024-03-01.csv"), "0" * 32), Path("raw", "2024-03-01.csv")
    for path in (copy, dump):
        path.parent.mkdir(parents=True)
        path.write_text("a row")
    assert some_of([copy, dump]) == ((dump, 5),)
