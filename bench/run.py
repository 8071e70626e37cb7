"""Runs the scripts whose figures docs/performance.md shows, keeps what they print as dated results, and makes the page.

    python bench/run.py ours             this machine and its limits: half an hour, 20 GB of disk    make bench
    python bench/run.py peers            libraries in environments of their own, by pip: an hour     make bench-peers
    python bench/run.py KIND [KIND ...]  only these, for instance `reader nodes-and-dates`      make bench ONLY=reader

Each script can be run by itself too; its first lines say how. A script that fails keeps its old result, and the rest is run.
Run nothing else meanwhile: results say how busy the machine was.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.dated import keep  # noqa: E402
from bench.peers.environments import python_of  # noqa: E402


@dataclass(frozen=True, slots=True)
class Measured:
    """A script of this folder and its arguments; of which of the two groups it is, if of any; environments it is told of."""

    words: tuple[str, ...]
    group: str = ""
    needs: tuple[str, ...] = ()


NODES = (
    "--nodes=100000", "--dates=5", "--dates=30", "--steps=96", "--suffix=parquet", "--model=dlinear",
    "--memory-budget=200MiB", "--repeats=1",
)  # fmt: skip
OF_NODES = ("preprocess, everything", "plan", "train", "evaluate", "predict", "report RUN")
ENVIRONMENTS = ("--environments", str(ROOT / ".venv-peers"))
KINDS = {
    "reader": Measured(("reader.py",), "ours"),
    "reading-limits": Measured(("reading_limits.py",), "ours"),
    "rereading": Measured(("rereading.py",), "ours"),
    "epoch": Measured(("epoch.py",), "ours"),
    "preparing": Measured(("preparing_peers.py", "--who", "parse"), "ours"),
    "workers": Measured(("workers.py",), "ours"),
    "memory-limit": Measured(("memory_limits.py",), "ours"),
    "growth": Measured(("growth.py",), "ours"),
    "costs": Measured(("costs.py", "--write"), "ours"),
    "startup": Measured(("startup.py", "--repeats", "5"), "ours"),
    "small-step": Measured(("small_step.py",), "ours"),
    "saving": Measured(("saving.py",), "ours"),
    "reading-peers": Measured(("reading_peers.py", "--seconds", "1.5"), "peers"),
    "preparing-peers": Measured(("preparing_peers.py",), "peers"),
    "nodes-and-dates": Measured(("nodes.py", *NODES, *(f"--only={what}" for what in OF_NODES))),
    "memory": Measured(("memory.py", "--times", "4")),
    "metrics": Measured(("metrics.py",)),
    "forecasters": Measured(("forecasters.py", *ENVIRONMENTS), needs=("darts", "neuralforecast")),
    "resume-peers": Measured(("resume_peers.py", *ENVIRONMENTS), needs=("lightning", "hf", "grain")),
}


def main() -> None:
    """Runs what is asked for, one after the other."""
    asked = sys.argv[1:] or ["ours"]
    kinds = [kind for kind, one in KINDS.items() if kind in asked or one.group in asked]
    if unknown := set(asked) - {"ours", "peers"} - KINDS.keys():
        raise SystemExit(f"{', '.join(sorted(unknown))}: not one of ours, peers, {', '.join(KINDS)}")
    failed = []
    for kind in kinds:
        began = time.monotonic()
        for name in KINDS[kind].needs:
            python_of(name)
        words = [sys.executable, str(ROOT / "bench" / KINDS[kind].words[0]), *KINDS[kind].words[1:]]
        print(f"{kind}: {' '.join(KINDS[kind].words)}", flush=True)
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(kind)
        else:
            keep(kind, done.stdout.lstrip())
        print(f"{kind}: {'failed' if done.returncode else 'kept'} after {time.monotonic() - began:,.0f} s", flush=True)
    subprocess.run([sys.executable, str(ROOT / "bench" / "performance_page.py")], check=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
