"""The sums that a ridge is solved from: lag products against windows written out, CPU seconds on one thread.

    python bench/ridge.py [--shapes flights,ett] [--repeats 5] [--write]

Interleaved in one process; `written out` streams windows through a buffer of 8,192 rows and multiplies them, once where
all targets are observed, once a target step where half of them are masked. Prints minimum and maximum over the repeats,
the largest relative difference of the two Gram matrices, and what choosing among 96 tunings costs on top.
`--write` puts the table under bench/results/ with date and machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models.ridge import Grid, Judging
from dateshard.trainer.models.ridge_gram import GramPart, Joint, Masked

SHAPES = {  # nodes, windows a node, history, horizon, masked share
    "flights, masked": (30, 6361, 168, 24, 0.5),
    "flights, observed": (30, 6361, 168, 24, 0.0),
    "ett": (7, 13969, 336, 96, 0.0),
}
ROWS = 8192


def never() -> bool:
    return False


def part_of(shape: str, share: float = 1.0) -> tuple[GramPart, Window]:
    """A series with a daily wave; `share` of its windows."""
    nodes, count, history, horizon, masked = SHAPES[shape]
    count = int(count * share)
    generator = np.random.default_rng(1)
    steps = count + history + horizon - 1
    wave = np.sin(np.arange(steps) / 24 * 2 * np.pi) + generator.normal(size=(nodes, steps)) * 0.5
    seen = torch.from_numpy(generator.random((nodes, steps)) >= masked) if masked else None
    return GramPart(
        values_NT=torch.from_numpy(wave), seen_NT=seen, newest_NK=None, count=count, opens=True, closes=True
    ), Window(history, horizon)


def lag_products(part: GramPart, window: Window) -> Joint | Masked:
    made = Joint(window) if part.seen_NT is None else Masked(window)
    made.add(part, never)
    made.finish(never)
    return made


def written_out(part: GramPart, window: Window) -> torch.Tensor:
    """[W, W] where all is observed, else [P, H, H]."""
    values = part.values_NT.unfold(1, window.length, 1)
    if part.seen_NT is None:
        gram = torch.zeros(window.length, window.length, dtype=torch.float64)
        for node in values:
            for low in range(0, len(node), ROWS):
                rows = node[low : low + ROWS].contiguous()
                gram += rows.T @ rows
        return gram
    seen = part.seen_NT.unfold(1, window.length, 1)[..., window.history :]
    gram = torch.zeros(window.horizon, window.history, window.history, dtype=torch.float64)
    for node, mask in zip(values, seen, strict=True):
        for low in range(0, len(node), ROWS):
            rows = node[low : low + ROWS, : window.history].contiguous()
            for step in range(window.horizon):
                own = rows[mask[low : low + ROWS, step]]
                gram[step] += own.T @ own
    return gram


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def measure(shape: str, repeats: int) -> list[str]:
    part, window = part_of(shape)
    taken: dict[str, list[float]] = {"lag products": [], "written out": []}
    made: dict[str, object] = {}
    for _ in range(repeats):
        for name, work in (("lag products", lag_products), ("written out", written_out)):
            spent, made[name] = seconds(lambda work=work: work(part, window))  # type: ignore[misc]
            taken[name].append(spent)
    ours, theirs = made["lag products"], made["written out"]
    assert isinstance(ours, Joint | Masked)
    assert isinstance(theirs, torch.Tensor)
    error = float((ours.gram - theirs).abs().max() / theirs.abs().max())
    held_part, _ = part_of(shape, 0.17)
    held = lag_products(held_part, window)
    tunings = Grid(ModelConfig().penalties).tunings(window.history)
    chosen, _ = seconds(lambda: Judging(tunings).add(ours, held, 1, never))
    ratio = min(taken["written out"]) / min(taken["lag products"])
    figures = [f"{min(taken[name]):.3f} - {max(taken[name]):.3f}" for name in ("written out", "lag products")]
    nodes, count, history, horizon, _ = SHAPES[shape]
    return [
        shape, f"{nodes * count:,}", str(history), str(horizon), *figures, f"{ratio:.0f}", f"{error:.1e}", f"{chosen:.2f}"
    ]  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    today = dt.date.today()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    lines = [
        f"Ridge, {today}, {machine}; one thread, {given.repeats} repeats, interleaved; load {os.getloadavg()[0]:.1f}",
        "",
        "| shape | windows | history | horizon | written out, CPU s | lag products, CPU s | ratio of minima "
        "| relative difference | choosing among 96, CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        if all(part not in shape for part in given.shapes.split(",")):
            continue
        lines.append("| " + " | ".join(measure(shape, given.repeats)) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.write:
        Path(__file__).parent.joinpath("results", f"{today}-ridge.md").write_text(text)


if __name__ == "__main__":
    main()
