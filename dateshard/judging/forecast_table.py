"""A forecast as a table in raw units: a row a target step, node and target.

Legend: P target steps, N nodes, T targets that are numbers, K targets in all, Q levels of quantiles.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dateshard.preparing.raw_units import raw_units
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import UsageError, Where
from dateshard.shardstore.times.calendar import Day
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.quantiles import around, never_falling, outer_of
from dateshard.trainer.bounds import bounds_of

if TYPE_CHECKING:
    import polars

Floats = NDArray[np.float64]
HEADER_BYTES = 1 << 16  # looked at of a file that would be replaced
LEVEL_NAME = re.compile(r"q\d+(\.\d+)?")  # of a quantile's column
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%:z"  # a fraction only where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a model said.

    Attributes:
        horizon_P, instant_P: of each target step.
        scaled_PNT: of the numeric targets in the forecaster's order; None without one.
        quantiles_PNTQ: likewise, at the levels of `forecaster.quantiles`; None where no loss knows quantiles.
        chances: {categorical target: [P, N, categories] probabilities}.
        reach_2PNT: what is added to a scaled forecast, or to its outer quantiles, for low and high; None without intervals.
        known_PNK: whether the inputs hold a value of the target at the node. Where not, there is no interval.
    """

    forecaster: Forecaster
    horizon_P: Sequence[int] | NDArray[np.int64]
    instant_P: Sequence[int] | NDArray[np.int64]
    scaled_PNT: NDArray[np.float32] | None
    quantiles_PNTQ: NDArray[np.float32] | None
    chances: Mapping[str, Floats]
    reach_2PNT: Floats | None
    known_PNK: NDArray[np.bool_]


def of_steps(steps: Sequence[tuple[int, Day, int, int]], nodes: Sequence[str]) -> dict[str, polars.Series]:
    """Returns the columns date, step and node of target steps, given as (instant, date, step of that date, horizon)."""
    import polars as pl

    number = np.repeat(np.arange(len(steps)), len(nodes))
    return {
        "date": pl.Series([day.date for _, day, _, _ in steps], dtype=pl.Date).gather(number),
        "step": pl.Series([row for _, _, row, _ in steps], dtype=pl.Int32).gather(number),
        "node": pl.Series(nodes, dtype=pl.String).gather(np.tile(np.arange(len(nodes)), len(steps))),
    }


def frame_of(made: Made, before: Mapping[str, polars.Series]) -> polars.DataFrame:
    """Returns the forecast as a table, ordered by time, node, then as the targets are configured.

    Columns: those of `before`, feature, horizon, value, low, high, a quantile each (q10, q50), with a categorical target
    category and probability, time.

    Args:
        before: the first columns, of a row for each target step and node.
    """
    import polars as pl

    names = [target.name for target in made.forecaster.targets]
    num_steps, num_nodes, _ = shape = made.known_PNK.shape
    rows, each = num_steps * num_nodes, num_nodes * len(names)
    by_row = np.repeat(np.arange(rows), len(names))
    by_step = np.repeat(np.arange(num_steps), each)
    columns: dict[str, Any] = {
        **{name: column.gather(by_row) for name, column in before.items()},
        "feature": pl.Series(names, dtype=pl.String).gather(np.tile(np.arange(len(names)), rows)),
        "horizon": pl.Series(made.horizon_P, dtype=pl.Int32).gather(by_step),
        **_numbers(made),
        **_categories(made, shape),
    }
    time = pl.Series(made.instant_P, dtype=pl.Int64).gather(by_step).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    return pl.DataFrame(columns | {"time": time.dt.convert_time_zone(made.forecaster.dataset.manifest.timezone)})


def _numbers(made: Made) -> dict[str, polars.Series]:
    """Returns the columns value, low, high and of quantiles; null where there is none."""
    import polars as pl

    bands = zip(("value", "low", "high"), bands_of(made), strict=True)
    columns = {name: pl.Series(band.ravel()).fill_nan(None) for name, band in bands}
    quantiles_PNKQ, levels = quantiles_of(made), made.forecaster.quantiles.levels
    for place, level in enumerate(levels):
        columns[level_name(level)] = pl.Series(quantiles_PNKQ[..., place].ravel()).fill_nan(None)
    return columns


def level_name(level: float) -> str:
    """Names the column of a quantile by its percent: q10, q97.5."""
    return f"q{100 * level:.6g}"


def quantiles_of(made: Made) -> Floats:
    """Returns [P, N, K, Q] in raw units, never falling with the level; NaN where there is none."""
    forecaster = made.forecaster
    quantiles = np.full((*made.known_PNK.shape, len(forecaster.quantiles.levels)), np.nan)
    if made.quantiles_PNTQ is not None:
        places = [forecaster.columns.targets[place] for place in forecaster.numbers]
        low_T, high_T = bounds_of(forecaster.config, forecaster.dataset, places)
        raw_QPNT = in_raw_units(forecaster, np.moveaxis(made.quantiles_PNTQ, -1, 0).astype(np.float64), places)
        raw_QPNT = never_falling(np.clip(raw_QPNT, low_T, high_T))
        quantiles[..., list(forecaster.numbers), :] = np.moveaxis(raw_QPNT, 0, -1)
    return quantiles


