"""Which dates the windows of an order lie on.

Legend: B windows, P steps near each anchor.
"""

from __future__ import annotations

import numpy as np

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.order import EpochOrder, Order
from dateshard.trainer.data.permutation import Integers


class DateOf:
    """Which date a window of an order, or a step near its anchor, lies on: places among the dataset's days."""

    def __init__(self, dataset: Dataset, order: Order) -> None:
        self.order: EpochOrder = order.epoch(0)
        self.segment_R = np.array([run.segment for run in order.runs], dtype=np.int64)
        self.first_S = [segment.first for segment in dataset.segments]
        lengths = [[dataset.days[i].num_steps for i in range(s.first, s.last)] for s in dataset.segments]
        self.ends_S = [np.cumsum(steps) for steps in lengths]

    def __call__(self, positions: range, offsets_P: Integers) -> Integers:
        """Returns [B, P] days of the steps at some offsets from the anchor; 0 is the anchor, whose date is the window's."""
        days = []
        for piece in self.order.pieces(positions.start, positions.stop):
            segment_B = self.segment_R[piece.block_runs[piece.run_K]]
            step_BP = piece.anchor_K[:, None] + offsets_P
            day_BP = np.empty_like(step_BP)
            for segment in np.unique(segment_B).tolist():
                own = segment_B == segment
                day_BP[own] = self.first_S[segment] + np.searchsorted(self.ends_S[segment], step_BP[own], side="right")
            days.append(day_BP)
        return np.concatenate(days)
