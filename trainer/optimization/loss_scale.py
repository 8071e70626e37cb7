"""The factor of an fp16 step's loss, without which small gradients would be 0 in it; taken out before anything is judged.

The rule is that of torch's GradScaler. Here it is a value of the training's state: it goes into a checkpoint as two
numbers, and whether a step is skipped is decided once, of a gradient that all processes share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GROWTH_INTERVAL = 2000  # finite steps in a row
LARGEST, SMALLEST = 2.0**127, 2.0**-126  # powers of two in float32: to take one out changes no digit


@dataclass(frozen=True, slots=True)
class LossScale:
    """A power of two; `finite_steps`: in a row since it changed or a step was skipped."""

    value: float = 65536.0
    finite_steps: int = 0

    def after(self, *, skipped: bool) -> LossScale:
        """The scale of the step after one that was skipped or was not."""
        if skipped:
            return LossScale(max(self.value / 2, SMALLEST))
        if self.finite_steps + 1 < GROWTH_INTERVAL:
            return LossScale(self.value, self.finite_steps + 1)
        return LossScale(min(self.value * 2, LARGEST))

    @staticmethod
    def from_json(content: dict[str, float | int]) -> LossScale:
        """Makes it of a checkpoint's section.

        Raises:
            ValueError, KeyError, TypeError: no training has such a scale.
        """
        scale = LossScale(float(content["value"]), int(content["finite_steps"]))
        if not SMALLEST <= scale.value <= LARGEST or math.frexp(scale.value)[0] != 0.5 or scale.finite_steps < 0:
            raise ValueError(content)
        return scale
