"""Categories counted batch by batch against scikit-learn and torchmetrics over everything at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from dateshard.trainer.metrics.classes import Classes

B, P, N = 16, 3, 5
NAMES = ("cat", "dog", "eel", "fox", "gnu")


def draw(seed: int, classes: int = 5, share: float | None = 0.8, skew: float = 0.0, batches: int = 6) -> list[Any]:
    """Batches of (logits, codes with some 0, observed or None), the last one short; `skew` makes code 1 frequent."""
    generator = np.random.default_rng(seed)
    odds = np.ones(classes + 1)
    odds[1] += skew
    found = []
    for number in range(batches):
        shape = (B if number < batches - 1 else 2, P, N)
        codes = generator.choice(classes + 1, size=shape, p=odds / odds.sum())
        logits = generator.normal(size=(*shape, classes + 1)) + 1.2 * np.eye(classes + 1)[codes]
        observed = None if share is None else torch.from_numpy(generator.random(shape) < share)
        found.append((torch.from_numpy(logits).float(), torch.from_numpy(codes).float(), observed))
    return found


def counted(batches: list[Any], names: tuple[str, ...] = NAMES) -> Classes:
    classes = Classes.none(names, P, scores=True)
    for logits, codes, observed in batches:
        classes.add(logits, codes, observed)
    return classes


def plainly(batches: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true class, probabilities, step) of what counts."""
    true, scores, steps = [], [], []
    for logits, codes, observed in batches:
        seen = (codes > 0).numpy() & (True if observed is None else observed.numpy())
        true.append(codes.numpy()[seen].astype(int) - 1)
        scores.append(torch.softmax(logits[..., 1:].double(), -1).numpy()[seen])
        steps.append(np.broadcast_to(np.arange(P)[None, :, None], seen.shape)[seen])
    return np.concatenate(true), np.concatenate(scores), np.concatenate(steps)


@pytest.mark.parametrize(("share", "skew"), [(None, 0.0), (0.8, 0.0), (0.3, 30.0)])
def test_a_report_is_what_scikit_learn_makes_of_all_batches_at_once(share: float | None, skew: float) -> None:
    batches = draw(3, share=share, skew=skew)
    true, scores, steps = plainly(batches)
    guess, found = scores.argmax(1), counted(batches).report()
    wanted = oracle.classification_report(true, guess, target_names=NAMES, output_dict=True, zero_division=0)
    assert found["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-15)
    for name in NAMES:
        told = found["by_class"][name]
        assert told["support"] == wanted[name]["support"]
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert told[ours] == pytest.approx(wanted[name][theirs], abs=1e-15)
    for average in ("macro", "weighted"):
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            value = found[f"{average}_avg"][ours]
            assert value == pytest.approx(wanted[f"{average} avg"][theirs], abs=1e-14)
    assert np.array_equal(found["confusion"]["counts"], oracle.confusion_matrix(true, guess, labels=range(5)))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(true, scores, labels=range(5)), rel=1e-6)
    top = oracle.top_k_accuracy_score(true, scores, k=3, labels=range(5))
    assert found["top_3_accuracy"] == pytest.approx(top, abs=1e-15)
    for step in range(P):
        here = steps == step
        assert found["by_horizon"][step]["accuracy"] == pytest.approx((true == guess)[here].mean(), abs=1e-15)


def test_auroc_and_average_precision_are_within_the_width_of_a_bin() -> None:
    """Scores of one bin become ties, which average precision, falling at every threshold, feels most."""
    batches = draw(5, batches=60)
    true, scores, _ = plainly(batches)
    found = counted(batches).report()
    for index, name in enumerate(NAMES):
        own = true == index
        auroc, average = (
            oracle.roc_auc_score(own, scores[:, index]),
            oracle.average_precision_score(own, scores[:, index]),
        )
        assert found["by_class"][name]["auroc"] == pytest.approx(auroc, abs=2e-5)
        assert found["by_class"][name]["average_precision"] == pytest.approx(average, abs=2e-3)
    one_vs_rest = oracle.roc_auc_score(true, scores, multi_class="ovr", average="macro")
    assert found["macro_avg"]["auroc"] == pytest.approx(one_vs_rest, abs=2e-5)


def test_ties_count_half_as_in_scikit_learn() -> None:
    """Scores of few values that lie whole bins apart: then the histogram is the exact ranking."""
    generator = np.random.default_rng(1)
    codes = torch.from_numpy(generator.integers(1, 3, size=(40, P, N))).float()
    odds = torch.from_numpy(generator.integers(-3, 4, size=codes.shape)).float() + (codes == 2) * 1.0
    logits = torch.stack([torch.zeros_like(odds), torch.zeros_like(odds), odds], -1)
    found = counted([(logits, codes, None)], ("no", "yes")).report()["by_class"]["yes"]
    true, score = (codes == 2).numpy().ravel(), odds.numpy().ravel()
    assert found["auroc"] == pytest.approx(oracle.roc_auc_score(true, score), abs=1e-12)
    assert found["average_precision"] == pytest.approx(oracle.average_precision_score(true, score), abs=1e-12)


