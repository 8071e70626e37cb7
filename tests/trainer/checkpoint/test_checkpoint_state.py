"""A checkpoint's state: read into a record and written again it keeps its bytes; one that no training has is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dateshard.shardstore.identity import canonical
from dateshard.trainer.checkpoint.checkpoint_state import Bound, CheckpointState, DataIdentity
from dateshard.trainer.optimization.schedule import LossHistory

Change = Callable[[dict[str, Any]], Any]


def written() -> dict[str, Any]:
    """A state as it stands in a checkpoint's manifest."""
    state = CheckpointState(
        epoch=2,
        batch=7,
        step=19,
        num_batches=9,
        skipped=1,
        train_loss=0.5,
        val_loss=0.25,
        validated=True,
        losses={"cls": 0.5},
        progress=LossHistory(best_loss=0.25, best_epoch=2),
        without_moments=["head.bias"],
        parameters=["head.weight", "head.bias"],
        learning_rate=0.001,
        bound=Bound({"training.seed": 7}, DataIdentity("world", 4, "ab12"), {"kind": "full"}, {"source": "x.pth"}),
        config={"training": {"seed": 7}},
        environment={"threads": 1},
    )
    content: dict[str, Any] = json.loads(canonical(state.to_json()))
    return content


AS_WRITTEN: dict[str, Change] = {
    "by this version": lambda c: None,
    "before its learning rate": lambda c: c.pop("learning_rate"),
    "before its parameters": lambda c: c.pop("parameters"),
    "before an id of the data": lambda c: c["bound"]["data"].pop("id"),
    "of weights of its own": lambda c: c["bound"].pop("init_from"),
    "without a loss": lambda c: c.update(train_loss=None, val_loss=None, validated=False),
}


@pytest.mark.parametrize("case", AS_WRITTEN)
def test_a_state_that_is_read_and_written_again_keeps_its_bytes(case: str) -> None:
    content = written()
    AS_WRITTEN[case](content)
    assert canonical(CheckpointState.from_json(content).to_json()) == canonical(content)


UNLIKE: dict[str, Change] = {
    "no position": lambda c: c.pop("epoch"),
    "a position before the first": lambda c: c.update(batch=-1),
    "a step that is no number": lambda c: c.update(step=True),
    "a loss that is no number": lambda c: c["losses"].update(cls="low"),
    "a best loss that is no number": lambda c: c["progress"].update(best_loss="low"),
    "a history of another version": lambda c: c["progress"].update(more=1),
    "a validation that is no yes or no": lambda c: c.update(validated=1),
    "parameters that are no names": lambda c: c.update(parameters=[1]),
    "bound to nothing": lambda c: c.pop("bound"),
    "bound to no settings": lambda c: c["bound"].update(settings=[]),
    "bound to no generation": lambda c: c["bound"]["data"].update(generation=0),
    "bound to data without a name": lambda c: c["bound"]["data"].update(name=None),
    "bound to data by no id": lambda c: c["bound"]["data"].update(id=7),
    "weights of no source": lambda c: c["bound"].update(init_from="x.pth"),
    "a configuration that is none": lambda c: c.update(config=None),
    "an environment that is none": lambda c: c.update(environment=[]),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_state_that_no_training_has_is_refused(case: str) -> None:
    content = written()
    UNLIKE[case](content)
    with pytest.raises((ValueError, KeyError, TypeError)):
        CheckpointState.from_json(content)