def bands_of(made: Made) -> Floats:
    """Returns [3, P, N, K] value, low and high in raw units; NaN where there is none."""
    bands, forecaster = np.full((3, *made.known_PNK.shape), np.nan), made.forecaster
    if made.scaled_PNT is not None:
        places = [forecaster.columns.targets[place] for place in forecaster.numbers]
        ends = made.scaled_PNT.astype(np.float64)[None]
        if made.reach_2PNT is not None:
            outer = outer_of(made.quantiles_PNTQ, made.scaled_PNT)
            ends = np.concatenate([ends, made.scaled_PNT + around(made.reach_2PNT, outer)])
        low, high = bounds_of(forecaster.config, forecaster.dataset, places)
        raw = np.clip(in_raw_units(forecaster, ends, places), low, high)
        bands[: len(ends), ..., list(forecaster.numbers)] = raw
    bands[1:, ~made.known_PNK] = np.nan  # errors were measured where something was known
    bands[1], bands[2] = np.minimum(bands[1], bands[0]), np.maximum(bands[2], bands[0])  # whatever was rounded
    return bands


def in_raw_units(forecaster: Forecaster, scaled_PNT: Floats, places: Sequence[int]) -> Floats:
    """Returns [..., P, N, T] as `export` shows values; NaN stays NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        return raw_units(forecaster.dataset, scaled_PNT, places)


def _categories(made: Made, shape: tuple[int, int, int]) -> dict[str, polars.Series]:
    """Returns category and probability of the likeliest one; nothing where no target is categorical."""
    import polars as pl

    if not made.chances:
        return {}
    words, shares = np.full(shape, None, dtype=object), np.full(shape, np.nan)
    for place, target in enumerate(made.forecaster.targets):
        if target.name in made.chances:
            chances = made.chances[target.name]
            words[..., place] = np.asarray(target.categories, dtype=object)[chances.argmax(-1)]
            shares[..., place] = chances.max(-1)
    category = pl.Series(words.ravel().tolist(), dtype=pl.String)
    return {"category": category, "probability": pl.Series(shares.ravel()).fill_nan(None)}


def as_csv(frame: polars.DataFrame) -> str:
    """Writes the table as CSV with a header; times in the dataset's zone, with their offset."""

    return _spelled(frame).write_csv()


def _spelled(frame: polars.DataFrame) -> polars.DataFrame:
    """Spells times, where there are any, with their offset."""
    import polars as pl

    return frame.with_columns(pl.col("time").dt.strftime(TIME_FORMAT)) if "time" in frame.columns else frame


def as_rows(frame: polars.DataFrame) -> list[dict[str, Any]]:
    """Returns the table as rows for JSON: dates and times as text, quantiles together."""
    import polars as pl

    dates = [pl.col("date").cast(pl.String)] if "date" in frame.columns else []
    rows = _spelled(frame).with_columns(dates).to_dicts()
    levels = [name for name in frame.columns if LEVEL_NAME.fullmatch(name)]
    for row in rows if levels else ():
        row["quantiles"] = {name: row.pop(name) for name in levels}
    return rows


def refuse_file(path: Path) -> None:
    """Refuses a file that a forecast cannot be written to.

    Raises:
        UsageError: the file's name says neither CSV nor Parquet, its folder is not there, or it holds something else.
    """
    where = Where(file=str(path))
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError("a forecast is written as .csv or .parquet", where=where, todo="Name such a file with --out")
    if not path.parent.is_dir():
        raise UsageError("the folder does not exist", where=where, todo="Make it, or name another --out")
    refuse_other_content(path, ("feature", "horizon", "value", "low", "high"))


def refuse_other_content(path: Path, columns: Collection[str]) -> None:
    """Refuses to replace a file that is no table with these columns: a dump, for instance.

    Raises:
        UsageError: naming it.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.is_file() or not path.stat().st_size:
        return
    names = set[str]()
    with suppress(OSError, UnicodeDecodeError, pyarrow.ArrowException):
        if path.suffix == ".parquet":
            names = {*pyarrow.parquet.read_schema(path).names}
        else:
            with open(path, encoding="utf-8") as file:
                names = {*file.readline(HEADER_BYTES).rstrip().split(",")}
    if not names.issuperset(columns):
        todo = "Name another file, or remove that one"
        raise UsageError("there is a file already, and it holds no forecasts", where=Where(file=str(path)), todo=todo)


def write(frame: polars.DataFrame, path: Path) -> None:
    """Writes the table by the file's ending; the file appears whole, or stays what it was.

    Raises:
        DiskFullError: nothing is left behind.
    """
    buffer = io.BytesIO()  # what polars says of a file that it cannot write has no error number
    if path.suffix == ".csv":
        buffer.write(as_csv(frame).encode())
    else:
        frame.write_parquet(buffer)
    with appearing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
