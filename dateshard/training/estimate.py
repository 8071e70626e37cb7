"""Estimates windows, batches, memory and disk of a training, before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil

from dateshard.documents.training import Blocking as BlockingRow
from dateshard.documents.training import CheckpointParts, EstimateDocument, Overflow, ResidentOn
from dateshard.insight.insight_screen import percent
from dateshard.places import runs_folder
from dateshard.settings import Settings
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen, size
from dateshard.trainer.config import WindowConfig
from dateshard.trainer.data.split_runs import num_overflowing
from dateshard.trainer.devices.device import free_bytes
from dateshard.trainer.models import num_parameters
from dateshard.trainer.runs.disk_need import fitting, need, state_bytes
from dateshard.trainer.session import Session
from dateshard.trainer.setup import make_session, shuffle_of, sizing_of, window_of
from dateshard.training.unprepared_dates import open_to_look


def estimate(settings: Settings) -> EstimateDocument:
    """Everything that `--json` prints. Builds the model and the readers, reads no values."""
    dataset, config = open_to_look(settings), settings.trainer
    session, window = make_session(config, dataset, runs_folder()), window_of(settings.trainer)
    sizing = sizing_of(config, dataset, window)
    order, held = session.train.order, session.validation.order if session.validation else None
    windows = order.num_windows + (held.num_windows if held else 0)
    parameters = num_parameters(session.model)
    window_bytes = window.length * dataset.row_values * 4
    resident = [reader.resident_bytes if reader.policy != "mapped" else 0 for reader in _readers(session)]
    return {
        "generation": dataset.generation,
        "windows": {"train": order.num_windows, "validation": held.num_windows if held else 0},
        "overflow": _overflow(session) if window.interval else None,
        "batches": order.num_batches,
        "steps_an_epoch": -(-order.num_batches // config.training.accumulate),
        "policy": session.train.policy,
        "shuffle": shuffle_of(config, dataset, window).label,
        "table": [_row(size_row, config.loading.memory_budget) for size_row in sizing.table()],
        "memory": {
            "packages": psutil.Process().memory_info().rss,
            "blocks": sum(resident) if session.device.type == "cpu" or session.train.policy == "blocks" else 0,
            "batches": 2 * min(config.training.batch_size, order.num_windows) * window_bytes * len(resident),
            "model": parameters * 4 * 4,
            "snapshot": state_bytes(session) + (session.metrics.sample.most_bytes if session.metrics.sample else 0),
        },
        "all_windows_in_memory": windows * window_bytes,
        "resident_on": _resident_on(session, sum(resident)),
        "available": psutil.virtual_memory().available,
        "parameters": parameters,
        "checkpoints": _checkpoints(session),
    }


def _readers(session: Session) -> list[Any]:
    return [reader for reader in (session.train, session.validation) if reader is not None]


def _resident_on(session: Session, num_bytes: int) -> ResidentOn | None:
    """Where all windows would lie; None where they do not."""
    if session.train.policy != "resident":
        return None
    return {"device": str(session.device), "bytes": num_bytes, "free": free_bytes(session.device)}


def _overflow(session: Session) -> dict[str, Overflow]:
    """Counts for each split with windows those that hold more records in their interval than there is room for."""
    counts = {}
    for name, reader in zip(("train", "validation"), _readers(session), strict=False):
        order = reader.order
        more = num_overflowing(reader.dataset, order.runs, reader.wanted.window)
        counts[name] = Overflow(windows=more, share=more / order.num_anchors)
    return counts


def _row(block_size: Any, budget: int) -> BlockingRow:
    return {
        "days": block_size.days,
        "blocks": block_size.blocks,
        "shuffle": block_size.shuffle.label,
        "resident_bytes": block_size.resident_bytes,
        "reading": block_size.reading,
        "fits_budget": block_size.resident_bytes <= budget,
    }


def _checkpoints(session: Session) -> CheckpointParts:
    needed = need(session, runs_folder())
    kept = fitting(needed, session.config.checkpoint)
    return {
        "an_epoch": needed.an_epoch,
        "bytes_each": needed.bytes_each,
        "bytes_all": needed.bytes_all,
        "free": needed.free,
        "keep_last": kept.keep_last if kept else session.config.checkpoint.keep_last,
    }


def _show_overflow(screen: Screen, overflow: Mapping[str, Overflow], window: WindowConfig) -> None:
    rows = [["windows of", f"more than {counted(window.steps, 'record')} in {window.history}", "share"]]
    for name, of in overflow.items():
        rows.append([name, f"{of['windows']:,}", percent(of["share"])])
    screen.table(rows, right=(1, 2))
    if any(of["windows"] for of in overflow.values()):
        screen.tell(
            f"Of these windows only the last {counted(window.steps, 'record is', 'records are')} used; a larger "
            "trainer.window.most uses more"
        )
    screen.tell()


def show(screen: Screen, document: EstimateDocument, settings: Settings) -> None:
    """Prints the estimate as tables."""
    windows, budget, saved = document["windows"], settings.trainer.loading.memory_budget, document["checkpoints"]
    screen.tell(f"dataset {settings.dataset}, generation {document['generation']}")
    screen.tell(
        f"{counted(windows['train'], 'training window')}, {windows['validation']:,} of validation; "
        f"an epoch has {counted(document['batches'], 'batch', 'batches')}, {counted(document['steps_an_epoch'], 'step')}"
    )
    screen.tell(f"order {document['shuffle']}, served from {document['policy']}")
    screen.tell()
    if document["overflow"] is not None:
        _show_overflow(screen, document["overflow"], settings.trainer.window)
    rows = [["days", "blocks", "resident", "read", f"within {size(budget)}", "order"]]
    for row in document["table"]:
        fits = "yes" if row["fits_budget"] else "no"
        days = f"all {row['days']}" if row["blocks"] == 1 else str(row["days"])
        resident, reading = size(row["resident_bytes"]), f"{row['reading']:.2f} x"
        rows.append([days, str(row["blocks"]), resident, reading, fits, row["shuffle"]])
    screen.table(rows, right=(0, 1, 2, 3))
    screen.tell()
    parts = [f"{name} {size(amount)}" for name, amount in document["memory"].items()]
    total, free = sum(document["memory"].values()), document["available"]
    verdict = "fits" if total < free else "does NOT fit"
    screen.tell(f"memory about {size(total)} ({', '.join(parts)}); {size(free)} are free: it {verdict}")
    if (on := document["resident_on"]) is not None:
        there = f" of {size(on['free'])} free there" if on["free"] is not None else ", counted under blocks"
        screen.tell(f"all rows of training and validation lie on {on['device']}: {size(on['bytes'])}{there}")
    screen.tell(f"all windows in memory at once would take {size(document['all_windows_in_memory'])}")
    screen.tell(
        f"{counted(saved['an_epoch'], 'checkpoint')} an epoch of {size(saved['bytes_each'])}, "
        f"{size(saved['bytes_all'])} if all epochs run and all are kept; {size(saved['free'])} free on the disk"
    )
    policy = settings.trainer.checkpoint
    if saved["keep_last"] is not None and saved["keep_last"] != policy.keep_last:
        screen.tell(f"that is more than half of it: the newest {saved['keep_last']:,} and the best would be kept")
