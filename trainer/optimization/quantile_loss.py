"""Quantiles as a model's outputs: one for each level, sorted, and the pinball loss of what is sorted.

The outputs of a cell are sorted before they are judged or given to anybody, so that no quantile lies above a higher one,
whatever the weights. Sorting never raises the pinball loss summed over the levels (Chernozhukov, Fernandez-Val and
Galichon, 2010: a lower level is better off with the smaller of two values). A sum of positive steps would not cross
either, but what stands around a model (reversible normalisation, a correction by what is known ahead) moves each output
as a value of the target, which a step is not.

Legend: B batch, P target steps, N nodes, F targets of a head, Q levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sorted_quantiles(outputs_BPNC: torch.Tensor, num_levels: int) -> torch.Tensor:
    """Returns [B, P, N, F, Q] in rising order; equal outputs keep their levels, from which training starts apart."""
    apart_BPNFQ = outputs_BPNC.reshape(*outputs_BPNC.shape[:-1], -1, num_levels)
    if torch.compiler.is_exporting():  # ONNX knows no stable one, and equal values need none
        return apart_BPNFQ.sort(dim=-1).values
    return apart_BPNFQ.sort(dim=-1, stable=True).values


def pinball(quantiles_BPNFQ: torch.Tensor, target_BPNF: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    """Returns [B, P, N, F], the mean over the levels of (level - [target below]) x (target - quantile)."""
    level_Q = quantiles_BPNFQ.new_tensor(levels)
    error = target_BPNF[..., None] - quantiles_BPNFQ
    return torch.maximum(level_Q * error, (level_Q - 1) * error).mean(-1)


def nearest_to_median(levels: Sequence[float]) -> int:
    """Returns the place of the level that serves as the forecast: nearest to 0.5, of two the lower."""
    return min(range(len(levels)), key=lambda place: (round(abs(levels[place] - 0.5), 12), place))


def between(quantiles_Q: torch.Tensor, known: Sequence[float], wanted: Sequence[float]) -> torch.Tensor:
    """Returns [..., L] at the wanted levels: linear between two known ones, NaN beyond all of them."""
    columns = []
    for level in wanted:
        above = next((place for place, other in enumerate(known) if other >= level - 1e-9), None)
        if above is None or (above == 0 and known[0] > level + 1e-9):
            columns.append(torch.full_like(quantiles_Q[..., 0], torch.nan))
        elif abs(known[above] - level) <= 1e-9:
            columns.append(quantiles_Q[..., above])
        else:
            share = (level - known[above - 1]) / (known[above] - known[above - 1])
            columns.append(torch.lerp(quantiles_Q[..., above - 1], quantiles_Q[..., above], share))
    return torch.stack(columns, dim=-1)
