"""Reversible instance normalisation (RevIN, Kim et al., ICLR 2022), around any model that forecasts.

The history of every target that is a number and an input is moved to mean 0 and spread 1, per window and node; the
model forecasts in these units, and its forecast is moved back by the very same figures. Other inputs and the classes
of categorical targets pass unchanged. The figures are those of the observed cells, or of all where none was observed:
what fill left in the others (without fill the middle of the scale) would pull them away from where the node stands.

The affine form learns a factor exp(a) and an offset b per target in between; as exp(a) is never 0, it has an inverse.

Legend: B batch, H history, P target steps, N nodes, F inputs, C output channels, K normalised inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from dateshard.trainer.models.around import Around, Output

EPSILON = 1e-5  # added to the variance, in scaled units squared: a constant history has spread 0.003


class RevIN(Around):
    """Maps history [B, H, N, F] to what the inner model returns, its forecasts of numbers moved back.

    Args:
        outputs_in_inputs: of each output channel the input that it continues, or -1.
        heads: channels of each head, for an inner model that returns a dict.
    """

    uses_known = True
    index_K: torch.Tensor
    index_C: torch.Tensor

    def __init__(
        self,
        inner: nn.Module,
        outputs_in_inputs: tuple[int, ...],
        heads: Mapping[str, tuple[int, ...]],
        *,
        affine: bool,
    ) -> None:
        super().__init__(inner)
        self.heads = dict(heads)
        places = sorted({place for place in outputs_in_inputs if place >= 0})
        index = [places.index(place) if place >= 0 else len(places) for place in outputs_in_inputs]
        self.register_buffer("index_K", torch.tensor(places), persistent=False)
        self.register_buffer("index_C", torch.tensor(index), persistent=False)
        self.log_factor = nn.Parameter(torch.zeros(len(places))) if affine else None
        self.offset = nn.Parameter(torch.zeros(len(places))) if affine else None

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None,
        known_BHNF: torch.Tensor | None = None,
        **future: torch.Tensor | None,
    ) -> Output:
        own = history_BHNF[..., self.index_K]
        mean, spread = self._figures(own, None if known_BHNF is None else known_BHNF[..., self.index_K])
        moved = (own - mean[..., :-1]) / spread[..., :-1]
        given = history_BHNF.index_copy(-1, self.index_K, moved)
        out = self.ask(given, codes_BW, known_BHNF, future)
        if isinstance(out, torch.Tensor):
            return self._back(out, mean, spread, self.index_C)
        chosen = {name: self.index_C[list(channels)] for name, channels in self.heads.items()}
        return {
            name: self._back(scaled, mean, spread, chosen[name]) if name in chosen else scaled
            for name, scaled in out.items()
        }

    def _figures(self, own_BHNK: torch.Tensor, known_BHNK: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread [B, 1, N, K + 1] of the way there and back; the last leaves a value as it is.

        (x - mean) / spread x exp(a) + b is one shift and one factor too.
        """
        exporting = torch.compiler.is_exporting()  # a graph cannot ask what is there
        if known_BHNK is None or (not exporting and bool(known_BHNK.all())):
            mean = own_BHNK.mean(1, keepdim=True)
            spread = torch.sqrt((own_BHNK - mean).square().mean(1, keepdim=True) + EPSILON)
        else:
            counted = known_BHNK | ~known_BHNK.any(1, keepdim=True)
            count = counted.sum(1, keepdim=True)
            mean = (own_BHNK * counted).sum(1, keepdim=True) / count
            spread = torch.sqrt(((own_BHNK - mean) * counted).square().sum(1, keepdim=True) / count + EPSILON)
        if self.log_factor is not None and self.offset is not None:
            spread = spread * torch.exp(-self.log_factor)
            mean = mean - self.offset * spread
        return nn.functional.pad(mean, (0, 1)), nn.functional.pad(spread, (0, 1), value=1.0)

    @staticmethod
    def _back(out: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return out * spread[..., index] + mean[..., index]
