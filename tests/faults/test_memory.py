"""Memory is bounded by what the user names, not by how much data there is. bench/memory.py runs the large form."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kit.memory import MIB, Size, prepare, stack_everything, train, write_config, write_dumps

LOADING = {"policy": "blocks", "memory_budget": "16MiB", "shuffle": {"days_per_run": 1, "runs_per_block": 2}}


def test_the_memory_line_is_flat_in_dates(tmp_path: Path) -> None:
    """Five times as many dates: neither preparing nor training needs more, and 60 MB of values could not be held."""
    peaks = {}
    for dates in (6, 30):
        folder, size = tmp_path / str(dates), Size(dates, nodes=220, features=8)
        write_dumps(folder, size)
        write_config(folder, size, loading=LOADING)
        prepared = prepare(folder, 512 * MIB)
        assert prepared.code == 0, prepared.output
        trained = train(folder, 512 * MIB)
        assert trained.code == 0, trained.output
        peaks[dates] = prepared.peak_bytes, trained.peak_bytes
    assert size.shard_bytes == 30 * 288 * 220 * 8 * 4
    for few, many in zip(peaks[6], peaks[30], strict=True):
        assert many - few < 20 * MIB, peaks


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
def test_all_of_it_runs_under_a_limit_that_the_data_exceed_twenty_times(tmp_path: Path) -> None:
    limit, size = 512 * MIB, Size(1311, nodes=455, features=16)
    assert size.shard_bytes >= 20 * limit
    free = shutil.disk_usage(tmp_path).free
    if free < 6 * size.shard_bytes:
        pytest.skip(f"needs {6 * size.shard_bytes / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")
    write_dumps(tmp_path, size)
    write_config(tmp_path, size, loading={**LOADING, "memory_budget": "64MiB"})
    for ran in (prepare(tmp_path, limit), train(tmp_path, limit)):
        assert ran.code == 0, ran.output
        assert ran.peak_bytes < limit
    assert stack_everything(tmp_path, limit).code != 0
