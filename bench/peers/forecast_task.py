"""What every library of bench/forecasters.py trains: the same dumps, window, step and model.

Legend: L steps, N nodes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

HISTORY, HORIZON, NODES, STEPS_A_DATE, SEED = 12, 12, 50, 288, 7
BATCH = 32 * NODES  # histories of one node; dateshard's batch is 32 windows of all nodes
RATE = 0.001


@dataclass(frozen=True, slots=True)
class Asked:
    """The folder of the dumps, and how many epochs."""

    dumps: Path
    epochs: int

    @property
    def steps(self) -> int:
        """The steps of an epoch are of all windows of the training dates, which are all but the last."""
        return -(-((len(self.files) - 1) * STEPS_A_DATE - HISTORY - HORIZON + 1) // (BATCH // NODES))

    @property
    def files(self) -> list[Path]:
        """The dumps, by date."""
        return sorted(self.dumps.glob("*.csv"))


def asked() -> Asked:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dumps", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    return Asked(given.dumps, given.epochs)


def read_all(files: list[Path]) -> np.ndarray:
    """All dumps as float32 [L, N], by numpy: rows lie by step, then by node."""
    speeds = [np.loadtxt(file, delimiter=",", skiprows=1, usecols=2, dtype=np.float32) for file in files]
    return np.concatenate(speeds).reshape(-1, NODES)
