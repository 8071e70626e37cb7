"""Every window of a split with what came and what was forecast, as one Parquet file: `evaluate RUN --forecasts FILE`.

A row is one target at one node and target step of one window, in raw units; rows are ordered by window, step, node, target:

    anchor               the instant of the window's first target step (horizon 0: of its last history step)
    date, record, cut    of records instead of steps: their date, place in it (as `export` shows them), and cut if there is one
    file, row            of rows without a time, instead of all times: where each stands in its dump; null where that has changed
    node, feature, horizon
    truth                null where nothing was observed
    forecast, low, high  low and high null where the run has no intervals, or the window knows nothing of the target there
    q10, q50, q90        a quantile each, of the levels of the run's loss where it knows any
    truth_category, category, probability    of categorical targets, where there are any
    time                 the instant of the target step

Legend: B windows, P target steps, N nodes, K targets, F all features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import torch
from numpy.typing import NDArray

from dateshard.judging.forecast_table import Made, frame_of, in_raw_units, refuse_other_content
from dateshard.judging.silent_nodes import known_targets
from dateshard.preparing.dump_rows import KnownRows, has_no_times
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import UsageError, Where
from dateshard.trainer.assessment.baselines import BATCH_BYTES, order_to_judge, window_bytes
from dateshard.trainer.assessment.example_windows import mapped
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.intervals import Floats, Intervals, IntervalWalk, missed_of, target_hours
from dateshard.trainer.assessment.quantiles import outer_of
from dateshard.trainer.data.batch import Batch, BatchForm
from dateshard.trainer.data.order import Order
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.data.window_dates import InstantOf
from dateshard.trainer.setup import make_reader

ROWS = 1 << 17  # of a row group: 20 MB in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastsFile:
    """The file that was written.

    Attributes:
        level: of its intervals; None without any.
        notes: what it does not hold, and why.
        of_records: whether only records that are given can be forecast (horizon 0).
    """

    file: Path
    windows: int
    rows: int
    num_bytes: int
    level: float | None
    notes: list[str]
    of_records: bool

    def to_json(self) -> dict[str, Any]:
        """Returns it as `evaluate --json` prints it."""
        fields = {name: value for name, value in asdict(self).items() if name != "of_records"}
        return {"file": str(fields.pop("file")), "bytes": fields.pop("num_bytes"), **fields}


def refuse_name(path: Path) -> None:
    """Refuses a file that forecasts cannot be written to, before anything is evaluated.

    Raises:
        UsageError: it is not named .parquet, its folder is not there, or it holds something else.
    """
    where = Where(file=str(path))
    if path.suffix != ".parquet":
        raise UsageError("forecasts of windows are written as .parquet", where=where, todo="Name such a file")
    if path.is_dir():
        raise UsageError("that is a folder", where=where, todo="Name a file")
    if not path.parent.is_dir():
        raise UsageError("the folder does not exist", where=where, todo="Make it, or name another file")
    refuse_other_content(path, ("anchor", "node", "feature", "horizon"))


def write_forecasts(forecaster: Forecaster, split: str, intervals: Intervals | None, path: Path) -> ForecastsFile:
    """Writes the forecasts of all windows of a split; the file appears whole, or stays what it was.

    Memory: the model, a batch, and two row groups, however many windows there are.

    Raises:
        DiskFullError: nothing is left behind.
    """
    order, rows = _order(forecaster, split), 0
    known = KnownRows(forecaster.dataset) if has_no_times(forecaster.dataset) else None
    made = _tables(forecaster, order, intervals, known)
    with appearing(path) as temporary, open(temporary, "wb") as file:
        first = next(made)
        with pa_parquet.ParquetWriter(file, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            rows += first.num_rows
            for table in made:
                writer.write_table(table)
                rows += table.num_rows
    return ForecastsFile(
        file=path,
        windows=order.num_windows,
        rows=rows,
        num_bytes=path.stat().st_size,
        level=None if intervals is None else intervals.level,
        notes=known.notes if known else [],
        of_records=not forecaster.window.horizon,
    )


def _order(forecaster: Forecaster, split: str) -> Order:
    """All windows in date order, in batches that are at most a row group."""
    config, dataset, window = forecaster.config, forecaster.dataset, forecaster.window
    order = order_to_judge(config, dataset, window, split)
    each = window.target_steps * dataset.manifest.num_nodes * len(forecaster.targets)
    most = min(order.batch_size, ROWS // each, BATCH_BYTES // window_bytes(dataset, window.history, window))
    return replace(order, batch_size=max(1, most))


def _tables(
    forecaster: Forecaster, order: Order, intervals: Intervals | None, known: KnownRows | None
) -> Iterator[pa.Table]:
    """Yields row groups."""
    held, count = list[pl.DataFrame](), 0
    for frame in _frames(forecaster, order, intervals, known):
        if held and count + frame.height > ROWS:
            yield _joined(held)
            held, count = [], 0
        held.append(frame)
        count += frame.height
    yield _joined(held)


def _joined(frames: Sequence[pl.DataFrame]) -> pa.Table:
    return pl.concat(frames).to_arrow(compat_level=pl.CompatLevel.oldest())  # no string views: older readers know none


@torch.no_grad()
def _frames(
    forecaster: Forecaster, order: Order, intervals: Intervals | None, known: KnownRows | None
) -> Iterator[pl.DataFrame]:
    """Yields the rows of each batch of windows. `known`: rows of the dumps, of records whose instants mean nothing."""
    dataset, window = forecaster.dataset, forecaster.window
    everything = tuple(range(len(dataset.features)))
    columns = forecaster.columns
    wanted = BatchForm(
        window=window, inputs=everything, targets=columns.targets, codes=True, known=True, futures=columns.futures
    )
    instant_of = InstantOf(dataset, order, window)
    follow = None
    if intervals is not None:
        follow = IntervalWalk(dataset, order, window, intervals.begin, intervals.level)
    timeless = ["anchor", "time", *(["date"] if dataset.manifest.undated else [])]
    for number, batch in enumerate(make_reader(mapped(forecaster.config), dataset, order, wanted).batches(0)):
        frame = _of_batch(forecaster, batch, (instant_of, order.positions(number)), follow, known)
        yield frame.drop(timeless) if known else frame


def _of_batch(
    forecaster: Forecaster,
    batch: Batch,
    place: tuple[InstantOf, range],
    follow: IntervalWalk | None,
    known: KnownRows | None,
) -> pl.DataFrame:
    instant_of, positions = place
    window, nodes = forecaster.window, forecaster.dataset.nodes.names
    size, steps = batch.size, window.target_steps
    offsets = np.arange(steps) - (0 if window.horizon else window.history - 1)
    instant_BP = instant_of(positions, offsets)
    before = {"anchor": _times(forecaster, instant_of(positions, np.zeros(1, dtype=np.int64)).repeat(steps))}
    if not forecaster.dataset.manifest.step:
        before |= _records(instant_of, positions, offsets, known)
    of_row = np.repeat(np.arange(size * steps), len(nodes))
    before = {name: column.gather(of_row) for name, column in before.items()}
    before["node"] = pl.Series(nodes, dtype=pl.String).gather(np.tile(np.arange(len(nodes)), size * steps))
    forecast = forecaster.forecast(batch)
    reach = None if follow is None else _reach(forecaster, batch, forecast, follow, positions)
    predicted = {name: tensor.flatten(0, 1) for name, tensor in forecast.items()}
    made = Made(
        forecaster=forecaster,
        horizon_P=np.tile(np.arange(1, steps + 1) if window.horizon else np.zeros(steps, dtype=np.int64), size),
        instant_P=instant_BP.ravel(),
        scaled_PNT=forecaster.numbers_in(predicted),
        quantiles_PNTQ=forecaster.quantiles_in(predicted),
        chances=forecaster.chances(predicted),
        reach_2PNT=reach,
        known_PNK=np.repeat(_known(forecaster, batch), steps, axis=0),
    )
    frame = frame_of(made, before).rename({"value": "forecast"})
    truth = _truth(forecaster, batch)
    at = frame.get_column_index("horizon") + 1
    for name, column in reversed(truth.items()):
        frame = frame.insert_column(at if name == "truth" else frame.get_column_index("category"), column)
    return frame


def _reach(
    forecaster: Forecaster, batch: Batch, forecast: Mapping[str, torch.Tensor], follow: IntervalWalk, positions: range
) -> Floats | None:
    """Returns [2, windows x steps, N, T] ends as they were known when each window was forecast."""
    if not forecaster.numbers:
        return None
    numbers = list(forecaster.numbers)
    observed = None if batch.observed_BPNF is None else batch.observed_BPNF[..., numbers]
    predicted = forecaster.numeric(forecast)
    outer = outer_of(forecaster.quantiles_in(forecast), predicted.numpy())
    missed = missed_of(predicted, batch.target_BPNF[..., numbers], observed, outer)
    reach_2BPNF = follow(missed, target_hours(forecaster, batch.codes_BW), positions)
    return reach_2BPNF.reshape(2, -1, *reach_2BPNF.shape[3:])


def _times(forecaster: Forecaster, instants: Integers) -> pl.Series:
    utc = pl.Series(instants, dtype=pl.Int64).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    return utc.dt.convert_time_zone(forecaster.dataset.manifest.timezone)


def _records(
    instant_of: InstantOf, positions: range, offsets: Integers, known: KnownRows | None
) -> dict[str, pl.Series]:
    """The columns date, record, cut, and of rows without a time file and row, of target records."""
    dataset = instant_of.dataset
    day_S, row_S = (places.ravel() for places in instant_of.date_of.places(positions, offsets))
    columns = {
        "date": pl.Series([day.date for day in dataset.days], dtype=pl.Date).gather(day_S),
        "record": pl.Series(row_S, dtype=pl.Int64),
    }
    if known:
        columns |= _in_dumps(dataset, day_S, row_S, known)
    if not dataset.manifest.cut or dataset.manifest.by_row:
        return columns
    names = np.empty(len(day_S), dtype=object)
    for day in np.unique(day_S).tolist():
        cuts, here = dataset.cuts(dataset.days[day]), day_S == day
        of_cut = np.searchsorted(cuts.starts, row_S[here], side="right") - 1
        names[here] = np.asarray(cuts.names, dtype=object)[of_cut]
    return columns | {"cut": pl.Series(names.tolist(), dtype=pl.String)}


def _in_dumps(dataset: Dataset, day_S: Integers, row_S: Integers, known: KnownRows) -> dict[str, pl.Series]:
    """The columns file and row of target records, null where they are not known."""
    files, rows = np.full(len(day_S), None, dtype=object), np.full(len(day_S), -1, dtype=np.int64)
    for day in np.unique(day_S).tolist():
        here = day_S == day
        if there := known.of(dataset.days[day].date):
            files[here] = np.asarray(there.files, dtype=object)[there.file_T[row_S[here]]]
            rows[here] = there.row_T[row_S[here]]
    row = pl.Series(rows, dtype=pl.Int64)
    return {"file": pl.Series(files.tolist(), dtype=pl.String), "row": row.set(row < 0, None)}


def _known(forecaster: Forecaster, batch: Batch) -> NDArray[np.bool_]:
    """Returns [B, N, K]: whether the window's inputs hold a value, without which there is no interval."""
    shape = (batch.size, *batch.target_BPNF.shape[2:])
    if batch.known_BHNF is None:
        return np.ones(shape, dtype=np.bool_)
    seen_BNF: NDArray[np.bool_] = batch.known_BHNF.any(1).numpy()
    if forecaster.dataset.manifest.step:
        return known_targets(forecaster, seen_BNF)
    return np.broadcast_to(seen_BNF[..., list(forecaster.columns.inputs)].max(-1)[..., None], shape)


def _truth(forecaster: Forecaster, batch: Batch) -> dict[str, pl.Series]:
    """The columns truth and, with a categorical target, truth_category; null where nothing was observed."""
    target = batch.target_BPNF.flatten(0, 1).numpy()
    seen = np.ones(target.shape, dtype=np.bool_)
    if batch.observed_BPNF is not None:
        seen = batch.observed_BPNF.flatten(0, 1).numpy()
    values, numbers = np.full(target.shape, np.nan), list(forecaster.numbers)
    if numbers:
        places = [forecaster.columns.targets[place] for place in numbers]
        values[..., numbers] = in_raw_units(forecaster, target[..., numbers], places)
    columns = {"truth": pl.Series("truth", np.where(seen, values, np.nan).ravel()).fill_nan(None)}
    if not forecaster.categorical:
        return columns
    words = np.full(target.shape, None, dtype=object)
    for place in (head.targets[0] for head in forecaster.categorical):
        known = np.asarray(
            [None, *forecaster.targets[place].categories], dtype=object
        )  # code 0 is none that training saw
        words[..., place] = known[np.where(seen[..., place], target[..., place], 0).astype(np.int64)]
    return columns | {"truth_category": pl.Series("truth_category", words.ravel().tolist(), dtype=pl.String)}
