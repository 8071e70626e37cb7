"""What one training step of each family costs, on the traffic example's shapes.

    python bench/models.py [--steps 15] [--threads 1] [--write]

64 windows of 12 + 12 steps, 64 nodes, two inputs, one target; forward, backward and Adam. The batch is a view of whole
windows, as in training. The families take turns, so that a busy machine meets all of them alike.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command does (docs/decisions/0007)

import torch
from torch import nn

from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import FAMILIES, build, num_parameters
from dateshard.trainer.models.shape import Shape

BATCH, HISTORY, HORIZON, NODES, INPUTS = 64, 12, 12, 64, 2


class Timed:
    """One model under training on one batch."""

    def __init__(self, name: str, revin: bool) -> None:
        torch.manual_seed(0)
        shape = Shape(
            window=Window(HISTORY, HORIZON),
            num_nodes=NODES,
            num_inputs=INPUTS,
            num_outputs=1,
            targets_in_inputs=(0,),
            steps_per_day=288,
        )
        self.model: nn.Module = build(shape, ModelConfig(name=name, revin=revin))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.seconds: list[tuple[float, float]] = []

    def step(self, whole: torch.Tensor, codes: torch.Tensor) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        forecast = self.model(whole[:, :HISTORY], codes)
        ((forecast - whole[:, HISTORY:, :, :1]) ** 2).mean().backward()
        self.optimizer.step()
        self.seconds.append((time.perf_counter() - wall, time.process_time() - cpu))

    def told(self) -> str:
        wall, cpu = (sorted(1000 * column for column in columns) for columns in zip(*self.seconds[2:], strict=True))
        parts = [f"{statistics.median(cpu):.1f}", f"{cpu[0]:.1f} - {cpu[-1]:.1f}", f"{statistics.median(wall):.1f}"]
        return " | ".join([f"{num_parameters(self.model):,}", *parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    whole = torch.randn(BATCH, HISTORY + HORIZON, NODES, INPUTS)
    codes = (torch.randint(0, 288, whole.shape[:2]) * 8 + torch.randint(0, 7, whole.shape[:2])).int()
    trained = [name for name, family in FAMILIES.items() if not family.closed_form]
    timed = {(name, revin): Timed(name, revin) for name in trained for revin in (False, True)}
    for _ in range(chosen.steps + 2):
        for one in timed.values():
            one.step(whole, codes)
    lines = [
        f"A training step, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} "
        f"({chosen.threads} thread(s)), {BATCH} windows of {HISTORY} + {HORIZON} steps, {NODES} nodes, {INPUTS} inputs, "
        f"1 target, hidden_units [64, 32]; {chosen.steps} steps, the families in turn; load {os.getloadavg()[0]:.1f}",
        "",
        "| model | parameters | CPU ms, median | min - max | wall ms, median |",
        "|---|---|---|---|---|",
        *(f"| {name}{' + revin' if revin else ''} | {one.told()} |" for (name, revin), one in timed.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.write:
        path = Path(__file__).parent / "results" / f"{dt.date.today()}-models.md"
        path.write_text((path.read_text() + "\n" if path.exists() else "") + text)


if __name__ == "__main__":
    main()
