"""What each command costs before its work: processor time of whole processes on data that are next to nothing.

    python bench/startup.py [--repeats 7] [--modules] [--write]

Ten dates of four sensors, a model of one layer, a trace of some thousand requests. Commands take turns. Bytecode lies in a
cache, as that of an installed program does. `--modules` also lists, of each command, the packages whose imports take
longest (`python -X importtime`, the least of the repeats: milliseconds on the clock).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dateshard.pipeline.synthetic import City, write_long

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ("-m", "dateshard")
CONFIG = {
    "dataset": "tiny",
    "pipeline": {
        "source": {"path": "raw/{date}.csv", "time": "timestamp", "node": "sensor_id"},
        "step": "1h",
        "features": {"speed": {}},
        "split": {"train": "..2024-03-06", "validation": "2024-03-07..2024-03-08", "test": "2024-03-09.."},
    },
    "trainer": {
        "window": {"history": 6, "horizon": 2},
        "model": {"name": "nlinear"},
        "training": {"epochs": 1, "device": "cpu"},
    },
}
COMMANDS: dict[str, Sequence[str]] = {
    "python -c pass": ("-c", "pass"),
    "--help": (*PROGRAM, "--help"),
    "train --help": (*PROGRAM, "train", "--help"),
    "config check": (*PROGRAM, "config", "check", "-c", "config.yaml"),
    "plan": (*PROGRAM, "plan", "-c", "config.yaml"),
    "status": (*PROGRAM, "status", "-c", "config.yaml"),
    "preprocess, nothing to do": (*PROGRAM, "preprocess", "-c", "config.yaml"),
    "preprocess, one date in this process": (
        *PROGRAM, "preprocess", "-c", "config.yaml", "--workers", "1", "--force", "2024-03-10",
    ),
    "runs": (*PROGRAM, "runs"),
    "train, one step": (*PROGRAM, "train", "-c", "config.yaml", "--max-steps", "1"),
    "evaluate": (*PROGRAM, "evaluate", "first"),
    "predict": (*PROGRAM, "predict", "first"),
    "requests judge": (*PROGRAM, "requests", "judge", "--data-path", "trace.csv", "--no-model", "--capacity", "100"),
}  # fmt: skip


def environment(cache: Path) -> dict[str, str]:
    """One thread, and bytecode in a folder of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache)}
    return {**os.environ, **threads, **cached, "PYTHONPATH": str(ROOT)}


def cpu_seconds(words: Sequence[str], around: Mapping[str, str]) -> float:
    """Runs a command and returns what it and its children cost; a command that fails ends the benchmark."""
    before = os.times()
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=around, check=False)
    after = os.times()
    if ended.returncode not in (0, 4):  # 4: status, where something is stale
        sys.exit(f"{words} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def first_answer(around: Mapping[str, str]) -> float:
    """CPU seconds of a server until it has answered once."""
    words = [sys.executable, *PROGRAM, "serve", "-c", "config.yaml", "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**around})
    assert server.stdout is not None
    address = next(match[0] for line in server.stdout if (match := re.search(r"http:\S+:\d+", line)))
    for _ in range(600):
        with suppress(ConnectionError, urllib.error.URLError):
            urllib.request.urlopen(f"{address}/healthz").read()
            break
        time.sleep(0.05)
    else:
        sys.exit("the server does not answer")
    ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    server.send_signal(signal.SIGTERM)
    server.stdout.read()
    server.wait()
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def modules(words: Sequence[str], repeats: int, around: Mapping[str, str]) -> str:
    """The packages whose modules take longest to import, with their milliseconds."""
    least: dict[str, int] = {}
    for _ in range(repeats):
        ended = subprocess.run(
            [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, env=around, check=False
        )
        for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", ended.stderr):
            least[name] = min(int(own), least.get(name, int(own)))
    total: dict[str, int] = {}
    for name, own in least.items():
        total[name.partition(".")[0]] = total.get(name.partition(".")[0], 0) + own
    largest = sorted(total.items(), key=lambda item: -item[1])[:6]
    return f"{sum(total.values()) / 1e3:.0f}: " + ", ".join(f"{name} {own / 1e3:.0f}" for name, own in largest)


def prepare(around: Mapping[str, str]) -> None:
    """Ten dates, a run, a trace."""
    city = City(num_sensors=4, short_lived=0)
    write_long(city, [city.first + dt.timedelta(days=day) for day in range(10)], Path("raw"))
    Path("config.yaml").write_text(json.dumps(CONFIG))
    rows = (f"{60 * number + number % 7},{200 + number % 90},{100 + number % 50}" for number in range(6000))
    Path("trace.csv").write_text("\n".join(["arrived,in,out", *rows]) + "\n")
    cpu_seconds((*PROGRAM, "preprocess", "-c", "config.yaml"), around)
    cpu_seconds((*PROGRAM, "train", "-c", "config.yaml", "--run", "first"), around)


def main() -> None:
    """Measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--modules", action="store_true")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    trace = ("--columns", "time=arrived,input=in,output=out", "--time-unit", "s")
    commands = {**COMMANDS, "requests judge": (*COMMANDS["requests judge"], *trace)}
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        around = environment(Path(folder) / "bytecode")
        prepare(around)
        for number in range(asked.repeats + 1):
            for name, words in commands.items():
                costs.setdefault(name, []).append(cpu_seconds(words, around))
            costs.setdefault("serve, until its first answer", []).append(first_answer(around))
            if number == 0:  # which made the bytecode
                costs.clear()
        imported = {name: modules(words, 3, around) for name, words in commands.items()} if asked.modules else {}
        os.chdir("/")
    text = (
        f"Start-up, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{asked.repeats} of each by turns after one; load {os.getloadavg()[0]:.1f}\n\n"
        "| command | CPU s: least (median, most) | imports, ms on the clock |\n|---|---|---|\n"
    )
    for name, seconds in costs.items():
        row = f"{min(seconds):.2f} ({statistics.median(seconds):.2f}, {max(seconds):.2f})"
        text += f"| {name} | {row} | {imported.get(name, '')} |\n"
    print(text)
    if asked.write:
        (ROOT / "bench" / "results" / f"{dt.date.today()}-startup.md").write_text(text)


if __name__ == "__main__":
    main()
