"""One epoch fed in several ways: the same windows, each with its memory, its times and its losses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from dateshard.documents import document_schema
from dateshard.documents.benching import BenchEpochDocument
from dateshard.reports.epoch_bench_page import bench_page, plot_of
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.setup import make_session
from dateshard.training.epoch_bench import bench_epoch as benching
from dateshard.training.epoch_bench.feeds import DATES, RAM, WAYS, config_of, feed_of
from dateshard.training.epoch_bench.measured_epoch import measure_epoch

SPLIT = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}


def windows_of(world: Any, way: str) -> np.ndarray:
    """The training windows of an epoch, a row each, in the order of their values."""
    config = config_of(way, world.settings.trainer)
    session = make_session(config, world.open(), world.folder)
    rows = []
    for batch in feed_of(way, config, session.train, 2).batches(0):
        tensors = (batch.history_BHNF, batch.target_BPNF, batch.observed_BPNF, batch.codes_BW)
        fields = [t.reshape(len(t), -1).numpy().astype(np.float64) for t in tensors if t is not None]
        rows.append(np.concatenate(fields, axis=1))
    whole = np.concatenate(rows)
    return whole[np.lexsort(whole.T)]


@pytest.mark.parametrize(
    ("dates", "missing", "options"),
    [
        (7, 0.3, {"split": SPLIT, "sample_size": 5}),
        (7, 0.0, {}),
        (7, 0.2, {"split": SPLIT, "gaps": [3]}),
    ],
    ids=["masked", "whole", "a date is missing"],
)
def test_every_way_trains_on_the_same_windows(
    make_world: Callable[..., Any], dates: int, missing: float, options: dict[str, Any]
) -> None:
    sample = options.pop("sample_size", None)
    world = make_world(dates, missing=missing, **options)
    world.prepare()
    world.tree["trainer"] = {"window": {"history": 5, "horizon": 3}, "model": {"name": "gru", "hidden_units": [4]}}
    world.tree["trainer"]["training"] = {"batch_size": 7, "sample_size": sample}
    rows = {way: windows_of(world, way) for way in WAYS}
    assert len(rows[RAM]) > 40
    for way in WAYS:
        np.testing.assert_array_equal(rows[way], rows[RAM], err_msg=way)


def test_every_way_has_figures_and_those_of_the_shards_agree_to_the_bit(make_world: Callable[..., Any]) -> None:
    world = make_world(7, missing=0.2, split=SPLIT)
    world.prepare()
    figures, marks = {}, list[str]()
    for way in WAYS:
        figures[way] = measure_epoch(way, world.settings.trainer, world.open(), 2, marks.append)
    assert marks == ["begun", "trained"] * len(WAYS)
    assert len({row.windows for row in figures.values()}) == 1
    assert all(0 < row.first_batch_seconds < row.epoch_seconds for row in figures.values())
    assert all(row.train_loss is not None and row.val_loss is not None for row in figures.values())
    assert figures["blocks"].val_loss == figures["mapped"].val_loss != figures["date-batched"].val_loss


def test_what_does_not_fit_in_memory_is_skipped_with_its_size_and_a_process_that_fails_with_its_reason(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(7, split=SPLIT)
    world.prepare()
    monkeypatch.setattr(benching, "machine_bytes", lambda: 1000)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    document = benching.bench_epoch(world.settings, ways=(RAM, "blocks"))
    ram, blocks = document["ways"]
    assert "all windows in RAM take" in (ram["skipped"] or "")
    assert "1.0 kB are free" in (ram["skipped"] or "")
    assert blocks["skipped"] == "its process failed: exit code 1"
    assert blocks["peak_bytes"] is None


def test_a_way_runs_in_a_process_of_its_own_and_the_command_prints_what_it_took(
    make_world: Callable[..., Any], ds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(7, split=SPLIT)
    world.prepare()
    world.config_file()
    monkeypatch.setattr(benching, "WAYS", (DATES,))
    done = ds("bench", "epoch", "-c", "config.yaml", "--json", "--plot", "plots/p.html", "trainer.model.name=dlinear")
    document: BenchEpochDocument = done.document
    jsonschema.validate(document, document_schema("bench epoch"), cls=jsonschema.Draft202012Validator)
    (row,) = document["ways"]
    assert row["peak_bytes"]
    assert row["windows"] == len(windows_of(world, DATES))
    assert document["page"] == "plots/p.html"
    page = Path("plots/p.html").read_text()
    assert page == bench_page(document)
    assert "date-batched" in page
    skipped = {**row, "way": RAM, "skipped": "too large <", "peak_bytes": None, "epoch_seconds": None}
    picture = plot_of({**document, "ways": [skipped, row]})  # type: ignore[list-item, typeddict-item]
    assert picture.startswith("<svg ")
    assert picture.count("skipped") == 2
    assert "too large &lt;" in bench_page({**document, "ways": [skipped, row]})  # type: ignore[list-item, typeddict-item]


def test_what_cannot_be_measured_is_said_before_anything_is_measured(make_world: Callable[..., Any], ds: Any) -> None:
    world = make_world(7, split=SPLIT)
    world.prepare()
    world.config_file()
    done = ds("bench", "epoch", "-c", "config.yaml", "--plot", "p.png", code=2)
    assert "Name a file that ends in .html" in done.err
    done = ds("bench", "epoch", "-c", "config.yaml", "trainer.model.name=ridge", code=2)
    assert "ridge is solved at once: it has no epoch to measure" in done.err
    world.tree["trainer"]["model"] = {"name": "gru", "observed": True}
    config = config_of(RAM, world.settings.trainer)
    with pytest.raises(UsageError, match="which cells of the history were observed, which is not in arrays of windows"):
        feed_of(RAM, config, make_session(config, world.open(), world.folder).train, 2)
