"""What a node is told beside its own history: which node it is, what its static columns say, and what time it is.

Legend: B batch, H history, W window, N nodes, F inputs, K context,
S what is said of a node.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from dateshard.trainer.models.category_inputs import width_of
from dateshard.trainer.models.shape import Shape

NODE = 8  # numbers of a node's embedding
DROPPED = 0.05  # of the nodes of a batch in training: they are unknown to it (docs/decisions/0064)
TIME = 2 + 7  # time of day, weekday


class NodeContext(nn.Module):
    """What a model is told of each node, [N, S]: its embedding, then the static columns of the node table.

    A number is one input, and a second one says whether it is there if training nodes lack it; a text is a learned
    embedding of its code. The columns are kept once, whatever the batch, and are no part of a checkpoint.

    Where nodes may come that training never saw, the last row of `weight` is the embedding of any of them. While a model
    is trained, each batch gives it to a few nodes, drawn from the step's own stream of random numbers.
    """

    row_N: torch.Tensor
    numbers_NK: torch.Tensor
    codes_NC: torch.Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        known = shape.num_known_nodes
        self.unknown = known
        self.weight = nn.Parameter(torch.empty(shape.num_nodes if known is None else known + 1, NODE))
        row_N = torch.arange(shape.num_nodes).clamp(max=shape.num_nodes if known is None else known)
        self.register_buffer("row_N", row_N, persistent=False)
        nn.init.normal_(self.weight)
        columns = list(shape.static.values())
        numbers = [column.values_N for column in columns if not column.codes]
        numbers += [column.observed_N.float() for column in columns if not (column.codes or column.complete)]
        categories = [column for column in columns if column.codes]
        codes = [column.values_N for column in categories]
        nobody = torch.empty(shape.num_nodes, 0)
        self.register_buffer("numbers_NK", torch.stack(numbers, dim=1) if numbers else nobody, persistent=False)
        self.register_buffer("codes_NC", torch.stack(codes, dim=1) if codes else nobody.long(), persistent=False)
        self.categories = nn.ModuleList(nn.Embedding(column.codes, width_of(column.codes)) for column in categories)
        with torch.no_grad():
            for table in self.categories:
                assert isinstance(table, nn.Embedding)
                table.weight[0] = 0
        self.width = NODE + len(numbers) + sum(width_of(column.codes) for column in categories)

    def forward(self) -> torch.Tensor:
        """Returns [N, S]."""
        names: torch.Tensor = self.weight
        if self.unknown is not None:
            row_N = self.row_N
            if self.training:
                dropped_N = torch.rand(len(row_N), device=row_N.device) < DROPPED
                row_N = row_N.masked_fill(dropped_N, self.unknown)
            names = self.weight[row_N]
        if self.width == NODE:
            return names
        embedded = [table(self.codes_NC[:, place]) for place, table in enumerate(self.categories)]
        return torch.cat([names, self.numbers_NK, *embedded], dim=-1)


def time_of(codes: torch.Tensor, steps_per_day: int) -> torch.Tensor:
    """Maps [...] int32 time codes to [..., TIME]: sine and cosine of the time of day, the weekday as one of seven."""
    angle = (codes >> 3)[..., None] * (2 * math.pi / steps_per_day)
    weekday = nn.functional.one_hot((codes & 7).long(), 7)
    return torch.cat([torch.sin(angle), torch.cos(angle), weekday], dim=-1)


def with_context(
    history_BHNF: torch.Tensor, node: NodeContext, codes_BW: torch.Tensor | None, steps_per_day: int
) -> torch.Tensor:
    """Returns [B, H, N, F + K] contiguous: every step of a node's own history with the node and the step's time.

    Memory: (F + K) / F times the history's.
    """
    assert codes_BW is not None, "a model that uses codes is given them"
    sizes = history_BHNF.shape[:3]
    names = node().expand(*sizes, node.width)
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
