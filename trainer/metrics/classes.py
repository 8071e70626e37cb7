"""Categories over an epoch: counts of right and wrong, and histograms of the scores; all integers but the log loss.

Code 0 (unseen, or none) never counts: not as a target, and the forecast is the likeliest of the known classes, with
probabilities that sum to 1 over them.

Legend: n observed targets of a batch, C channels (code 0 included), K classes (C - 1), P target steps, S score bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.trainer.metrics.sums import Floats, finite

Counts = NDArray[np.int64]

MOST_CONFUSED = 256  # classes up to which the confusion counts are kept (512 kB)
MOST_SCORED = 128  # classes up to which score histograms are kept (8 MB)
BINS = 4096  # of a score histogram
REACH = 16.0  # log odds beyond which scores share the outermost bins
TOP = 3


@dataclass(slots=True, kw_only=True)
class Classes:
    """Everything counted of one categorical target.

    Memory: K x K x 8 bytes up to 256 classes, 64 kB a class for the scores up to 128 classes, else 24 bytes a class.

    Attributes:
        steps_3P: of each target step how many were seen, right, and among the `TOP` likeliest.
        classes_3K: of each class how often it was the target, the forecast, and both.
        confusion_KK: [target, forecast]; empty above `MOST_CONFUSED`.
        scores_2KS: score histograms of the targets that are of another class, and of this class; empty unless asked.
        log_loss: sum of -log p of the true class, and their count.
        thorough: scores are asked for: log loss, the likeliest three, and, up to 128 classes, their histograms.
    """

    names: tuple[str, ...]
    steps_3P: Counts
    classes_3K: Counts
    confusion_KK: Counts
    scores_2KS: Counts
    log_loss: Floats
    thorough: bool

    @staticmethod
    def none(names: Sequence[str], num_steps: int, *, scores: bool) -> Classes:
        """Nothing seen yet."""
        size = len(names)
        confused, scored = size if size <= MOST_CONFUSED else 0, size if scores and size <= MOST_SCORED else 0

        def zeros(*shape: int) -> Counts:
            return np.zeros(shape, dtype=np.int64)

        return Classes(
            names=tuple(names),
            steps_3P=zeros(3, num_steps),
            classes_3K=zeros(3, size),
            confusion_KK=zeros(confused, confused),
            scores_2KS=zeros(2, scored, BINS),
            log_loss=np.zeros(2),
            thorough=scores,
        )

    def add(self, logits_BPNC: torch.Tensor, codes_BPN: torch.Tensor, observed_BPN: torch.Tensor | None) -> None:
        """Adds a batch. Logits may be -inf: a class that is ruled out."""
        logits = logits_BPNC.detach().cpu()
        codes = codes_BPN.cpu().numpy().astype(np.int64)
        seen = codes > 0 if observed_BPN is None else (codes > 0) & observed_BPN.cpu().numpy()
        guess = logits[..., 1:].argmax(-1).numpy() + 1
        for row, counted in zip(self.steps_3P, (seen, seen & (guess == codes)), strict=False):
            row += counted.sum((0, 2))
        self._count(codes[seen] - 1, guess[seen] - 1)
        if self.thorough:
            mask = torch.from_numpy(seen)
            known = logits[..., 1:][mask].double()
            true = torch.from_numpy(codes[seen] - 1)
            higher = (~(known <= known.gather(1, true[:, None]))).sum(1)  # no number is among the likeliest
            self.steps_3P[2] += np.bincount(
                np.nonzero(seen)[1][(higher < TOP).numpy()], minlength=len(self.steps_3P[2])
            )
            self._add_scores(known, true)

    def _count(self, true: Counts, guess: Counts) -> None:
        size = len(self.names)
        for row, codes in zip(self.classes_3K, (true, guess, true[true == guess]), strict=True):
            row += np.bincount(codes, minlength=size)
        if self.confusion_KK.size:
            self.confusion_KK += np.bincount(true * size + guess, minlength=size * size).reshape(size, size)

    def _add_scores(self, logits: torch.Tensor, true: torch.Tensor) -> None:
        logs = logits.log_softmax(1)
        lost = -logs.gather(1, true[:, None]).sum()
        self.log_loss += np.asarray([float(lost), float(len(true))])
        if not self.scores_2KS.size:
            return
        odds = logs - torch.log(-torch.expm1(logs))  # monotone in p, and as fine near 0 and 1 as in the middle
        places = ((odds + REACH) * (BINS / (2 * REACH))).nan_to_num(0.0).clamp(0, BINS - 1).long()  # no number: lowest
        size = len(self.names)
        mine = torch.zeros_like(places).scatter_(1, true[:, None], 1)
        flat = (mine * size + torch.arange(size)) * BINS + places
        counts = np.bincount(flat.numpy().ravel(), minlength=self.scores_2KS.size)
        self.scores_2KS += counts.reshape(self.scores_2KS.shape)

    @property
    def accuracy(self) -> float | None:
        """Share of right forecasts; None where nothing counts."""
        return _ratio(self.classes_3K[2].sum(), self.classes_3K[0].sum())

    def report(self) -> dict[str, Any]:
        """What a classification report tells, and confusion counts."""
        seen, right, top = self.steps_3P
        by_class = {name: self._of_class(index) for index, name in enumerate(self.names)}
        classes = [row for row in by_class.values() if row is not None]
        labels = list(self.names)
        return {
            "count": int(seen.sum()),
            "accuracy": self.accuracy,
            f"top_{TOP}_accuracy": _ratio(top.sum(), seen.sum()) if self.thorough and len(self.names) > TOP else None,
            "log_loss": finite(float(self.log_loss[0] / self.log_loss[1])) if self.log_loss[1] else None,
            "macro_avg": _average(classes, weighted=False),
            "weighted_avg": _average(classes, weighted=True),
            "by_class": by_class,
            "by_horizon": [
                {"count": int(n), "accuracy": _ratio(k, n)} for n, k in zip(seen.tolist(), right.tolist(), strict=True)
            ],
            "confusion": {"labels": labels, "counts": self.confusion_KK.tolist()} if self.confusion_KK.size else None,
        }

    def _of_class(self, index: int) -> dict[str, float | None] | None:
        """Returns a class's figures; None if it was neither target nor forecast: no average counts it, as in scikit-learn."""
        support, guessed, right = (int(value) for value in self.classes_3K[:, index])
        if not support and not guessed:
            return None
        auroc, precision = _ranking(*self.scores_2KS[:, index]) if self.scores_2KS.size else (None, None)
        return {
            "precision": _ratio(right, guessed, nothing=0.0),
            "recall": _ratio(right, support, nothing=0.0),
            "f1": _ratio(2 * right, support + guessed, nothing=0.0),
            "auroc": auroc,
            "average_precision": precision,
            "support": support,
        }

    def totals(self) -> list[NDArray[Any]]:
        """Every array, all of which are plain totals."""
        return [self.steps_3P, self.classes_3K, self.confusion_KK, self.scores_2KS, self.log_loss]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns copies of its tensors, for a checkpoint."""
        parts = {
            "steps": self.steps_3P,
            "told": self.classes_3K,
            "confusion": self.confusion_KK,
            "log_loss": self.log_loss,
        }
        return {name: torch.from_numpy(array.copy()) for name, array in parts.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, array in (("steps", self.steps_3P), ("told", self.classes_3K), ("confusion", self.confusion_KK)):
            array[...] = tensors[name].numpy()
        self.log_loss[:] = tensors["log_loss"].numpy()


def _ratio(count: float, whole: float, nothing: float | None = None) -> float | None:
    return float(count / whole) if whole else nothing


def _average(rows: Sequence[Mapping[str, float | None]], *, weighted: bool) -> dict[str, float | None]:
    """Averages each figure over the classes that have it."""
    averages: dict[str, float | None] = {}
    for figure in ("precision", "recall", "f1", "auroc", "average_precision"):
        have = [(row[figure], row["support"] if weighted else 1) for row in rows if row[figure] is not None]
        total = sum(weight or 0 for _, weight in have)
        averages[figure] = _ratio(sum((value or 0) * (weight or 0) for value, weight in have), total)
    return averages


def _ranking(others_S: Counts, own_S: Counts) -> tuple[float | None, float | None]:
    """Returns (AUROC, average precision) of one class against the rest; scores of one bin are ties.

    None without the class, AUROC also without another.

    AUROC is the share of pairs (own, other) in which own scores higher, a tie counts half. Average precision is the
    sum over falling thresholds of (rise of recall) x precision.
    """
    own, others = int(own_S.sum()), int(others_S.sum())
    if not own:
        return None, None
    below = np.cumsum(others_S) - others_S
    pairs = float((own_S * (below + others_S / 2)).sum())
    hits, fired = np.cumsum(own_S[::-1]), np.cumsum((own_S + others_S)[::-1])
    precision = np.divide(hits, fired, out=np.zeros(len(hits)), where=fired > 0)
    return pairs / own / others if others else None, float((own_S[::-1] * precision).sum() / own)
