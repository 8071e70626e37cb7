"""The sources file: read into records and written again it keeps its bytes; of another form it is refused whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dateshard.shardstore.commit import sources_path
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.identity import seal
from dateshard.shardstore.sources import Sources
from tests.conftest import build_world

Change = Callable[[dict[str, Any]], Any]
DAY = "2024-03-01"
DUMP = {"path": "raw/x.csv", "size": 3, "hash": "abc"}
FAILED = {"staged": "", "what": "no header", "dump": DUMP}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sources file as this version writes it."""
    world = build_world(tmp_path_factory.mktemp("sources"), 3)
    world.prepare()
    return sources_path(world.store, 1).read_bytes()


AS_WRITTEN: dict[str, Change] = {
    "by this version": lambda c: None,
    "before counts": lambda c: (c["dates"][DAY].pop("observed"), c["dates"][DAY].pop("weight")),
    "before kept settings": lambda c: c.pop("settings"),
    "after no file was readable": lambda c: [c.pop(key) for key in ("basis", "split", "normalise", "settings")],
    "of a dump that is gone": lambda c: c["dates"][DAY].update(rows={}, dump={"path": "", "size": 0, "hash": ""}),
    "failed": lambda c: c["failed"].update({DAY: FAILED | {"kind": "dump", "tolerated": "x"}}),
    "failed, before tolerances": lambda c: c["failed"].update({DAY: FAILED}),
    "dropped by hand": lambda c: c.update(dropped={DAY: {"statistics": "ab12"}}),
    "dropped for no rows": lambda c: c.update(dropped={DAY: {"statistics": "", "empty": "ab12", "tolerated": "x"}}),
    "cut": lambda c: c.update(cut={"files": ["all.csv"], "rows": {"read": 1, "accepted": 1}}),
    "of a name that is no UTF-8": lambda c: c["dates"][DAY]["dump"].update(path="raw/\udcff.csv"),
}


@pytest.mark.parametrize("case", AS_WRITTEN)
def test_a_sources_file_that_is_read_and_written_again_keeps_its_bytes(written: bytes, case: str) -> None:
    content = json.loads(written)["content"]
    AS_WRITTEN[case](content)
    assert seal(Sources.from_json(content, "file").to_json()) == seal(content)


UNLIKE: dict[str, Change] = {
    "no dates": lambda c: c.pop("dates"),
    "rows of another kind": lambda c: c["dates"][DAY].update(rows=[1]),
    "rows that are no numbers": lambda c: c["dates"][DAY]["rows"].update(accepted="many"),
    "rejected rows that are no numbers": lambda c: c["dates"][DAY]["rows"].update(rejected={"late": None}),
    "observed cells that are no numbers": lambda c: c["dates"][DAY].update(observed="ab"),
    "a weight that is no number": lambda c: c["dates"][DAY].update(weight="7"),
    "a size that is no number": lambda c: c["dates"][DAY]["dump"].update(size=1e308),
    "a key that leads out": lambda c: c["dates"][DAY].update(staged="../x"),
    "a day that is none": lambda c: c["dates"].update({"2024-02-30": c["dates"][DAY]}),
    "another scale": lambda c: c.update(normalise=7),
    "other settings": lambda c: c.update(settings=[1]),
    "another basis": lambda c: c.update(basis=["x"]),
    "a tolerance that is no text": lambda c: c["failed"].update({DAY: FAILED | {"tolerated": 7}}),
    "statistics that are no name": lambda c: c.update(dropped={DAY: {"statistics": None}}),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_sources_file_of_another_form_is_refused_by_name(written: bytes, case: str) -> None:
    content = json.loads(written)["content"]
    UNLIKE[case](content)
    with pytest.raises(DamagedError, match="its content is not that of such a file") as caught:
        Sources.from_json(content, "g1.sources.json")
    assert "g1.sources.json" in str(caught.value)
