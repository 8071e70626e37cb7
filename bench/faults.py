"""Accidents in the middle of commands: every system call the last one or failing, random kills, and bad protocols.

    python bench/faults.py [--kills 200] [--seed 1] [--commands preprocess,train] [--parts kills] [--every 1] [--write]

Prints a Markdown table of each. What is bad is told on stderr, with what is needed to play it again.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kit.durability import at_risk
from tests.kit.enumeration import enumerate_faults, faults, in_order, points
from tests.kit.killing import kill_loop
from tests.kit.scenes import SCENES, make_scene
from tests.kit.tracing import SYNCING, why_not
from tests.kit.zygote import ROOT, Zygote

KINDS = (("KILL", False), ("EIO", False), ("ENOSPC", False), ("EIO", True), ("ENOSPC", True))
REAL = {"preprocess": 0.1, "rerun": 0.1, "refit": 0.1}  # share of real processes with two workers
Row = Sequence[object]


def table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def place() -> str:
    """When, on what machine, and at which commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    system = (
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    )
    return f"{dt.date.today()}, {system}, commit {commit.stdout.strip()}, load {os.getloadavg()[0]:.1f}"


def tell(bad: Sequence[str]) -> int:
    """Says what is bad, and how much."""
    for line in bad:
        print(line, file=sys.stderr, flush=True)
    return len(bad)


def enumerated(names: Sequence[str], folder: Path, zygotes: Sequence[Zygote], every: int) -> Iterator[Row]:
    """A row a command and kind of fault. What fails from a call on is played for one of `every` calls."""
    for name in names:
        scene = make_scene(name, folder / f"enumerated-{name}", zygotes[0])
        calls = points(scene, zygotes[0])
        risk = tell(at_risk(in_order(scene, zygotes[0])))
        for kind, forever in KINDS:
            began = time.perf_counter()
            chosen = faults(calls, [kind], forever=forever)[:: every if forever else 1]
            tally = enumerate_faults(scene, chosen, zygotes)
            took = f"{time.perf_counter() - began:,.0f}"
            label = f"{kind} from there on" + (f" (each {every}.)" if every > 1 else "") if forever else kind
            yield name, len(calls), label, tally.runs, len(tally.tolerated), tell(tally.bad), took
        yield name, len(calls), "named before it is flushed", 1, 0, risk, ""


def killed(names: Sequence[str], folder: Path, zygote: Zygote, kills: int, seed: int) -> Iterator[Row]:
    """A row a command."""
    for name in names:
        began = time.perf_counter()
        found = kill_loop(
            make_scene(name, folder / f"killed-{name}", zygote), zygote, kills, seed, real_share=REAL.get(name, 0.0)
        )
        took = f"{time.perf_counter() - began:,.0f}"
        yield name, found.kills, found.landed, found.acknowledged, f"{found.looks:,}", tell(found.bad), took


def controls(folder: Path, zygotes: Sequence[Zygote], seed: int) -> Iterator[Row]:
    """A row a bad protocol: in how many accidents it is caught."""
    for name, protocol in (
        ("rerun", "in place"),
        ("rerun", "two renames"),
        ("train", "checkpoint in place"),
        ("retain", "older checkpoint first"),
    ):
        scene = make_scene(name, folder / f"control-{protocol}", zygotes[0], protocol)
        chosen = faults([call for call in points(scene, zygotes[0]) if call.changes], ["KILL"])
        tally, found = enumerate_faults(scene, chosen, zygotes), kill_loop(scene, zygotes[0], 20, seed)
        where = {line.partition(" at ")[2].partition(":")[0] for line in tally.bad}
        yield (
            protocol,
            name,
            f"{len(tally.bad)} faults, {len(where)} of {tally.runs} kills enumerated",
            caught(tally.bad),
        )
        yield protocol, name, f"{len(found.bad)} in {found.kills} random kills", caught(found.bad)
    scene = make_scene("rerun", folder / "control-fsync", zygotes[0], "fsync errors ignored")
    chosen = [fault for fault in faults(points(scene, zygotes[0]), ["EIO"]) if fault.call.name in SYNCING]
    bad = enumerate_faults(scene, chosen, zygotes).bad
    yield "fsync errors ignored", "rerun", f"{len(bad)} of {len(chosen)} failing fsyncs", caught(bad)
    for name in ("rerun", "train"):
        scene = make_scene(name, folder / f"control-flush-{name}", zygotes[0], "without fsync")
        risk = at_risk(in_order(scene, zygotes[0]))
        yield "without fsync", name, f"{len(risk)} names or files not flushed", caught(risk)


def shown(rows: Iterator[Row]) -> list[Row]:
    """All rows, each told on stderr as it comes: the whole takes an hour."""
    return [row for row in rows if not print(*row, file=sys.stderr, flush=True)]


def caught(bad: Sequence[str]) -> str:
    """A control that leaves nothing bad was missed."""
    return "caught" if bad else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills a command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every", type=int, default=1, help="of the calls from which on everything fails, one of so many"
    )
    parser.add_argument("--commands", default=",".join(SCENES))
    parser.add_argument("--parts", default="controls,kills,calls")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    names, where = chosen.commands.split(","), place()
    with tempfile.TemporaryDirectory() as text, Zygote() as one, Zygote() as two:
        folder = Path(text)
        third = shown(controls(folder, (one, two), chosen.seed)) if "controls" in chosen.parts else []
        second = shown(killed(names, folder, one, chosen.kills, chosen.seed)) if "kills" in chosen.parts else []
        first = shown(enumerated(names, folder, (one, two), chosen.every)) if "calls" in chosen.parts else []
    report = (
        f"# Accidents\n\n{where}, seed {chosen.seed}. Repeat: `python bench/faults.py --kills {chosen.kills} "
        f"--seed {chosen.seed} --every {chosen.every} --commands {chosen.commands} --parts {chosen.parts}`.\n"
    )
    for title, header, rows in (
        (
            "Every system call on the store or the run, once each",
            ("command", "calls", "fault", "runs", "best effort, exit 0", "bad", "s"),
            first,
        ),
        (
            "Random kill -9 with a reader at work",
            ("command", "kills", "landed while alive", "acknowledged", "looks of the reader", "bad", "s"),
            second,
        ),
        ("Bad protocols", ("protocol", "command", "seen", ""), third),
    ):
        report += f"\n## {title}\n\n{table(header, rows)}" if rows else ""
    print(report)
    if chosen.write:
        (ROOT / "bench" / "results" / f"{dt.date.today()}-faults.md").write_text(report)


if __name__ == "__main__":
    main()