def test_torchmetrics_agrees_on_macro_figures() -> None:
    from torchmetrics.functional import classification as tm

    batches = draw(9, share=0.5)
    true, scores, _ = plainly(batches)
    found, guess = counted(batches).report(), torch.from_numpy(scores)
    target = torch.from_numpy(true)
    for name, function in (
        ("precision", tm.multiclass_precision),
        ("recall", tm.multiclass_recall),
        ("f1", tm.multiclass_f1_score),
    ):
        wanted = float(function(guess, target, num_classes=5, average="macro"))
        assert found["macro_avg"][name] == pytest.approx(wanted, abs=1e-6)
    auroc = float(tm.multiclass_auroc(guess, target, num_classes=5, average="macro"))
    assert found["macro_avg"]["auroc"] == pytest.approx(auroc, abs=1e-4)


def test_one_class_alone_has_no_auroc_and_absent_classes_count_in_no_average() -> None:
    logits = torch.zeros(4, P, N, 6)
    logits[..., 2] = 1.0
    found = counted([(logits, torch.full((4, P, N), 2.0), None)]).report()
    assert found["accuracy"] == 1.0
    assert found["by_class"]["dog"] == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "auroc": None, "average_precision": 1.0, "support": 4 * P * N,
    }  # fmt: skip
    assert found["by_class"]["cat"] is None
    assert found["macro_avg"]["f1"] == 1.0
    assert found["macro_avg"]["auroc"] is None


def test_unknown_categories_and_unobserved_cells_never_count() -> None:
    batches = draw(7, share=0.4)
    found = counted(batches)
    other = [(given, torch.where(seen, codes, 5.0), seen) for given, codes, seen in batches]
    assert np.array_equal(counted(other).confusion_KK, found.confusion_KK)
    assert found.confusion_KK.sum() == len(plainly(batches)[0])
    nothing = [(given, torch.zeros_like(codes), seen) for given, codes, seen in batches]
    assert counted(nothing).report()["accuracy"] is None
    assert counted(nothing).report()["macro_avg"]["f1"] is None


def test_a_repeated_category_has_scores_of_one_and_nothing() -> None:
    """Logits of 0 and -inf: AUROC is that of a hard forecast, the log loss of a wrong one is no number."""
    generator = np.random.default_rng(2)
    codes, guess = (torch.from_numpy(generator.integers(1, 4, size=(30, P, N))) for _ in range(2))
    logits = torch.full((*codes.shape, 4), -torch.inf).scatter_(-1, guess[..., None], 0.0)
    found = counted([(logits, codes.float(), None)], ("a", "b", "c")).report()
    for index, name in enumerate("abc", start=1):
        wanted = oracle.roc_auc_score((codes == index).numpy().ravel(), (guess == index).numpy().ravel())
        assert found["by_class"][name]["auroc"] == pytest.approx(wanted, abs=1e-12)
    assert found["log_loss"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_the_lowest_and_end_nothing(value: float) -> None:
    """A model that diverges, or a class that no training date has: the report says so, the run goes on."""
    batches = draw(5)
    for logits, _, _ in batches:
        logits[::2] = value
    found, sound = counted(batches), counted([(logits[1::2], c[1::2], o[1::2]) for logits, c, o in batches])
    report = found.report()
    assert report["count"] == len(plainly(batches)[0])
    assert report["log_loss"] is None
    if np.isnan(value):  # among the likeliest are those that are equal, but not what is no number
        assert found.steps_3P[2].tolist() == sound.steps_3P[2].tolist()
    assert (found.scores_2KS.sum((1, 2)) == [4 * report["count"], report["count"]]).all()


def test_many_classes_stay_bounded() -> None:
    many = Classes.none([str(index) for index in range(5000)], P, scores=True)
    assert many.confusion_KK.size == 0
    assert many.scores_2KS.size == 0
    many.add(torch.randn(2, P, N, 5001), torch.ones(2, P, N), None)
    report = many.report()
    assert report["confusion"] is None
    assert report["by_class"]["0"]["support"] == 2 * P * N
    assert sum(part.nbytes for part in (many.classes_3K, many.steps_3P)) < 200_000


def test_counts_go_into_a_checkpoint_and_back() -> None:
    batches = draw(4)
    whole, first = counted(batches), Classes.none(NAMES, P, scores=False)
    for batch in batches[:3]:
        first.add(*batch)
    second = Classes.none(NAMES, P, scores=False)
    second.load(first.tensors())
    assert second.report()["log_loss"] is None
    for batch in batches[3:]:
        second.add(*batch)
    assert np.array_equal(second.confusion_KK, whole.confusion_KK)
    assert second.report()["by_horizon"] == whole.report()["by_horizon"]
    assert second.report()["macro_avg"]["f1"] == whole.report()["macro_avg"]["f1"]


def test_totals_of_two_halves_add_up_to_those_of_the_whole() -> None:
    """What several processes count of one pass, score histograms included."""
    batches = draw(5)
    whole, first, second = counted(batches), counted(batches[::2]), counted(batches[1::2])
    for own, more in zip(first.totals(), second.totals(), strict=True):
        own += more
    assert all(np.allclose(own, of, rtol=1e-12) for own, of in zip(first.totals(), whole.totals(), strict=True))
    assert whole.scores_2KS.any()
    assert first.report()["macro_avg"]["auroc"] == pytest.approx(whole.report()["macro_avg"]["auroc"])
