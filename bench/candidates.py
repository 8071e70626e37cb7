"""Architectures that were tried as built-in models (bench/rivals.py), each written as a model of one's own.

`patches` is PatchTST (Nie et al., ICLR 2023, arXiv 2211.14730), `mixer` TSMixer (Chen et al. 2023, arXiv 2303.06053), `tide`
TiDE (Das et al. 2023, arXiv 2304.08424), `stid` STID (Shao et al., CIKM 2022, arXiv 2208.05233). The channels of the first
three papers are nodes here. `model.options` gives width and depth.

Legend: B batch, H history, W window, P target steps, N nodes, F inputs, C output channels, K patches, D width, T time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dateshard.trainer.config import ModelConfig
from dateshard.trainer.models.context import TIME, time_of
from dateshard.trainer.models.shape import Shape

# Of each: {example: (the narrower of two widths, other options)}.
TRIED: dict[str, dict[str, tuple[int, dict[str, int]]]] = {
    "patches": {"traffic": (32, {"patch": 4}), "flights": (32, {"patch": 24})},
    "mixer": {"traffic": (64, {}), "flights": (64, {})},
    "tide": {"traffic": (64, {}), "flights": (64, {})},
    "stid": {"traffic": (16, {}), "flights": (16, {})},
}


def _two_layers(wide: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))


class Residual(nn.Module):
    """Two layers beside the identity, or beside a linear map where the width changes."""

    def __init__(self, wide: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__()
        self.layers = _two_layers(wide, hidden, out, dropout)
        self.skip = nn.Identity() if wide == out else nn.Linear(wide, out)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(given) + self.skip(given)
        return out


class Attention(nn.Module):
    """One layer of a transformer encoder, normalised before each part."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_RKD: torch.Tensor) -> torch.Tensor:
        rows, count, width = tokens_RKD.shape
        parts = self.ask(self.first(tokens_RKD)).reshape(rows, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        tokens_RKD = tokens_RKD + self.dropout(self.mix(mixed.transpose(1, 2).reshape(rows, count, width)))
        out: torch.Tensor = tokens_RKD + self.dropout(self.layers(self.second(tokens_RKD)))
        return out


class Candidate(nn.Module):
    """What all four have: sizes, and a forecast [B, P, N, C] from one row a window and node."""

    uses_codes = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.target = shape, (shape.window.target_steps, shape.num_outputs)

    def when(self, codes_BW: torch.Tensor, low: int, high: int) -> torch.Tensor:
        """The time of day and the weekday of the steps `low` to `high`: [B, high - low, T]."""
        return time_of(codes_BW[:, low:high], self.shape.steps_per_day)

    def by_step(self, flat_BNE: torch.Tensor) -> torch.Tensor:
        return flat_BNE.reshape(*flat_BNE.shape[:2], *self.target).transpose(1, 2)


class Patches(Candidate):
    """Attention over the patches of a node's history; node and anchor are added to each patch."""

    def __init__(self, shape: Shape, dropout: float, width: int = 32, depth: int = 2, patch: int = 24) -> None:
        super().__init__(shape)
        history = shape.window.history
        self.patch = min(patch, history)
        self.stride = max(1, self.patch // 2)
        self.pad = -(history - self.patch) % self.stride
        count = (history + self.pad - self.patch) // self.stride + 1
        self.embed = nn.Linear(self.patch * shape.num_inputs, width)
        self.place = nn.Parameter(0.02 * torch.randn(count, width))
        self.node, self.time = nn.Embedding(shape.num_nodes, width), nn.Linear(TIME, width)
        self.layers = nn.Sequential(*[Attention(width, max(1, width // 8), dropout) for _ in range(depth)])
        self.out = nn.Linear(count * width, self.target[0] * self.target[1])

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor) -> torch.Tensor:
        batch, history, nodes, _ = history_BHNF.shape
        first = history_BHNF[:, :1].expand(-1, self.pad, -1, -1)
        cut_BKNFL = torch.cat([first, history_BHNF], dim=1).unfold(1, self.patch, self.stride)
        tokens_BNKD = self.embed(cut_BKNFL.transpose(1, 2).flatten(3)) + self.place
        around = self.node.weight[None] + self.time(self.when(codes_BW, history, history + 1))
        tokens = (tokens_BNKD + around[:, :, None]).flatten(0, 1)
        return self.by_step(self.out(self.layers(tokens).reshape(batch, nodes, -1)))


class Mixer(Candidate):
    """Layers that mix the steps of each channel, then the channels of each step; a channel is an input of a node."""

    def __init__(self, shape: Shape, dropout: float, width: int = 64, depth: int = 2) -> None:
        super().__init__(shape)
        history, channels = shape.window.history, shape.num_nodes * shape.num_inputs
        mixed = channels + TIME
        self.norms = nn.ModuleList([nn.LayerNorm(mixed) for _ in range(2 * depth)])
        self.steps = nn.ModuleList([nn.Linear(history, history) for _ in range(depth)])
        self.channels = nn.ModuleList([_two_layers(mixed, width, mixed, dropout) for _ in range(depth)])
        self.dropout = nn.Dropout(dropout)
        self.ahead = nn.Linear(history, self.target[0])
        self.out = Residual(mixed + TIME, width, shape.num_nodes * self.target[1], dropout)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor) -> torch.Tensor:
        batch, history, nodes, _ = history_BHNF.shape
        mixed = torch.cat([history_BHNF.flatten(2), self.when(codes_BW, 0, history)], dim=2)
        for layer, (steps, channels) in enumerate(zip(self.steps, self.channels, strict=True)):
            turned = self.norms[2 * layer](mixed).transpose(1, 2)
            mixed = mixed + self.dropout(torch.relu(steps(turned))).transpose(1, 2)
            mixed = mixed + self.dropout(channels(self.norms[2 * layer + 1](mixed)))
        ahead = self.ahead(mixed.transpose(1, 2)).transpose(1, 2)
        ahead = torch.cat([ahead, self.when(codes_BW, history, history + self.target[0])], dim=2)
        return self.out(ahead).reshape(batch, self.target[0], nodes, self.target[1])


class Tide(Candidate):
    """A dense encoder and decoder with the time of every step, and a linear map from the history."""

    def __init__(self, shape: Shape, dropout: float, width: int = 64, depth: int = 1, step: int = 8) -> None:
        super().__init__(shape)
        window, own = shape.window, shape.window.history * shape.num_inputs
        self.node, self.time = nn.Embedding(shape.num_nodes, 8), nn.Linear(TIME, 4)
        sizes = [own + 4 * window.length + 8, *[width] * depth]
        blocks = [Residual(wide, width, width, dropout) for wide in sizes[:depth]]
        self.dense = nn.Sequential(*blocks, Residual(width, width, window.target_steps * step, dropout))
        self.out = Residual(step + 4, width // 2, self.target[1], dropout)
        self.linear = nn.Linear(own, self.target[0] * self.target[1])

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor) -> torch.Tensor:
        batch, history, nodes, _ = history_BHNF.shape
        own = history_BHNF.transpose(1, 2).flatten(2)
        when = self.time(self.when(codes_BW, 0, codes_BW.shape[1]))
        names = self.node.weight.expand(batch, nodes, 8)
        hidden = self.dense(torch.cat([own, when.flatten(1)[:, None].expand(-1, nodes, -1), names], dim=2))
        hidden = hidden.reshape(batch, nodes, self.target[0], -1)
        ahead = when[:, None, history:].expand(-1, nodes, -1, -1)
        return self.out(torch.cat([hidden, ahead], dim=3)).transpose(1, 2) + self.by_step(self.linear(own))


class Stid(Candidate):
    """A residual perceptron over a node's history and three embeddings: the node, the step of the day, the weekday."""

    def __init__(self, shape: Shape, dropout: float, width: int = 32, depth: int = 3) -> None:
        super().__init__(shape)
        self.own = nn.Linear(shape.window.history * shape.num_inputs, width)
        self.node = nn.Embedding(shape.num_nodes, width)
        self.day, self.week = nn.Embedding(shape.steps_per_day, width), nn.Embedding(7, width)
        self.layers = nn.Sequential(*[Residual(4 * width, 4 * width, 4 * width, dropout) for _ in range(depth)])
        self.out = nn.Linear(4 * width, self.target[0] * self.target[1])
        for table in (self.node, self.day, self.week):
            nn.init.xavier_uniform_(table.weight)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor) -> torch.Tensor:
        batch, history, nodes, _ = history_BHNF.shape
        codes = codes_BW[:, history].long()
        when = torch.cat([self.day(codes >> 3), self.week(codes & 7)], dim=1)[:, None].expand(-1, nodes, -1)
        own, names = self.own(history_BHNF.transpose(1, 2).flatten(2)), self.node.weight.expand(batch, nodes, -1)
        return self.by_step(self.out(self.layers(torch.cat([own, names, when], dim=2))))


def patches(shape: Shape, config: ModelConfig) -> nn.Module:
    return Patches(shape, config.dropout_rate, **_options(config))


def mixer(shape: Shape, config: ModelConfig) -> nn.Module:
    return Mixer(shape, config.dropout_rate, **_options(config))


def tide(shape: Shape, config: ModelConfig) -> nn.Module:
    return Tide(shape, config.dropout_rate, **_options(config))


def stid(shape: Shape, config: ModelConfig) -> nn.Module:
    return Stid(shape, config.dropout_rate, **_options(config))


def _options(config: ModelConfig) -> dict[str, Any]:
    return dict(config.options)
