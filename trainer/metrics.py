"""Exact metrics over a whole epoch in fixed memory: float64 sums per target step and feature.

The notes' case kept 11,014 batches for one concatenation (28 GB); these sums take 6 x P x F x 8 bytes. They are
additive, so they merge across ranks and go into a checkpoint. Sums of y are shifted by the training mean, which keeps
R2 free of cancellation (a float32 library metric returned 1.0134 where 4.6e-5 is true).

Legend: B batch, P target steps, N nodes, F target features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer.batch import Batch
from trainer.objective import Head, Summed

SUMS = ("count", "error", "absolute", "squared", "shifted", "shifted_squared")


@dataclass(slots=True)
class Sums:
    """`values_6PF`: the rows named in `SUMS`, float64, on the CPU."""

    values_6PF: torch.Tensor

    @staticmethod
    def zeros(num_steps: int, num_features: int) -> Sums:
        """Nothing seen yet."""
        return Sums(torch.zeros(len(SUMS), num_steps, num_features, dtype=torch.float64))

    def add(
        self,
        forecast: torch.Tensor,
        target: torch.Tensor,
        observed: torch.Tensor | None,
        shift: torch.Tensor | None = None,
    ) -> None:
        """Adds [B, P, N, F] forecasts and targets; `shift` is about the training mean, [F] or the same for all nodes
        [N, F] (R2 is of all nodes together); None: 0, the scaled one."""
        forecast, target = forecast.detach().double(), target.double()
        error, moved = forecast - target, target if shift is None else target - shift
        if observed is not None:
            seen = observed.double()
            error, moved = error * seen, moved * seen
            count = seen.sum((0, 2))
        else:
            count = torch.full(
                error.shape[1::2], error.shape[0] * error.shape[2], dtype=torch.float64, device=error.device
            )
        parts = (error, error.abs(), error * error, moved, moved * moved)
        self.values_6PF += torch.stack([count, *(part.sum((0, 2)) for part in parts)]).cpu()

    def metrics(self, step: int | None = None, feature: int | None = None) -> dict[str, float | None]:
        """MSE, RMSE, MAE, bias and R2 over everything, or of one step, one feature, or both; None where nothing counts."""
        chosen = self.values_6PF
        if step is not None:
            chosen = chosen[:, step : step + 1]
        if feature is not None:
            chosen = chosen[:, :, feature : feature + 1]
        count, error, absolute, squared, moved, moved_squared = (float(v) for v in chosen.sum((1, 2)))
        if not count:
            return {"count": 0, "mse": None, "rmse": None, "mae": None, "bias": None, "r2": None}
        spread = moved_squared - moved * moved / count
        mse = squared / count
        told = {
            "mse": mse,
            "rmse": mse**0.5,
            "mae": absolute / count,
            "bias": error / count,
            "r2": 1 - squared / spread if spread > 0 else None,
        }
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in told.items()}
        return {"count": int(count), **finite}

    def report(self, features: list[str]) -> dict[str, Any]:
        """All of it: overall, by feature, by target step."""
        return {
            **self.metrics(),
            "by_feature": {name: self.metrics(feature=index) for index, name in enumerate(features)},
            "by_horizon": [self.metrics(step=step) for step in range(self.values_6PF.shape[1])],
        }


@dataclass(slots=True)
class EpochMetrics:
    """Everything that is counted over an epoch: the losses of all heads, and the errors of all numeric targets.

    Attributes:
        losses_H3: of each head its sum, its count, and how many elements there are if nothing is missing; float64.
        sums: of the targets that are numbers, in the order of their heads.
    """

    heads: tuple[Head, ...]
    losses_H3: torch.Tensor
    sums: Sums

    @staticmethod
    def empty(heads: tuple[Head, ...], num_steps: int) -> EpochMetrics:
        """Nothing seen yet."""
        numbers = sum(len(head.targets) for head in heads if head.loss != "cross_entropy")
        return EpochMetrics(heads, torch.zeros(len(heads), 3, dtype=torch.float64), Sums.zeros(num_steps, numbers))

    def fresh(self) -> EpochMetrics:
        """Another one of the same form, nothing seen yet."""
        return EpochMetrics.empty(self.heads, self.sums.values_6PF.shape[1])

    def add(self, forecast: Mapping[str, torch.Tensor], batch: Batch, found: Mapping[str, Summed]) -> None:
        """Adds a batch.

        Args:
            forecast: [B, P, N, channels] by head. found: (sum, count) of each head's loss.
        """
        cells = batch.target_BPNF[..., 0].numel()
        for row, head in zip(self.losses_H3, self.heads, strict=True):
            total, count = found[head.name]
            row += torch.tensor([float(total), float(count), cells * len(head.targets)], dtype=torch.float64)
        heads = [head for head in self.heads if head.loss != "cross_entropy"]
        if not heads:
            return
        places = [target for head in heads for target in head.targets]
        joined = [forecast[head.name] for head in heads]
        every = places == list(range(batch.target_BPNF.shape[-1]))
        observed = batch.observed_BPNF
        self.sums.add(
            joined[0] if len(joined) == 1 else torch.cat(joined, dim=-1),
            batch.target_BPNF if every else batch.target_BPNF[..., places],
            observed if every or observed is None else observed[..., places],
        )

    def loss(self) -> float | None:
        """What training minimises, over everything seen; None where nothing was observed or it is no number."""
        count, planned = (float(column) for column in self.losses_H3[:, 1:].sum(0))
        if not count:
            return None
        parts = (head.weight * float(row[0] / row[2]) for head, row in zip(self.heads, self.losses_H3, strict=True))
        total = sum(parts) * planned / count
        return total if math.isfinite(total) else None

    def losses(self) -> dict[str, float | None]:
        """{head: mean of its loss over its observed elements}."""
        rows = zip(self.heads, self.losses_H3.tolist(), strict=True)
        return {head.name: total / count if count else None for head, (total, count, _) in rows}

    def report(self) -> dict[str, Any]:
        """All of it, over numbers also by target step."""
        return {"loss": self.loss(), "losses": self.losses(), **self.sums.report([])}

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint: copies."""
        return {"losses": self.losses_H3.clone(), "sums": self.sums.values_6PF.clone()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`."""
        self.losses_H3.copy_(tensors["losses"])
        self.sums.values_6PF.copy_(tensors["sums"])
