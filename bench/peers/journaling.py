"""dateshard's side: a model of one's own that notes the windows of each training batch, and kills its process.

Beside the run lies `kill`: the training batch of this process, from 1, that is never taken; 0: none.
"""

from __future__ import annotations

import json
import os
import signal
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Journaling(nn.Module):
    """A small mlp with dropout."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.form, self.taken = (shape.window.target_steps, shape.num_nodes, shape.num_outputs), 0
        inputs = shape.window.history * shape.num_nodes * shape.num_inputs
        outputs = self.form[0] * self.form[1] * self.form[2]
        self.layers = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, outputs))

    def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.taken += 1
            if self.taken == int(Path("kill").read_text()):
                os.kill(os.getpid(), signal.SIGKILL)
            with open("journal.jsonl", "a") as journal:
                windows = [zlib.crc32(window.contiguous().numpy()) for window in history]
                journal.write(json.dumps([self.taken, windows]) + "\n")
        return self.layers(history.flatten(1)).unflatten(1, self.form)


def build(shape: Any, config: Any) -> nn.Module:
    """Makes the model."""
    return Journaling(shape)
