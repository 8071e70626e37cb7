"""run.json: read into a record and written again it keeps its bytes, in whichever order; of no run it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dateshard.shardstore.identity import seal_readable
from dateshard.trainer.runs.run_record import KEYS, RunRecord
from dateshard.trainer.runs.run_record import MADE_AGAIN as MADE_AGAIN_KEYS

BOUND = {"settings": {"training.seed": 7}, "order": {"kind": "full"}}
DATA = {"name": "world", "generation": 3, "id": "ab12", "root": "data/shards/world"}
REST = {"config": {"model": {"name": "mlp"}}, "environment": {"threads": 1}}
ABOUT = {"split": {"train": [["2024-03-01", "2024-03-05"]]}, "parameters": 12, "windows": 9, "batches": 3}
NAMED = {"name": "one", "created": "2026-11-29T08:40:59+00:00"}
NEW = {
    **NAMED,
    "settings": BOUND["settings"],
    "config": REST["config"],
    "data": DATA,
    "order": BOUND["order"],
    "environment": REST["environment"],
    **ABOUT,
}
MADE_AGAIN = {
    **NAMED,
    "made_again_from": "checkpoint_epoch_1_batch_3",
    "data": {"generation": 3, "id": "ab12", "name": "world", "root": "data/shards/world"},
    "order": BOUND["order"],
    "settings": BOUND["settings"],
    **REST,
    **ABOUT,
}

AS_WRITTEN: dict[str, dict[str, Any]] = {
    "by this version": NEW,
    "begun with other weights": {**NEW, "init_from": {"source": "x.pth"}},
    "made again": MADE_AGAIN,
    "before its instant was noted, and completed since": {**BOUND, "data": DATA, **REST, "created": NAMED["created"]},
    "before what compare tells": {**NAMED, **BOUND, "data": {"name": "world", "generation": 1}, **REST},
}


@pytest.mark.parametrize("case", AS_WRITTEN)
def test_a_run_json_that_is_read_and_written_again_keeps_its_bytes(case: str) -> None:
    content = AS_WRITTEN[case]
    assert seal_readable(RunRecord.from_json(content).to_json()) == seal_readable(content)


@pytest.mark.parametrize(("content", "keys"), [(NEW, KEYS), (MADE_AGAIN, MADE_AGAIN_KEYS)], ids=["new", "made again"])
def test_a_record_is_first_written_in_the_order_that_it_always_had(
    content: dict[str, Any], keys: Sequence[str]
) -> None:
    record = replace(RunRecord.from_json(dict(reversed(content.items()))), keys=keys)
    assert seal_readable(record.to_json()) == seal_readable(content)


UNLIKE: dict[str, dict[str, Any]] = {
    "without settings": {key: value for key, value in NEW.items() if key != "settings"},
    "without a configuration": {**NEW, "config": None},
    "of no generation": {**NEW, "data": {**DATA, "generation": "3"}},
    "windows that are no number": {**NEW, "windows": "9"},
    "batches that are no number": {**NEW, "batches": [3]},
    "an environment that is none": {**NEW, "environment": "torch"},
    "a split that is none": {**NEW, "split": ["train"]},
    "first weights without a source": {**NEW, "init_from": "x.pth"},
    "made again from no checkpoint": {**NEW, "made_again_from": 7},
    "a root that is no path": {**NEW, "data": {**DATA, "root": 7}},
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_run_json_of_another_form_is_refused(case: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        RunRecord.from_json(UNLIKE[case])
