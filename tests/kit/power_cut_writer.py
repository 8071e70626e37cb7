"""Commits for ever in the dataset of the given folder and says each commit that came back, until its disk goes away.

Usage: power_cut_writer.py FOLDER SEED good|no-flush|PROTOCOL      one of controls.PROTOCOLS
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import dateshard.shardstore.disk.durable
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.progress_events import Finished
from dateshard.settings import validate
from tests.kit import controls

DATES = [dt.date(2024, 1, 1) + dt.timedelta(days=k) for k in range(12)]


def tree(folder: Path) -> dict[str, object]:
    return {
        "dataset": "cut",
        "pipeline": {
            "source": {"path": f"{folder}/raw/{{date}}.csv", "time": "time", "node": "node"},
            "step": "15m",
            "features": {"speed": {"fill": "forward"}},
        },
    }


def write_dump(folder: Path, date: dt.date, generator: np.random.Generator) -> None:
    (folder / "raw").mkdir(exist_ok=True)
    rows = [
        f"{date}T{k // 4:02d}:{k % 4 * 15:02d}:00,n{n},{generator.normal():.6f}\n" for k in range(96) for n in range(40)
    ]
    (folder / "raw" / f"{date}.csv").write_text("time,node,speed\n" + "".join(rows))


def neighbour(folder: Path) -> None:
    """Somebody else's fsyncs: they make the journal commit at moments that are not ours."""
    while True:
        with open(folder / "neighbour", "w") as file:
            file.write(str(time.time()))
            file.flush()
            os.fsync(file.fileno())
        time.sleep(0.01)


def main() -> None:
    folder, seed, protocol = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if protocol == "no-flush":
        dateshard.shardstore.disk.durable.Flusher.flush = lambda self, folders: None  # type: ignore[method-assign]
    elif protocol != "good":
        controls.apply(protocol)
    generator = np.random.default_rng(seed)
    threading.Thread(target=neighbour, args=(folder,), daemon=True).start()
    settings = validate(tree(folder))
    for date in DATES:
        write_dump(folder, date, generator)
    while True:
        several = generator.random() < 0.5  # above 8 folders one syncfs, below single fsyncs
        chosen = DATES if several else [DATES[int(generator.integers(len(DATES)))]]
        for date in chosen:
            write_dump(folder, date, generator)
        wish = Wish(frozenset(chosen), refit=several)
        last = list(preprocess("cut", settings.preparing(), folder / "store", wish, 1))[-1]
        assert isinstance(last, Finished)
        print(last.generation, flush=True)


if __name__ == "__main__":
    main()
