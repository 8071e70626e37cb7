"""Ridge regression in closed form: the honest rival of every trained model.

One linear map a target feature from a node's own history to the horizon, pooled over nodes; float64 normal equations,
accumulated batch by batch in fixed memory. Where targets are masked every horizon step has equations of its own.
The penalty is chosen on validation windows.

Legend: H history, P horizon, Fo target features, K = H + 1 coefficients (the last is the intercept).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from trainer.reader import Batch

ROWS = 8192  # rows of windows written out at a time


class Ridge(nn.Module):
    """history [B, H, N, Fi] -> [B, P, N, Fo]; its weight is a buffer: nothing is left to a gradient."""

    uses_codes = False
    weight: torch.Tensor

    def __init__(self, history: int, horizon: int, targets_in_inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.targets = list(targets_in_inputs)
        self.register_buffer("weight", torch.zeros(len(self.targets), history + 1, horizon, dtype=torch.float64))

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None = None) -> torch.Tensor:
        own = history_BHNF[..., self.targets]
        weight = self.weight.to(own.dtype)
        out = torch.einsum("bhnf,fhp->bpnf", own, weight[:, :-1])
        return out + weight[:, -1].T[None, :, None, :]


class Equations:
    """X'X, X'Y and Y'Y of the windows seen, per target feature: [Fo, P or 1, K, K] and [Fo, P, K], float64."""

    def __init__(self, history: int, horizon: int, num_targets: int, *, masked: bool) -> None:
        size, kinds = history + 1, horizon if masked else 1
        self.masked = masked
        self.gram = torch.zeros(num_targets, kinds, size, size, dtype=torch.float64)
        self.cross = torch.zeros(num_targets, horizon, size, dtype=torch.float64)
        self.square = torch.zeros(num_targets, horizon, dtype=torch.float64)
        self.count = torch.zeros(num_targets, horizon, dtype=torch.float64)

    def add(self, batch: Batch, targets: Sequence[int]) -> None:
        """Adds the windows of a batch, `ROWS` rows at a time."""
        own = batch.history_BHNF[..., list(targets)]
        for feature in range(own.shape[-1]):
            x = own[..., feature].permute(0, 2, 1).reshape(-1, own.shape[1])
            y = batch.target_BPNF[..., feature].permute(0, 2, 1).reshape(-1, batch.target_BPNF.shape[1])
            seen = None
            if batch.observed_BPNF is not None:
                seen = batch.observed_BPNF[..., feature].permute(0, 2, 1).reshape(y.shape)
            for low in range(0, len(x), ROWS):
                part = slice(low, low + ROWS)
                self._add(feature, x[part].double(), y[part].double(), None if seen is None else seen[part])

    def _add(self, feature: int, x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor | None) -> None:
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        if seen is None or not self.masked:
            self.gram[feature, :] += x.T @ x
        else:
            y = y * seen
            for step in range(y.shape[1]):
                rows = x[seen[:, step]]
                self.gram[feature, step] += rows.T @ rows
        self.cross[feature] += y.T @ x
        self.square[feature] += (y * y).sum(0)
        self.count[feature] += len(y) if seen is None else seen.sum(0)

    def solve(self, penalty: float) -> torch.Tensor:
        """[Fo, K, P] coefficients; the penalty is per window, the intercept is free."""
        size = self.gram.shape[-1]
        free = torch.ones(size, dtype=torch.float64)
        free[-1] = 0.0
        count = self.count if self.masked else self.count[:, :1]
        ridge = torch.diag(free) * (penalty * count.clamp(min=1))[..., None, None]
        tiny = torch.eye(size, dtype=torch.float64) * 1e-9  # a feature never observed must not end in a singular matrix
        if self.masked:
            solved: torch.Tensor = torch.linalg.solve(self.gram + ridge + tiny, self.cross[..., None])
            return solved[..., 0].transpose(1, 2)
        shared: torch.Tensor = torch.linalg.solve((self.gram + ridge + tiny)[:, 0], self.cross.transpose(1, 2))
        return shared

    def squared_error(self, weight: torch.Tensor) -> torch.Tensor:
        """Sum of squared errors of coefficients [Fo, K, P] on these windows, without a second pass over them."""
        columns = weight.transpose(1, 2)
        gram = self.gram.expand(-1, columns.shape[1], -1, -1)
        quadratic = torch.einsum("fpk,fpkl,fpl->", columns, gram, columns)
        return self.square.sum() - 2 * (self.cross * columns).sum() + quadratic


def fit(
    model: Ridge, train: Iterable[Batch], validation: Iterable[Batch], penalties: Sequence[float], *, masked: bool
) -> tuple[float, dict[float, float]]:
    """Fits on `train`, takes the penalty with the lowest squared error on `validation` (without one: the smallest).

    Returns:
        The penalty, and the mean squared error on validation of each that was tried.
    """
    num_targets, size, horizon = model.weight.shape
    fitted, held = (Equations(size - 1, horizon, num_targets, masked=masked) for _ in range(2))
    for equations, batches in ((fitted, train), (held, validation)):
        for batch in batches:
            equations.add(batch, model.targets)
    count = float(held.count.sum())
    solved = {penalty: fitted.solve(penalty) for penalty in penalties}
    errors = {penalty: float(held.squared_error(weight)) / max(count, 1) for penalty, weight in solved.items()}
    best = min(errors, key=errors.__getitem__) if count else min(penalties)
    model.weight.copy_(solved[best])
    return best, errors
