"""The sources file: read into records and written again it keeps its bytes; of another form it is refused whole."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.commit import sources_path
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.identity import RowTexts, canonical, seal, unseal
from dateshard.shardstore.manifest import manifest_name
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


class Named:
    """A row that says when it is spelled."""

    def __init__(self, spelled: list[str], name: str) -> None:
        self.spelled, self.name = spelled, name

    def to_json(self) -> dict[str, Any]:
        self.spelled.append(self.name)
        return {"anew": self.name}


def test_a_row_that_stays_keeps_its_text_and_only_others_are_spelled(written: bytes) -> None:
    content = json.loads(written)["content"]
    two = {"failed": {"2024-03-05": FAILED, "2024-03-06": FAILED}}  # rows like those of dates, behind them
    spelled: list[str] = []
    rows = {dt.date.fromisoformat(day): Named(spelled, day) for day in content["dates"]}
    texts, (first, second, last) = RowTexts(), rows
    texts.learn(rows, seal(content | two))
    other = {**rows, second: Named(spelled, "other")}
    expected = {
        str(first): content["dates"][str(first)],
        str(second): {"anew": "other"},
        str(last): {"anew": str(last)},
    }
    assert texts.spell(other).encode() + b"\n" == canonical(expected)
    assert spelled == ["other", str(last)]  # with the last one stands what follows it in the file
    assert texts.spell(other).encode() + b"\n" == canonical(expected)
    assert spelled == ["other", str(last)]


@pytest.mark.parametrize("case", ["another date", "one date less", "white space", "a flipped bit"])
def test_a_text_is_only_taken_of_a_file_that_holds_just_these_rows(written: bytes, case: str) -> None:
    content = json.loads(written)["content"]
    spelled: list[str] = []
    rows = {dt.date.fromisoformat(day): Named(spelled, day) for day in content["dates"]}
    if case == "another date":
        content["dates"]["2024-03-09"] = content["dates"].pop(str(list(rows)[1]))
    elif case == "one date less":
        del content["dates"][str(list(rows)[1])]
    data = seal(content)
    if case == "white space":
        data = seal({}, {"dates": json.dumps(content["dates"])})
    if case == "a flipped bit":
        data = data.replace(b'"weight":', b'"weighs":', 1)
    texts = RowTexts()
    texts.learn(rows, data)
    assert json.loads(texts.spell(rows)) == {str(date): {"anew": str(date)} for date in rows}


def test_each_generation_has_the_bytes_of_one_that_is_spelled_anew(tmp_path: Path) -> None:
    world = build_world(tmp_path, 5)
    world.prepare()
    date = sorted(world.rows)[2]
    world.rows[date].pop()
    world.write(date)
    world.prepare()
    world.prepare(refit=True)
    for number in (1, 2, 3):
        sources, manifest = sources_path(world.store, number), world.store / "manifests" / manifest_name(number)
        for data in (sources.read_bytes(), manifest.read_bytes()):
            assert data == seal(unseal(data, "file"))
