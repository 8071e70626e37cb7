"""Our reader beside memcpy and a plain DataLoader, by turns in one process on one thread.

    python bench/reader.py [--shapes mid,ett] [--seconds 0.7] [--repeats 5] [--write]

Prints, per shape and way of serving, CPU microseconds a window (minimum and maximum over the repeats) and the share of
memcpy: bytes delivered per CPU second over those of np.copyto between blocks of the same size in the same minute.
`hourly` is as long as the ETTh series, where blocks open a file for every 24 rows. `--write` puts the table under
bench/results/ with date and machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ours
import torch

SHAPES = {  # days, steps a day, nodes, features, history, horizon
    "mid": (30, 1440, 200, 4, 12, 12),
    "big": (60, 1440, 512, 4, 12, 12),
    "ett54": (60, 1440, 1, 7, 96, 96),
    "ett": (60, 1440, 1, 7, 336, 96),
    "hourly": (725, 24, 1, 7, 96, 96),
}
BATCH = 64


def context(shape: str, work: Path) -> SimpleNamespace:
    """The series of a shape as a raw file, made once."""
    days, spd, nodes, features, hist, hor = SHAPES[shape]
    root = work / shape
    root.mkdir(parents=True, exist_ok=True)
    raw = root / "series.f32"
    if not raw.exists() or raw.stat().st_size != days * spd * nodes * features * 4:
        generator = np.random.default_rng(0)
        with open(raw, "wb") as file:
            for _ in range(days):
                file.write(generator.standard_normal((spd, nodes * features), dtype=np.float32).tobytes())
    return SimpleNamespace(
        days=days, spd=spd, N=nodes, F=features, hist=hist, hor=hor, B=BATCH, root=str(root), raw=str(raw), state=None
    )


@lru_cache(maxsize=1)
def copied(raw: str, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A series of at least two batches in memory, and two buffers of a batch."""
    series = np.fromfile(raw, dtype=np.float32)
    series = np.tile(series, max(1, -(-2 * size // len(series))))
    return series, [np.zeros(size, dtype=np.float32) for _ in range(2)]


def memcpy(ctx: SimpleNamespace) -> Iterator[tuple[int, int]]:
    """(windows, bytes) of plain copies of a batch's size out of the series at random places, into two buffers."""
    size = BATCH * (ctx.hist + ctx.hor) * ctx.N * ctx.F
    series, buffers = copied(ctx.raw, size)
    for number, place in enumerate(np.random.default_rng(2).integers(0, len(series) - size, 1 << 12).tolist()):
        np.copyto(buffers[number % 2], series[place : place + size])
        yield BATCH, size * 4


def served(
    way: Callable[..., Iterator[tuple[torch.Tensor, torch.Tensor]]],
) -> Callable[[SimpleNamespace], Iterator[tuple[int, int]]]:
    """Our batches, counted."""

    def run(ctx: SimpleNamespace) -> Iterator[tuple[int, int]]:
        for history, target in way(ctx):
            yield len(history), (history.numel() + target.numel()) * 4

    return run


class Windows(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What people write: a map-style dataset that slices a mapped series."""

    def __init__(self, ctx: SimpleNamespace) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.series = torch.from_numpy(np.memmap(ctx.raw, dtype=np.float32, mode="r").reshape(-1, ctx.N, ctx.F))
        self.hist, self.length = ctx.hist, ctx.hist + ctx.hor

    def __len__(self) -> int:
        return len(self.series) - self.length + 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.series[index : index + self.hist], self.series[index + self.hist : index + self.length]


def dataloader(ctx: SimpleNamespace) -> Iterator[tuple[int, int]]:
    """torch's DataLoader with default collation, no worker processes."""
    for history, target in torch.utils.data.DataLoader(Windows(ctx), batch_size=BATCH, shuffle=True):
        yield len(history), (history.numel() + target.numel()) * 4


WAYS = {
    "memcpy": memcpy,
    "resident block": served(ours.batches),
    "resident block + time codes": served(ours.coded),
    "blocks reloaded": served(ours.reloaded),
    "blocks reloaded + time codes": served(ours.reloaded_coded),
    "mapped": served(ours.mapped),
    "torch DataLoader": dataloader,
}


def measure(name: str, ctx: SimpleNamespace, seconds: float) -> tuple[float, float]:
    """(CPU seconds a window, bytes a CPU second) over about so many CPU seconds; epochs follow one another.

    Of blocks that are read again whole epochs count: the first batch of an epoch waits for a block, and has the next one read.
    """
    windows = num_bytes = 0
    began, used, whole = time.process_time(), 0.0, name in ("blocks reloaded", "blocks reloaded + time codes")
    while used < seconds:
        for count, size in WAYS[name](ctx):
            windows, num_bytes = windows + count, num_bytes + size
            used = time.process_time() - began
            if used > seconds and not whole:
                break
    return used / windows, num_bytes / used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dateshard-bench")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"Reader, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, batch {BATCH}, one thread; {chosen.repeats} repeats of {chosen.seconds:g} CPU s, "
        f"interleaved; load {os.getloadavg()[0]:.1f}",
        "",
        "| shape | window kB | way | CPU us a window (min - max) | share of memcpy (median) |",
        "|---|---|---|---|---|",
    ]
    for shape in chosen.shapes.split(","):
        ctx = context(shape, chosen.work)
        for name in WAYS:
            measure(name, ctx, 0.2)
        rounds = [{name: measure(name, ctx, chosen.seconds) for name in WAYS} for _ in range(chosen.repeats)]
        for name in WAYS:
            cost = [one[name][0] * 1e6 for one in rounds]
            share = float(np.median([one[name][1] / one["memcpy"][1] for one in rounds]))
            kilobytes = (ctx.hist + ctx.hor) * ctx.N * ctx.F * 4 / 1e3
            lines.append(f"| {shape} | {kilobytes:.1f} | {name} | {min(cost):.2f} - {max(cost):.2f} | {share:.0%} |")
            print(lines[-1], file=sys.stderr)
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.write:
        (Path(__file__).parent / "results" / f"{dt.date.today()}-reader.md").write_text(text)


if __name__ == "__main__":
    main()
