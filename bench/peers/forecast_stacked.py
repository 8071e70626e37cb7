"""The script that many begin with: every window in RAM, a torch DataLoader, the same two linear layers."""

from __future__ import annotations

import numpy as np
import torch
from forecast_task import BATCH, HISTORY, HORIZON, NODES, RATE, STEPS_A_DATE, asked, read_all
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class DLinear(nn.Module):
    """A moving average and what is left of it, each with a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.trend, self.rest = nn.Linear(HISTORY, HORIZON), nn.Linear(HISTORY, HORIZON)
        self.mean = nn.AvgPool1d(25, 1, 12, count_include_pad=False)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """Maps [S, H, N] to [S, P, N]."""
        series = history.transpose(1, 2)
        smooth = self.mean(series)
        return (self.trend(smooth) + self.rest(series - smooth)).transpose(1, 2)


def main() -> None:
    """Trains as many epochs as it is asked for, and prints how many steps that were."""
    task = asked()
    values_LN = read_all(task.files)
    cut = len(values_LN) - STEPS_A_DATE
    scaled = (values_LN - values_LN[:cut].mean()) / values_LN[:cut].std()
    starts = range(cut - HISTORY - HORIZON + 1)
    x = torch.from_numpy(np.stack([scaled[start : start + HISTORY] for start in starts]))
    y = torch.from_numpy(np.stack([scaled[start + HISTORY : start + HISTORY + HORIZON] for start in starts]))
    model = DLinear()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    steps = 0
    for _ in range(task.epochs):
        for history, target in DataLoader(TensorDataset(x, y), BATCH // NODES, shuffle=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(history), target).backward()
            optimizer.step()
            steps += 1
    print("steps", steps)


if __name__ == "__main__":
    main()
