"""The notes' case: metrics over 11,014 batches of 16 x 500 x 20 under RLIMIT_DATA 4 GiB, three ways, and their cost.

    python bench/metrics.py [--batches 11014] [--limit-mib 4096]

Forecasts and targets are made on the fly from multiples of 1/64, so that every sum is known exactly in integers; the
error grows over the epoch, as a sample of its first batches cannot know. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

B, P, F = 16, 500, 20  # windows of a batch, steps, joints
UNIT = 64  # values are whole numbers of 1/64
MIB = 1 << 20
CAPPED = 1000  # batches that the notes keep


def batches(count: int) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """(forecast, target, sum of the squared and of the absolute errors in units) of each batch; new memory each."""
    for number in range(count):
        generator = np.random.default_rng(number)
        target = generator.integers(-200, 200, size=(B, P, 1, F), dtype=np.int16)
        width = 8 + 24 * number // count
        error = generator.integers(-width, width + 1, size=target.shape, dtype=np.int16)
        wide = error.astype(np.int64).ravel()
        squared, absolute = int(wide @ wide), int(np.abs(wide).sum())
        yield (target + error).astype(np.float32) / UNIT, target.astype(np.float32) / UNIT, squared, absolute


def anonymous() -> int:
    """Bytes of this process's own memory."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])


def calculate_metrics(targets: Any, predictions: Any) -> dict[str, float]:
    """As the notes call it."""
    error = predictions - targets
    return {"mse": float(np.mean(error * error)), "mae": float(np.mean(np.abs(error)))}


def ours(count: int) -> dict[str, Any]:
    """Everything that training counts, and what is exact."""
    import torch

    from dateshard.trainer.data.batch import Batch
    from dateshard.trainer.metrics import EpochMetrics, Form
    from dateshard.trainer.optimization.objective import Head, Target

    torch.set_num_threads(1)
    targets = tuple(Target(f"joint{index}") for index in range(F))
    head = Head(name="mse", loss="mse", weight=1.0, targets=tuple(range(F)), channels=tuple(range(F)))
    nothing = torch.zeros(B, 1, 1, 1)
    squared = absolute = 0
    metrics = EpochMetrics.empty(Form(heads=(head,), targets=targets, num_steps=P))
    before = peak = 0
    for number, (forecast, target, squares, absolutes) in enumerate(batches(count)):
        given = Batch(history_BHNF=nothing, target_BPNF=torch.from_numpy(target), observed_BPNF=None, codes_BW=None)
        if number == 10:  # the allocator holds what making the batches takes
            del metrics
            before = anonymous()
            metrics, squared, absolute = EpochMetrics.empty(Form(heads=(head,), targets=targets, num_steps=P)), 0, 0
        metrics.add(
            {"mse": torch.from_numpy(forecast)}, given, {"mse": (torch.tensor(squares / UNIT**2), float(target.size))}
        )
        squared, absolute = squared + squares, absolute + absolutes
        if number % 100 == 0 or number == count - 1:
            peak = max(peak, anonymous())
    report, cells = metrics.report(), (count - 10) * B * P * F
    exact = {"mse": squared / UNIT**2 / cells, "mae": absolute / UNIT / cells}
    held = metrics.sums.values_6GF.nbytes + sum(part.nbytes for part in metrics.sums.cells._buffers)
    grown = max(peak - before, held)  # what the allocator had left over from the batches may serve for it
    return {"told": {k: report[k] for k in exact}, "exact": exact, "bytes": grown, "count": report["count"]}


def kept(count: int, most: int) -> dict[str, Any]:
    """The way of the notes: lists of the batches, joined at the epoch's end; `most`: batches that are kept."""
    predictions, targets, before, squared, number = [], [], anonymous(), 0, 0
    try:
        for number, (forecast, target, squares, _) in enumerate(batches(count)):
            squared += squares
            if number < most:
                predictions.append(forecast)
                targets.append(target)
        told = calculate_metrics(np.concatenate(targets), np.concatenate(predictions))
    except MemoryError:
        predictions.clear()
        targets.clear()
        return {"died": number + 1}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"told": told, "exact": {"mse": squared / UNIT**2 / (count * B * P * F)}, "bytes": peak - before}


