"""Which dates the windows of an order lie on, and the instants of their steps.

Legend: B windows, P steps near each anchor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import EpochOrder, Order, Window
from dateshard.trainer.data.permutation import Integers

NOWHEN = np.iinfo(np.int64).min  # NaT of numpy


class DateOf:
    """Which date a window of an order's epoch, or a step near its anchor, lies on: places among the dataset's days."""

    def __init__(self, dataset: Dataset, order: Order, epoch: int = 0) -> None:
        self.order: EpochOrder = order.epoch(epoch)
        self.segment_R = np.array([run.segment for run in order.runs], dtype=np.int64)
        self.begin_R = np.array([run.begin for run in order.runs], dtype=np.int64)
        self.first_S = [segment.first for segment in dataset.segments]
        lengths = [[dataset.days[i].num_steps for i in range(s.first, s.last)] for s in dataset.segments]
        self.ends_S = [np.cumsum(steps) for steps in lengths]

    def __call__(self, positions: range, offsets_P: Integers) -> Integers:
        """Returns [B, P] days of the steps at some offsets from the anchor; 0 is the anchor, whose date is the window's."""
        return self.places(positions, offsets_P)[0]

    def places(self, positions: range, offsets_P: Integers) -> tuple[Integers, Integers]:
        """Returns ([B, P] days, [B, P] steps of those days); -1 for a step before the piece that the window lies in."""
        days, rows = [], []
        for piece in self.order.pieces(positions.start, positions.stop):
            run_B = piece.block_runs[piece.run_K]
            segment_B = self.segment_R[run_B]
            step_BP = piece.anchor_K[:, None] + offsets_P
            day_BP, row_BP = np.empty_like(step_BP), np.empty_like(step_BP)
            for segment in np.unique(segment_B).tolist():
                own, ends = segment_B == segment, self.ends_S[segment]
                day = np.searchsorted(ends, step_BP[own], side="right")
                day_BP[own] = self.first_S[segment] + day
                row_BP[own] = step_BP[own] - np.concatenate([[0], ends])[day]
            row_BP[step_BP < self.begin_R[run_B][:, None]] = -1
            days.append(day_BP)
            rows.append(row_BP)
        return np.concatenate(days)[:: positions.step], np.concatenate(rows)[:: positions.step]


class InstantOf:
    """When the steps near the anchors of an order's windows are, in nanoseconds."""

    def __init__(self, dataset: Dataset, order: Order, window: Window) -> None:
        self.dataset, self.window, self.date_of = dataset, window, DateOf(dataset, order)

    def __call__(self, positions: range, offsets_P: Integers) -> Integers:
        """Returns [B, P] instants of the steps at some offsets from the anchor; `NOWHEN` before its piece."""
        day_BP, row_BP = self.date_of.places(positions, offsets_P)
        instant_BP = np.full(day_BP.shape, NOWHEN, dtype=np.int64)
        for day in np.unique(day_BP).tolist():
            here = (day_BP == day) & (row_BP >= 0)
            instant_BP[here] = self.dataset.times(self.dataset.days[day])[row_BP[here]]
        return instant_BP

    def on(self, batch: Batch, positions: range) -> Batch:
        """Returns a batch of the windows at these positions with the instants of all their steps.

        Records that lie before a history that is an interval of time have none."""
        window = self.window
        instant_BW = self(positions, np.arange(window.length) - window.before)
        if window.interval:
            anchor_B1 = instant_BW[:, window.before, None]
            instant_BW[instant_BW < anchor_B1 - window.interval] = NOWHEN
        return replace(batch, instant_BW=torch.from_numpy(instant_BW))
