"""Intervals that are kept in a run's folder: made once for a checkpoint and a level, believed only for these very ones.

data/runs/<run>/intervals/<checkpoint>_<level>.json     sealed; a damaged one, or one of other weights, is made anew
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.identity import expected_form, seal, unseal
from dateshard.trainer.assessment.adaptation import LocalError, Reach
from dateshard.trainer.assessment.coverage import Coverage
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.intervals import CODE, Floats, Intervals, calibrate
from dateshard.trainer.binding import data_identity
from dateshard.trainer.checkpoint import Checkpoint

FOLDER = "intervals"


def intervals_of(
    forecaster: Forecaster, checkpoint: Checkpoint, level: float, run: Path
) -> tuple[Intervals | None, str]:
    """Returns a checkpoint's intervals, kept or made now, and what a person should know of it (nothing if all is well).

    Owns intervals/ in the folder of the run. None where no validation window is there to make them on.
    """
    path = run / FOLDER / f"{checkpoint.name}_{level:g}.json"
    bound = _bound(forecaster, checkpoint, level)
    if (kept := _read(path, bound, forecaster)) is not None:
        return kept, ""
    intervals = calibrate(forecaster, level)
    if intervals is None:
        return None, ""
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, seal(_written(intervals, bound)))
    except OSError as error:
        return intervals, f"the intervals could not be kept ({error.strerror}): they are made again the next time"
    return intervals, ""


def kept_intervals(forecaster: Forecaster, checkpoint: Checkpoint, run: Path) -> Intervals | None:
    """The intervals that a run has of a checkpoint, the widest level of several; None where it has none of it."""
    kept = list[Intervals]()
    for path in (run / FOLDER).glob(f"{escape(checkpoint.name)}_*.json"):
        with suppress(ValueError):
            level = float(path.stem.removeprefix(f"{checkpoint.name}_"))
            intervals = _read(path, _bound(forecaster, checkpoint, level), forecaster)
            kept += [] if intervals is None else [intervals]
    return max(kept, key=lambda intervals: intervals.level, default=None)


def _read(path: Path, bound: Mapping[str, Any], forecaster: Forecaster) -> Intervals | None:
    """The intervals of a file, if they are whole and of these weights and data."""
    with suppress(DamagedError, OSError):
        content = unseal(path.read_bytes(), str(path))
        with expected_form(str(path)):
            if content["bound"] == bound:
                return _parsed(content, [target.name for target in forecaster.targets])
    return None


def _bound(forecaster: Forecaster, checkpoint: Checkpoint, level: float) -> dict[str, Any]:
    """What intervals belong to: the weights, the data, the level, and this code."""
    files = {name: [size, digest] for name, (size, digest) in checkpoint.files.items()}
    data, bounds = data_identity(forecaster.dataset).id, forecaster.config.model_dump(mode="json")["bounds"]
    return {"code": CODE, "checkpoint": files, "data": data, "level": level, "bounds": bounds}


def _written(intervals: Intervals, bound: Mapping[str, Any]) -> dict[str, Any]:
    coverage = None if intervals.coverage is None else _by_name(intervals.coverage)
    begin, now = (
        {
            "ends": _packed(reach.ends_2PNF),
            "local": None
            if reach.local is None
            else {name: _packed(array) for name, array in _by_name(reach.local).items()},
        }
        for reach in (intervals.begin, intervals.now)
    )
    content = {"bound": dict(bound), **_by_name(intervals), "coverage": coverage, "begin": begin, "now": now}
    del content["level"]
    return content


def _packed(array: Floats) -> dict[str, Any]:
    whole = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(whole.shape), "values": base64.b64encode(whole.tobytes()).decode()}


def _unpacked(packed: Mapping[str, Any]) -> Floats:
    return np.frombuffer(base64.b64decode(packed["values"]), dtype="<f8").reshape(packed["shape"])


def _reach(content: Mapping[str, Any]) -> Reach:
    local, ends = content["local"], _unpacked(content["ends"])
    if local is None:
        return Reach(ends_2PNF=ends)
    return Reach(ends_2PNF=ends, local=LocalError(**{name: _unpacked(array) for name, array in local.items()}))


def _by_name(value: Intervals | Coverage | LocalError) -> dict[str, Any]:
    """Gives the fields as they are: `asdict` copies the lists in them, cell by cell."""
    return {field.name: getattr(value, field.name) for field in fields(value) if field.init}


def _parsed(content: Mapping[str, Any], names: Sequence[str]) -> Intervals:
    """Parses intervals, with targets in the order of their names, which sealed JSON sorts.

    Raises:
    KeyError, TypeError, ValueError: content that is no intervals.
    """
    coverage = Coverage(**content["coverage"]) if content["coverage"] else None
    if coverage is not None:
        shares = {name: coverage.by_feature[name] for name in names if name in coverage.by_feature}
        nodes, hours, months = (
            {name: by_group[name] for name in (kind, *shares)}
            for kind, by_group in (
                ("nodes", coverage.by_node),
                ("hours", coverage.by_hour),
                ("months", coverage.by_month),
            )
            if by_group is not None
        )
        coverage = replace(coverage, by_feature=shares, by_node=nodes, by_hour=hours, by_month=months)
    return Intervals(
        level=content["bound"]["level"],
        begin=_reach(content["begin"]),
        now=_reach(content["now"]),
        windows=content["windows"] + 0,
        of=content["of"] + 0,
        own_nodes=content["own_nodes"] + 0,
        errors=dict(content["errors"]),
        coverage=coverage,
    )