def step_seconds(name: str, rounds: int = 5, steps: int = 8) -> tuple[float, float, float]:
    """CPU seconds of (a step without metrics, counting its figures, counting them with a mask), the least of rounds."""
    import torch
    from torch import nn

    from dateshard.trainer.data.batch import Batch
    from dateshard.trainer.data.order import Window
    from dateshard.trainer.metrics import EpochMetrics, Form
    from dateshard.trainer.models.mlp import Mlp
    from dateshard.trainer.models.shape import Shape
    from dateshard.trainer.optimization.objective import Head, Target

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Lstm(nn.Module):
        def __init__(self, width: int, layers: int) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(F, width, layers, batch_first=True), nn.Linear(width, F)

        def forward(self, history: Any, codes: Any) -> Any:
            return self.out(self.lstm(history[:, :, 0])[0])[:, :, None]

    sizes = {"LSTM 64": (64, 1), "LSTM 2 x 128": (128, 2)}
    shape = Shape(
        window=Window(P, P),
        num_nodes=1,
        num_inputs=F,
        num_outputs=F,
        targets_in_inputs=tuple(range(F)),
        steps_per_day=1440,
    )
    own = None if name in sizes else Mlp(shape, (64, 32), 0.2)
    model = own or Lstm(*sizes[name])
    optimizer = torch.optim.Adam(model.parameters())
    head = Head(name="mse", loss="mse", weight=1.0, targets=tuple(range(F)), channels=tuple(range(F)))
    metrics = EpochMetrics.empty(Form(heads=(head,), targets=tuple(Target(str(k)) for k in range(F)), num_steps=P))
    history, target = torch.randn(B, P, 1, F), torch.randn(B, P, 1, F)
    codes = torch.zeros(B, 2 * P, dtype=torch.int32)
    clear, masked = (
        Batch(history_BHNF=history, target_BPNF=target, observed_BPNF=None, codes_BW=codes),
        Batch(history_BHNF=history, target_BPNF=target, observed_BPNF=torch.rand(B, P, 1, F) > 0.1, codes_BW=codes),
    )
    best = [float("inf")] * 3
    for _ in range(rounds):
        spent = [0.0] * 3
        for _ in range(steps):
            marks = [time.process_time()]
            optimizer.zero_grad(set_to_none=True)
            forecast = model(history, codes)
            found = head.sums(forecast, clear)
            (found[0] / target.numel()).backward()
            optimizer.step()
            marks.append(time.process_time())
            metrics.add({"mse": forecast}, clear, {"mse": (found[0].detach(), found[1])})
            marks.append(time.process_time())
            metrics.add({"mse": forecast}, masked, {"mse": (found[0].detach(), found[1])})
            marks.append(time.process_time())
            spent = [total + after - before for total, before, after in zip(spent, marks, marks[1:], strict=False)]
        best = [min(old, new / steps) for old, new in zip(best, spent, strict=True)]
    return best[0], best[1], best[2]


def worker(way: str, count: int) -> dict[str, Any]:
    """One way in this process."""
    began = time.process_time()
    told = {"ours": lambda: ours(count), "all": lambda: kept(count, count), "capped": lambda: kept(count, CAPPED)}[
        way
    ]()
    return {**told, "cpu_seconds": time.process_time() - began}


def run(way: str, count: int, limit: int) -> dict[str, Any]:
    """That way in a process of its own under RLIMIT_DATA; {"died": ...} where it ends in MemoryError or is killed."""
    command = [sys.executable, __file__, "--worker", way, "--batches", str(count), "--limit-mib", str(limit // MIB)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"died": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(what: str, told: dict[str, Any]) -> str:
    if "died" in told:
        return f"| {what} | dies (batch {told['died']}) | - | - | - |"
    off = abs(told["told"]["mse"] / told["exact"]["mse"] - 1)
    mse, memory = f"{told['told']['mse']:.12g}", f"{told['bytes'] / 1e6:,.1f} MB"
    return f"| {what} | MSE {mse} | {off:.1e} | {memory} | {told['cpu_seconds']:,.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=11_014)
    parser.add_argument("--limit-mib", type=int, default=4096)
    parser.add_argument("--worker", choices=["ours", "all", "capped"])
    asked = parser.parse_args()
    limit = asked.limit_mib * MIB
    if asked.worker:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        print(json.dumps(worker(asked.worker, asked.batches)))
        return
    size = asked.batches * B * P * F * 8 / 1e9
    print(
        f"{platform.machine()}, Python {platform.python_version()}; {asked.batches:,} batches of {B} x {P} x {F}: {size:.1f} GB"
    )
    print(f"of forecasts and targets in float32; RLIMIT_DATA {asked.limit_mib:,} MiB for every process.\n")
    print("| way | tells | relative error of the MSE | memory above the batches | CPU, with making the batches |")
    print("|---|---|---|---|---|")
    ways = {
        "exact sums (ours)": "ours",
        "lists, joined at the end": "all",
        f"lists of the first {CAPPED} batches": "capped",
    }
    for what, way in ways.items():
        print(row(what, run(way, asked.batches, limit)), flush=True)
    print(
        "\n| model, one step of 16 x 500 x 20 | step, CPU | metrics, CPU | share | with a mask |\n|---|---|---|---|---|"
    )
    for name in ("LSTM 64", "LSTM 2 x 128", "our mlp (101 M weights here)"):
        step, clear, masked = step_seconds(name)
        shares = f"{100 * clear / step:.2f} % | {1e6 * masked:.0f} us, {100 * masked / step:.2f} %"
        print(f"| {name} | {1e3 * step:.2f} ms | {1e6 * clear:.0f} us | {shares} |", flush=True)


if __name__ == "__main__":
    main()
