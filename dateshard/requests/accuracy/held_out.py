"""What a model forecasts of held-out windows, beside what came: the ground of its intervals and of all that is said of it.

Legend: W windows in the order of time, P target steps, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.scaling.transform import Floats
from dateshard.trainer.assessment.baselines import order_to_judge
from dateshard.trainer.assessment.example_windows import mapped
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.window_dates import InstantOf
from dateshard.trainer.setup import make_reader

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Forecasts of one split.

    Attributes:
        predicted_WPF, truth_WPF: scaled; truth is NaN where nothing was observed.
        time_W: nanoseconds, the instant of each window's first target.
        place_W: the first target's place among all steps or records of the dataset.
    """

    predicted_WPF: Floats
    truth_WPF: Floats
    time_W: Integers
    place_W: Integers

    def __len__(self) -> int:
        return len(self.time_W)

    def and_of(self, later: HeldOut) -> HeldOut:
        """These windows, and then those of a later split."""
        return HeldOut(
            predicted_WPF=np.concatenate([self.predicted_WPF, later.predicted_WPF]),
            truth_WPF=np.concatenate([self.truth_WPF, later.truth_WPF]),
            time_W=np.concatenate([self.time_W, later.time_W]),
            place_W=np.concatenate([self.place_W, later.place_W]),
        )


@torch.no_grad()
def held_out(forecaster: Forecaster, split: str) -> HeldOut:
    """Forecasts all windows of a split.

    Memory: two values of float64 for each window, target step and feature; a batch.

    Raises:
        UsageError: the split has no window.
    """
    dataset, window = forecaster.dataset, forecaster.window
    order = order_to_judge(forecaster.config, dataset, window, split)
    everything = tuple(range(len(dataset.features)))
    form = BatchForm(window=window, inputs=everything, targets=forecaster.columns.targets, codes=True, known=True)
    instant_of = InstantOf(dataset, order, window)
    lengths = np.array([day.num_steps for day in dataset.days])
    first_D = np.cumsum(lengths) - lengths
    rows: list[tuple[Floats, Floats, Integers, Integers]] = []
    for number, batch in enumerate(make_reader(mapped(forecaster.config), dataset, order, form).batches(0)):
        positions, here = order.positions(number), np.zeros(1, dtype=np.int64)
        predicted = forecaster.numeric(forecaster.forecast(batch))[:, :, 0].double().numpy()
        truth = batch.target_BPNF[:, :, 0].double().numpy().copy()
        if batch.observed_BPNF is not None:
            truth[~batch.observed_BPNF[:, :, 0].numpy()] = np.nan
        day_B1, row_B1 = instant_of.date_of.places(positions, here)
        rows.append((predicted, truth, instant_of(positions, here)[:, 0], (first_D[day_B1] + row_B1)[:, 0]))
    predicted_WPF, truth_WPF, time_W, place_W = (np.concatenate(column) for column in zip(*rows, strict=True))
    return HeldOut(predicted_WPF=predicted_WPF, truth_WPF=truth_WPF, time_W=time_W, place_W=place_W)
