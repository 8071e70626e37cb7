"""What a reader has opened stays what it was, whatever is prepared meanwhile; and what it opens anew is whole."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import numpy as np

PREPARE = ("preprocess", "-c", "config.yaml", "--workers", "1")
CHANGED = dt.date(2024, 3, 4)


def read_all(dataset: Any) -> dict[dt.date, np.ndarray]:
    """All values by date, through the reader's own door."""
    found = {}
    for day in dataset.days:
        out = np.empty((day.num_steps, dataset.manifest.num_nodes, len(dataset.features)), dtype=np.float32)
        dataset.read(day.date, slice(None), out)
        found[day.date] = out
    return found


def same(a: dict[dt.date, np.ndarray], b: dict[dt.date, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[date], b[date]) for date in a)


def test_a_reader_keeps_its_generation_while_dates_and_statistics_are_made_anew(make_world: Any, launch: Any) -> None:
    world = make_world(10, split={"train": "2024-03-01..2024-03-07", "validation": "2024-03-08.."})
    world.config_file()
    world.prepare()
    reader = world.open()
    values = read_all(reader)
    maps = {day.date: reader.map(day.date) for day in reader.days}
    chance, seen, looks = random.Random(5), {}, 0
    for number in range(4):
        rows = world.rows[CHANGED]
        world.rows[CHANGED] = [(at, node, speed, volume + chance.randint(1, 9)) for at, node, speed, volume in rows]
        world.write(CHANGED)
        more = ("--refit-statistics",) if number % 2 else (str(CHANGED), "--force")
        process = launch(*PREPARE, *more)
        running = True
        while running:  # once more after its end
            running = process.running
            assert [(name, str(error)) for name, error in reader.verify() if error] == []
            assert same(read_all(reader), values)
            assert same(maps, values)
            newest = world.open()
            assert [(name, str(error)) for name, error in newest.verify() if error] == []
            now = read_all(newest)
            assert same(now, seen.setdefault(newest.generation, now)), "one generation, two contents"
            looks += 1
        process.wait()
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert looks > 8
    assert not same(seen[1], seen[2])
    assert not np.array_equal(seen[2][dt.date(2024, 3, 9)], seen[3][dt.date(2024, 3, 9)]), "re-scaled"
    assert same(read_all(world.open(1)), values)
