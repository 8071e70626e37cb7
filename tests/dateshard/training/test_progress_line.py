"""The live line of a training: all of the notes' sample on a wide terminal, the most important of it on a narrow one."""

from __future__ import annotations

import dataclasses
import re

import pytest

from dateshard.training.progress_line import Moment, progress_line

NOTES = Moment(
    epoch=1,
    epochs=50,
    batch=100,
    num_batches=1250,
    done=100,
    seconds=150.0,
    loss=0.4123,
    losses={"cls": 0.2056, "geo": 0.2067},
    mean=0.42,
    errors=0,
    saved="batch 100",
    memory_bytes=412e6,
    wait=0.004,
    windows_per_second=1240.0,
    learning_rate=9.1e-4,
)


def test_a_wide_terminal_shows_everything_of_the_notes_sample() -> None:
    line = progress_line(NOTES, 200)
    assert re.fullmatch(
        r"Epoch 1/50 - train \[saved: batch 100\]:   8%\|▌ *\|  100/1250 \[02:30<28:45, 1\.50s/it, loss=0\.4123, "
        r"cls=0\.2056, geo=0\.2067, errors=0, avg_loss=0\.4200, mem=412MB, wait=0\.4%.*\]",
        line,
    ), line
    assert len(line) <= 200


@pytest.mark.parametrize("width", [60, 79, 80, 100, 119, 120, 160, 199, 300])
def test_a_line_is_never_wider_than_the_terminal(width: int) -> None:
    for change in ({}, {"batch": 1250, "num_batches": 1250, "seconds": 7000.0, "done": 1250, "validating": True}):
        assert len(progress_line(dataclasses.replace(NOTES, **change), width)) <= width


def test_eighty_columns_keep_the_place_the_times_the_loss_and_its_mean() -> None:
    line = progress_line(NOTES, 79)
    for part in ("Epoch 1/50", "8%", "100/1250", "[02:30<28:45, 1.50s/it", "loss=0.4123", "avg=0.4200"):
        assert part in line
    assert "wait" not in line
    assert "errors=3" in progress_line(dataclasses.replace(NOTES, errors=3, mean=None), 79)


def test_a_hundred_and_twenty_columns_add_what_was_saved_and_the_memory() -> None:
    line = progress_line(NOTES, 119)
    for part in ("[saved: batch 100]", "loss=0.4123", "avg_loss=0.4200"):
        assert part in line
    plain = progress_line(dataclasses.replace(NOTES, losses={"loss": 0.4}), 119)
    assert "mem=412MB" in plain
    assert "loss=0.4000" not in plain  # one loss alone is not told twice


def test_quick_batches_are_counted_by_the_second_and_a_continued_epoch_by_its_own_batches() -> None:
    quick = progress_line(dataclasses.replace(NOTES, seconds=2.0, done=10), 200)
    assert "[00:02<03:50, 5.0it/s" in quick
    assert "?it/s" in progress_line(dataclasses.replace(NOTES, done=0), 200)
    assert "[1:00:00<11:30:00, 36.00s/it" in progress_line(dataclasses.replace(NOTES, seconds=3600.0), 200)


def test_the_bar_is_empty_at_the_beginning_and_full_at_the_end() -> None:
    first = progress_line(dataclasses.replace(NOTES, batch=0, done=0, seconds=0.0), 300)
    last = progress_line(dataclasses.replace(NOTES, batch=1250), 300)
    assert re.search(r"0%\| {20}\|", first)
    assert re.search(r"100%\|█{20}\|", last)
