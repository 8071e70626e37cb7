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

from trainer.batch import Batch

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
    """X'X, X'Y and Y'Y of the windows seen, per target feature, float64.

    `gram[f]` is [1, K, K] as long as all of feature f's targets were observed, [P, K, K] from the first masked one on:
    then every target step has its own rows. `cross` is [Fo, P, K], `square` and `count` [Fo, P].
    """

    def __init__(self, history: int, horizon: int, num_targets: int) -> None:
        size = history + 1
        self.gram = [torch.zeros(1, size, size, dtype=torch.float64) for _ in range(num_targets)]
        self.cross = torch.zeros(num_targets, horizon, size, dtype=torch.float64)
        self.square = torch.zeros(num_targets, horizon, dtype=torch.float64)
        self.count = torch.zeros(num_targets, horizon, dtype=torch.float64)

    def add(self, batch: Batch, targets: Sequence[int]) -> None:
        """Adds the windows of a batch, `ROWS` rows at a time."""
        own = batch.history_BHNF[..., list(targets)]
        for feature in range(own.shape[-1]):
            x = _rows(own, feature)
            y = _rows(batch.target_BPNF, feature)
            seen = None if batch.observed_BPNF is None else _rows(batch.observed_BPNF, feature)
            if seen is not None and bool(seen.all()):
                seen = None
            for low in range(0, len(x), ROWS):
                part = slice(low, low + ROWS)
                self._add(feature, x[part].double(), y[part].double(), None if seen is None else seen[part])

    def _add(self, feature: int, x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor | None) -> None:
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        gram = self.gram[feature]
        if seen is None:
            gram += x.T @ x
        else:
            if len(gram) == 1 < y.shape[1]:
                gram = self.gram[feature] = gram.repeat(y.shape[1], 1, 1)
            y = y * seen
            for step in range(y.shape[1]):
                rows = x[seen[:, step]]
                gram[step] += rows.T @ rows
        self.cross[feature] += y.T @ x
        self.square[feature] += (y * y).sum(0)
        self.count[feature] += len(y) if seen is None else seen.sum(0)

    def solve(self, penalty: float) -> torch.Tensor:
        """[Fo, K, P] coefficients; the penalty is per window, the intercept is free."""
        return torch.stack([self._solve(feature, penalty) for feature in range(len(self.gram))])

    def _solve(self, feature: int, penalty: float) -> torch.Tensor:
        gram, cross = self.gram[feature], self.cross[feature]
        free = torch.ones(gram.shape[-1], dtype=torch.float64)
        free[-1] = 0.0
        count = self.count[feature, : len(gram)].clamp(min=1)
        # a feature that was never observed must not end in a singular matrix
        full = (
            gram
            + torch.diag(free) * (penalty * count)[:, None, None]
            + torch.eye(gram.shape[-1], dtype=gram.dtype) * 1e-9
        )
        solved: torch.Tensor = torch.linalg.solve(full, cross[..., None] if len(gram) > 1 else cross.T[None])
        return solved[..., 0].T if len(gram) > 1 else solved[0]

    def squared_error(self, weight: torch.Tensor) -> torch.Tensor:
        """Sum of squared errors of coefficients [Fo, K, P] on these windows, without a second pass over them."""
        total = self.square.sum()
        for gram, cross, columns in zip(self.gram, self.cross, weight.transpose(1, 2), strict=True):
            total = total - 2 * (cross * columns).sum()
            total = total + torch.einsum("pk,pkl,pl->", columns, gram.expand(len(columns), -1, -1), columns)
        return total


def _rows(values_BSNF: torch.Tensor, feature: int) -> torch.Tensor:
    """[B * N, S]: one row a window and node, S its steps."""
    return values_BSNF[..., feature].permute(0, 2, 1).reshape(-1, values_BSNF.shape[1])


def fit(
    model: Ridge, train: Iterable[Batch], validation: Iterable[Batch], penalties: Sequence[float]
) -> tuple[float, dict[float, float]]:
    """Fits on `train`, takes the penalty with the lowest squared error on `validation` (without one: the smallest).

    Returns:
        The penalty, and the mean squared error on validation of each that was tried.
    """
    num_targets, size, horizon = model.weight.shape
    fitted, held = (Equations(size - 1, horizon, num_targets) for _ in range(2))
    for equations, batches in ((fitted, train), (held, validation)):
        for batch in batches:
            equations.add(batch, model.targets)
    count = float(held.count.sum())
    solved = {penalty: fitted.solve(penalty) for penalty in penalties}
    errors = {penalty: float(held.squared_error(weight)) / max(count, 1) for penalty, weight in solved.items()}
    best = min(errors, key=errors.__getitem__) if count else min(penalties)
    model.weight.copy_(solved[best])
    return best, errors
