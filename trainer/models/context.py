"""What a node is told beside its own history: which node it is, and what time it is.

Legend: B batch, H history, W window, N nodes, F inputs, K context.
"""

from __future__ import annotations

import math

import torch
from torch import nn

NODE = 8  # numbers of a node's embedding
TIME = 2 + 7  # time of day, weekday
CONTEXT = NODE + TIME


def time_of(codes: torch.Tensor, steps_per_day: int) -> torch.Tensor:
    """Maps [...] int32 time codes to [..., TIME]: sine and cosine of the time of day, the weekday as one of seven."""
    angle = (codes >> 3)[..., None] * (2 * math.pi / steps_per_day)
    weekday = nn.functional.one_hot((codes & 7).long(), 7)
    return torch.cat([torch.sin(angle), torch.cos(angle), weekday], dim=-1)


def with_context(
    history_BHNF: torch.Tensor, node: nn.Embedding, codes_BW: torch.Tensor | None, steps_per_day: int
) -> torch.Tensor:
    """Returns [B, H, N, F + K] contiguous: every step of a node's own history with the node and the step's time.

    Memory: (F + K) / F times the history's.
    """
    assert codes_BW is not None, "a model that uses codes is given them"
    sizes = history_BHNF.shape[:3]
    names = node.weight.expand(*sizes, NODE)
    when = time_of(codes_BW[:, : sizes[1], None], steps_per_day).expand(*sizes, TIME)
    return torch.cat([history_BHNF, names, when], dim=-1)


class StepsOut(nn.Module):
    """What the hidden layers say and a linear map beside them, as a forecast.

    With a horizon, the features of a node's window give all target steps at once, and the linear map is one from the
    whole history to the whole horizon. With horizon 0 every step's features give that step's outputs, and the linear
    map is one from that step's inputs. It begins at zero and leaves the layers what a linear model cannot say (the
    global residual of TiDE, Das et al. 2023, arXiv 2304.08424).
    """

    def __init__(self, width: int, num_own: int, target: tuple[int, int], *, per_step: bool) -> None:
        super().__init__()
        self.target, self.per_step = target, per_step
        num_out = target[1] if per_step else target[0] * target[1]
        self.out = nn.Linear(width, num_out)
        self.linear = nn.Linear(num_own, num_out, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, features: torch.Tensor, history_BHNF: torch.Tensor) -> torch.Tensor:
        """Returns [B, P, N, C] of features [B, N, width], or [B, H, N, width] a step."""
        if self.per_step:
            per_step: torch.Tensor = self.out(features) + self.linear(history_BHNF)
            return per_step
        own = history_BHNF.transpose(1, 2).flatten(2)
        flat: torch.Tensor = self.out(features) + self.linear(own)
        return flat.view(*flat.shape[:2], *self.target).transpose(1, 2)
