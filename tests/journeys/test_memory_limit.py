"""`--memory-limit` is what all processes together stay below, or it is refused with what is needed.

A date that does not fit is spilled by the hour, to the bytes of one that was held whole.
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

from tests.conftest import command
from tests.kit.memory import MIB, Ran, run_limited

ROWS = 1_500_000
GRID = 16 * MIB  # of these dates: 1,440 steps, 40 nodes, 6 features, four times
START = 1_709_251_200_000  # 2024-03-01 in ms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One date of 1.5 million rows, its configuration and nothing prepared."""
    random = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "time": START + random.integers(0, 86_400_000, ROWS),
            "node": [f"n{k}" for k in random.integers(0, 40, ROWS)],
            **{f"f{k}": np.round(random.normal(60, 12, ROWS), 2) for k in range(6)},
        }
    )
    (tmp_path / "raw").mkdir()
    frame.write_csv(tmp_path / "raw" / "2024-03-01.csv")
    frame.write_parquet(tmp_path / "raw" / "2024-03-01.parquet", row_group_size=100_000)
    return tmp_path


def prepare(folder: Path, path: str, limit: int) -> tuple[Ran, dict[str, str]]:
    """Prepares with `--memory-limit`, in one process; the hashes of what was committed, if anything was."""
    suffix = path.rpartition(".")[2]
    source = {"path": path, "time": "time", "time_format": "ms", "node": "node"}
    features = {f"f{k}": {"fill": "forward"} for k in range(6)}
    split = {"train": "2024-03-01"}
    tree = {"dataset": f"d{limit}{suffix}", "pipeline": {"source": source, "step": "1m", "features": features}}
    tree["pipeline"]["split"] = split  # type: ignore[index]
    (folder / "config.yaml").write_text(json.dumps(tree))
    words = command("preprocess", "-c", "config.yaml", "--workers", "1", "--memory-limit", f"{limit // MIB}MiB")
    ran = run_limited(folder, 4096 * MIB, words)
    if ran.code:
        return ran, {}
    (manifest,) = (folder / "data" / "shards" / f"d{limit}{suffix}" / "manifests").glob("g*[0-9].json")
    content: dict[str, Any] = json.loads(manifest.read_bytes())["content"]
    return ran, {key: json.dumps(content[key]) for key in ("dates", "statistics", "nodes")}


def needed(ran: Ran) -> int:
    """The bytes that a refusal names."""
    assert ran.code == 2, ran.output
    found = re.search(r"--memory-limit is [\d,]+ MiB, and ([\d,]+) MiB are needed", ran.output)
    assert found, ran.output
    return int(found[1].replace(",", "")) * MIB


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_date_beyond_the_memory_limit_is_spilled_within_it_and_to_the_same_bytes(folder: Path, suffix: str) -> None:
    """The limit is the least that is not refused: with all its libraries the command is no larger."""
    path = f"raw/{{date}}.{suffix}"
    limit = needed(prepare(folder, path, 100 * MIB)[0]) + GRID
    assert limit < 300 * MIB
    whole, expected = prepare(folder, path, 4096 * MIB)
    spilled, found = prepare(folder, path, limit)
    assert spilled.code == 0, spilled.output
    assert found == expected
    assert spilled.resident_bytes < limit, spilled.resident_bytes / MIB
    assert whole.resident_bytes > spilled.resident_bytes + 40 * MIB, "there was nothing to spill"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_one_file_of_many_dates_is_cut_and_read_within_the_limit(folder: Path, suffix: str) -> None:
    (folder / "one").mkdir()
    (folder / "raw" / f"2024-03-01.{suffix}").rename(folder / "one" / f"all.{suffix}")
    limit = needed(prepare(folder, f"one/all.{suffix}", 100 * MIB)[0]) + GRID
    ran, _ = prepare(folder, f"one/all.{suffix}", limit)
    assert ran.code == 0, ran.output
    assert ran.resident_bytes < limit, ran.resident_bytes / MIB


def test_a_grid_that_cannot_fit_is_refused_with_the_size_that_it_needs(folder: Path) -> None:
    source = {"path": "raw/{date}.csv", "time": "time", "time_format": "ms", "node": "node"}
    (folder / "nodes.csv").write_text("id\n" + "".join(f"n{k}\n" for k in range(4000)))
    pipeline = {"source": source, "step": "1s", "features": {"f0": {}}, "nodes": {"table": "nodes.csv", "id": "id"}}
    (folder / "config.yaml").write_text(
        json.dumps({"dataset": "big", "pipeline": {**pipeline, "split": {"train": "2024-03-01"}}})
    )
    ran = run_limited(folder, 4096 * MIB, command("preprocess", "-c", "config.yaml", "--memory-limit", "1GiB"))
    assert ran.code == 65
    assert "the grid of one date (86,400 steps x 4,000 nodes x 1 feature) takes 10,547 MiB" in ran.output
    assert "Give more with --memory-limit" in ran.output
    assert "no training date could be measured, so there are no statistics. Give it what it lacks" in ran.output
    assert "Correct the dump" not in ran.output


def kill_a_worker(folder: Path, done: threading.Event) -> None:
    """SIGKILL to the first worker process seen that works in this folder and holds something."""
    while not done.is_set():
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                parent = process.parent()
                forked = parent is not None and "forkserver" in " ".join(parent.cmdline())
                if forked and process.cwd() == str(folder) and process.memory_info().rss > 150 * MIB:
                    process.kill()
                    done.set()
                    return
        time.sleep(0.05)


def test_two_workers_share_the_limit_also_when_one_of_them_is_killed(tmp_path: Path) -> None:
    """Each date alone, decoded whole, would take about as much as both may have."""
    (tmp_path / "raw").mkdir()
    for day in range(3):
        random = np.random.default_rng(day)
        frame = pl.DataFrame(
            {
                "time": START + 86_400_000 * day + random.integers(0, 86_400_000, ROWS),
                "node": [f"n{k}" for k in random.integers(0, 40, ROWS)],
                **{f"f{k}": np.round(random.normal(60, 12, ROWS), 2) for k in range(12)},
            }
        )
        frame.write_parquet(tmp_path / "raw" / f"2024-03-0{day + 1}.parquet", row_group_size=100_000)
    source = {"path": "raw/{date}.parquet", "time": "time", "time_format": "ms", "node": "node"}
    features = {f"f{k}": {"fill": "forward"} for k in range(12)}
    pipeline = {"source": source, "step": "1m", "features": features, "split": {"train": "2024-03-01..2024-03-02"}}
    (tmp_path / "config.yaml").write_text(json.dumps({"dataset": "two", "pipeline": pipeline}))
    done = threading.Event()
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, done))
    killer.start()
    words = command("preprocess", "-c", "config.yaml", "--workers", "2", "--memory-limit", "680MiB")
    try:
        ran = run_limited(tmp_path, 4096 * MIB, words)
    finally:
        killed = done.is_set()
        done.set()
        killer.join()
    assert ran.code == 0, ran.output
    assert killed
    assert "its worker process was killed by SIGKILL; it is tried alone at the end" in ran.output
    assert "3 shards written; 3 dates measured" in ran.output
    assert ran.resident_bytes < 680 * MIB, ran.resident_bytes / MIB
    few = run_limited(tmp_path, 4096 * MIB, [*words[:-1], "300MiB", "--force"])
    assert 400 * MIB < needed(few) < 680 * MIB
    assert "--workers 1 needs" in few.output
