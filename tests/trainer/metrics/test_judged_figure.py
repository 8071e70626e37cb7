"""The figure that `metrics.judge` names decides: the best checkpoint, early stopping, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.errors import UsageError
from dateshard.trainer import checkpoint, loop
from dateshard.trainer.assessment.evaluation import Evaluation, Row
from dateshard.trainer.assessment.paired import ErrorsByUnit, compare
from dateshard.trainer.binding import refuse_difference
from dateshard.trainer.checkpoint.bound_settings import that_bind
from dateshard.trainer.metrics.judged_figure import judged_figure

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
LOSSES, ERRORS = [3.0, 1.0, 2.0, 4.0, 4.0, 4.0], [3.0, 2.0, 1.0, 4.0, 4.0, 4.0]


@pytest.fixture
def judged_session(make_world: Make, session_of: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A training whose validations tell scripted figures, of which the newest checkpoint and the best stay."""
    world = make_world(
        5,
        split=SPLIT,
        training={"epochs": 6, "batch_size": 64},
        early_stopping={"patience": 2, "min_delta": 0.5},
        checkpoint={"save_freq": None, "keep_last": 1},
    )
    world.prepare()
    really = loop.validate

    def scripted(session: Any, should_stop: Callable[[], bool]) -> dict[str, Any]:
        report, epoch = really(session, should_stop), session.state.epoch
        assert report is not None
        return {**report, "loss": LOSSES[epoch], "mae": ERRORS[epoch]}

    monkeypatch.setattr(loop, "validate", scripted)

    def make(judge: str) -> Any:
        world.tree["trainer"]["metrics"] = {"judge": judge}
        return session_of(world)

    return make


@pytest.mark.parametrize(("judge", "best", "epochs"), [("loss", 1, 4), ("mae", 2, 5)])
def test_the_judge_decides_which_checkpoint_is_best_and_when_training_stops(
    judged_session: Callable[[str], Any], judge: str, best: int, epochs: int
) -> None:
    session = judged_session(judge)
    done = [event for event in loop.train(session, lambda: False) if isinstance(event, loop.EpochDone)]
    assert len(done) == epochs
    assert [event.epoch for event in done if event.best] == list(range(best + 1))
    kept = checkpoint.scan(session.checkpoints)[0]
    assert [saved.state.epoch for saved in kept] == [best, epochs - 1]
    chosen, _ = checkpoint.best(session.checkpoints)
    assert chosen is not None
    assert chosen.state.epoch == best
    assert checkpoint.loss_of_best(session.state.progress, kept) == LOSSES[best]
    assert ("judged" in chosen.state.to_json()) == (judge != "loss")


def test_a_run_is_not_continued_by_another_judge(judged_session: Callable[[str], Any], tmp_path: Any) -> None:
    by_loss, by_error = judged_session("loss").bound, judged_session("mae").bound
    with pytest.raises(UsageError, match=r"trainer\.metrics\.judge: checkpoint 'loss', now 'mae'"):
        refuse_difference(by_loss, by_error, tmp_path)
    before_there_was_one = {key: value for key, value in by_loss.settings.items() if key != "metrics.judge"}
    assert that_bind(before_there_was_one) == that_bind(by_loss.settings)


def test_a_judge_of_what_nothing_forecasts_is_refused(judged_session: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError, match=r"trainer\.metrics\.judge is accuracy, and no target is a category"):
        judged_session("accuracy")


def test_of_two_accuracies_the_higher_is_the_better() -> None:
    assert judged_figure({"accuracy": 0.75}, "accuracy") == 0.25
    assert judged_figure({"accuracy": None}, "accuracy") is None


def test_the_verdict_goes_by_the_error_that_judges() -> None:
    """A model with less squared and more absolute error than one baseline, and the reverse of another."""
    form: Any = None
    one = np.ones(20)
    figures = {"model": (2.0, 2.0), "squared": (1.0, 3.0), "absolute": (3.0, 1.0)}
    by_unit = {
        name: ErrorsByUnit(form, 20, {None: np.stack([one, s * one, a * one])}) for name, (s, a) in figures.items()
    }
    rows = [
        Row(name=name, kind="model" if name == "model" else "baseline", scaled={"mse": s, "mae": a}, raw={})
        for name, (s, a) in figures.items()
    ]
    best = {}
    for measure in ("mse", "mae"):
        by = [compare(by_unit["model"], by_unit[name], name, 1, measure)[0] for name in ("squared", "absolute")]
        result = Evaluation(
            split="test", windows=20, features=["v"], rows=rows, notes=[], comparisons=by, measure=measure
        )
        best[measure] = result.best_baseline
        gains = {comparison.baseline: comparison.gain for comparison in by}
        other = {"mse": ("squared", "absolute"), "mae": ("absolute", "squared")}[measure]
        assert gains == {other[0]: -1.0, other[1]: pytest.approx(1 / 3)}
        assert not any(comparison.agrees for comparison in by)
    assert best == {"mse": "squared", "mae": "absolute"}
