"""Memory and time of `evaluate RUN --forecasts FILE`, of so many windows and of ten times as many.

python bench/forecasts.py [FOLDER]     makes the traffic example there (71 dates of 32 sensors), and a run of one epoch
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = ["-c", "configs/traffic.yaml"]
SPLIT = ["train=2024-03-01..2024-03-05", "validation=2024-03-06..2024-03-11", "test=2024-03-12..2024-05-10"]
WRITE = """
import resource, sys, time
from pathlib import Path
from dateshard.judging import judge
from dateshard.judging.window_forecasts import write_forecasts
began = time.process_time()
anonymous = []
def watched(tables):
    for table in tables:
        text = Path("/proc/self/status").read_text()
        anonymous.append(int(text.split("RssAnon:")[1].split()[0]) / 1024)
        yield table
from dateshard.judging import window_forecasts
make = window_forecasts._tables
window_forecasts._tables = lambda *asked: watched(make(*asked))
written = judge.keep_forecasts(judge.run_of("r"), "best", sys.argv[1], Path("w.parquet"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{written.windows}\\t{written.rows}\\t{written.num_bytes / 1e6:.1f}\\t{max(anonymous):.0f}\\t{peak:.0f}\\t"
      f"{time.process_time() - began:.1f}")
"""


def main(folder: Path) -> None:
    """Prints a line for each of two splits: windows, rows, MB of the file, MiB of anonymous memory, of all, CPU seconds."""

    def run(*words: str) -> str:
        return subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True, text=True).stdout

    if not (folder / "data" / "runs").exists():
        run("-m", "dateshard", "init", ".", "--example", "traffic", "--dates", "71", "--sensors", "32")
        split = ["pipeline.split=" + json.dumps(dict(part.split("=") for part in SPLIT))]
        run("-m", "dateshard", "preprocess", *CONFIG, *split, "-q")
        run("-m", "dateshard", "train", *CONFIG, *split, "--run", "r", "--epochs", "1", "-q")
    print("split\twindows\trows\tMB\tRssAnon\tRSS\tCPU s")
    for split_name in ("validation", "test"):
        print(f"{split_name}\t{run('-c', WRITE, split_name)}", end="")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else made))
