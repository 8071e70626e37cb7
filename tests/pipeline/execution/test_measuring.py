"""In which order dates are measured."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from dateshard.pipeline.workers.engine import Task
from dateshard.pipeline.workers.pool import Workers


@pytest.mark.parametrize("num_workers", [1, 2])
def test_several_workers_begin_with_the_largest_dumps_and_one_takes_dates_as_they_come(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    world = make_world(4)
    dates = sorted(world.rows)
    for date, times in zip(dates, (2, 4, 1, 3), strict=True):  # rows that come again are left out
        head, *rows = world.dump(date).read_text().splitlines()
        world.dump(date).write_text("\n".join([head, *rows * times]) + "\n")
    given, run = list[dt.date](), Workers.run

    def noted(workers: Workers, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        tasks = list(tasks)
        given.extend(label for label, *_ in tasks if isinstance(label, dt.date))
        return run(workers, tasks)

    monkeypatch.setattr(Workers, "run", noted)
    assert world.prepare(num_workers).measured == 4
    assert given == (dates if num_workers == 1 else [dates[k] for k in (1, 3, 0, 2)])
