"""A model beside a baseline, as an evaluation keeps it: what `paired` finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["mse", "mae"]
Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model beside one baseline, in all its numbers together or in one category.

    Attributes:
        target: the category; None: the numbers.
        gain: of numbers the share by which the error that decides (squared or absolute) is smaller, of a category the
            share of targets that are right more often; None where the baseline is without any error. low, high: its
            95 % interval, None with too few units.
        dates: with observed targets; None where cuts are divided. cuts: the same of cuts; None where dates are.
        agrees: whether the second figure says the same: the other of these errors, or log loss.
    """

    baseline: str
    target: str | None
    gain: float | None
    low: float | None
    high: float | None
    dates: int | None
    cuts: int | None = None
    agrees: bool

    @property
    def outcome(self) -> Outcome:
        """Whether the model is better, or worse, beyond chance and by both figures; worse than what makes no error."""
        if self.gain is None:
            return "worse"
        if self.low is None or self.high is None or not self.agrees:
            return "unclear"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"
