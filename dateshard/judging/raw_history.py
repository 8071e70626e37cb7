"""The raw steps of a grid, as arrays or as a frame, made into the window that a model sees.

Legend: L steps that are given, H history steps, N nodes, F features, I inputs of the model.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.arrays import unfit_values
from dateshard.pipeline.recent.recent_steps import RecentRows, RecentSteps
from dateshard.shardstore.errors import UsageError, Where, counted, shorten
from dateshard.shardstore.layouts.category_codes import UNSEEN
from dateshard.shardstore.layouts.encode import encode
from dateshard.shardstore.scaling.transform import Floats
from dateshard.shardstore.times.calendar import Day
from dateshard.shardstore.times.instants import parse_instant, rows_before, spell, step_before
from dateshard.trainer.assessment.forecaster import Forecaster

if TYPE_CHECKING:
    import polars

Instant = str | dt.datetime


@dataclass(frozen=True, slots=True)
class RawGrid:
    """Raw steps [L, N, I] up to `end`, and the nodes of their rows that training never saw, which are left out."""

    values_LNI: Floats
    end: int
    unknown_nodes: tuple[str, ...]


class RawHistory:
    """Encodes raw steps as preparing does: fill, transform, scale, clip, float32.

    Nothing is filled from before the first step that is given, nor over midnight.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        dataset, inputs = forecaster.dataset, list(forecaster.columns.inputs)
        self.forecaster, self.inputs = forecaster, inputs
        self.features = [dataset.features[place] for place in inputs]
        self.scale, self.nodes = dataset.scale.of(inputs), dataset.nodes.names
        self.zone, self.step = dataset.manifest.timezone, dataset.manifest.step
        names = dataset.vocabularies.names
        self.categories = {feature.name: names[feature.name] for feature in self.features if feature.categorical}

    def instant(self, until: Instant) -> int:
        """The first instant after the history; a date stands for its end, as of `--until`.

        Raises:
            UsageError: no instant, or no step begins there.
        """
        text = until.isoformat() if isinstance(until, dt.datetime) else until
        at = parse_instant(text, self.zone, end=True)
        if at != (border := step_before(at, self.zone, self.step)):
            what = f"the history cannot end at {spell(at, self.zone)}: no step begins there"
            raise UsageError(
                what, todo=f"Give until as the end of its last step, for example {spell(border, self.zone)}"
            )
        return at

    def steps(self, values: NDArray[Any], end: int, unknown_nodes: tuple[str, ...] = ()) -> RecentSteps:
        """Encodes raw values [L, N, I] of the L steps before an instant, NaN where nothing was observed.

        Only those of the window's dates matter, from the midnight before its first step on.

        Raises:
            UsageError: another shape, too few steps, a value that a shard cannot hold, or a code that is none.
        """
        history = self.forecaster.window.history
        self._refuse_shape(values, history)
        window = rows_before(end, history, self.zone, self.step)
        length = min(len(values), history + window[0][1].start)
        spans = window if length == history else rows_before(end, length, self.zone, self.step)
        raw_LNI = np.asarray(values[-length:], dtype=np.float64)
        self._refuse_values(raw_LNI, spans)
        sizes = [rows.stop - rows.start for _, rows in spans]
        cuts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        encoded, observed = encode(raw_LNI, self.features, self.scale, cuts)
        if not np.isfinite(encoded).all():
            place = np.argwhere(~np.isfinite(encoded))[0]
            raise self._fault(place, raw_LNI, spans, "lies so far from the training values that float32 cannot hold it")
        shape = (history, len(self.nodes), len(self.forecaster.dataset.features))
        values_HNF, observed_HNF = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.bool_)
        values_HNF[..., self.inputs] = encoded[-history:]
        observed_HNF[..., self.inputs] = True if observed is None else observed[-history:]
        return RecentSteps(
            values_HNF=values_HNF,
            observed_HNF=observed_HNF,
            end=end,
            last=None,
            pieces=tuple(RecentRows(day, rows, {}, None) for day, rows in window),
            unknown_nodes=unknown_nodes,
            unknown_categories={},
        )

    def grid(self, frame: polars.DataFrame, until: Instant | None) -> RawGrid:
        """Lays the rows of a frame out as [L, N, I]: those of the window's dates, before the end of the history.

        Args:
            frame: columns `time`, `node` (not needed of a single node) and the inputs, a row a step and node. A time
                without a zone is local. Cells without a row, and nulls, were not observed.
            until: the end of the history; None: after the last row.

        Raises:
            UsageError: a column is lacking, a time at which no step begins, two rows of one step and node, or no row
                of a known node.
        """
        import polars as pl

        self._refuse_columns(frame)
        time_R = self._instants(frame["time"])
        end = int(time_R.max()) + self.step if until is None else self.instant(until)
        window = rows_before(end, self.forecaster.window.history, self.zone, self.step)
        spans = [(window[0][0], slice(0, window[0][1].stop)), *window[1:]]
        at_L = np.concatenate([day.start + np.arange(rows.start, rows.stop) * self.step for day, rows in spans])
        node_R = _places(frame["node"], self.nodes) if "node" in frame.columns else np.zeros(len(frame), dtype=np.int64)
        chosen_R = (time_R >= at_L[0]) & (time_R < end) & (node_R >= 0)
        if not chosen_R.any():
            what = f"no row of the frame is of a known node in the {counted(len(at_L), 'step')} before {spell(end, self.zone)}"
            raise UsageError(what, todo="Give the history of the nodes that `nodes` names")
        step_R = np.searchsorted(at_L, time_R[chosen_R], side="right") - 1
        if (stray_R := at_L[step_R] != time_R[chosen_R]).any():
            at = spell(int(time_R[chosen_R][stray_R.argmax()]), self.zone)
            raise UsageError(f"no step begins at {at}", todo="Give one row a step and node, aggregated as features say")
        cell_R = step_R * len(self.nodes) + node_R[chosen_R]
        self._refuse_doubles(cell_R, at_L)
        raw_CI = np.full((len(at_L) * len(self.nodes), len(self.inputs)), np.nan)
        for index, feature in enumerate(self.features):
            raw_CI[cell_R, index] = self._numbers(frame[feature.name])[chosen_R]
        known = bool((node_R >= 0).all())
        unknown = () if known else tuple(frame["node"].cast(pl.String).filter(node_R < 0).drop_nulls().unique().sort())
        return RawGrid(raw_CI.reshape(len(at_L), len(self.nodes), -1), end, unknown)

    def _refuse_columns(self, frame: polars.DataFrame) -> None:
        wanted = ["time", *(["node"] if len(self.nodes) > 1 else []), *(feature.name for feature in self.features)]
        if lacking := [name for name in wanted if name not in frame.columns]:
            what = f"the frame has no column {', '.join(lacking)}"
            raise UsageError(what, todo=f"Give the columns {', '.join(wanted)}, a row a step and node")
        if not frame.height:
            raise UsageError("the frame has no row", todo="Give the history before the forecast")

    def _instants(self, column: polars.Series) -> NDArray[np.int64]:
        """Returns nanoseconds since 1970 in UTC."""
        import polars as pl

        if column.dtype == pl.Date:
            column = column.cast(pl.Datetime("us"))
        if not isinstance(column.dtype, pl.Datetime):
            what = f"the frame's column time is {column.dtype}, not a time"
            raise UsageError(what, todo="Parse it: pl.col('time').str.to_datetime()")
        placed = column
        if column.dtype.time_zone is None:
            placed = column.dt.replace_time_zone(self.zone, ambiguous="null", non_existent="null")
        if placed.null_count():
            value = str(column.filter(placed.is_null())[0])
            what = "the frame has a row without a time" if value == "None" else f"'{value}' comes twice or never"
            raise UsageError(
                f"{what} ({self.zone})", todo="Give every row a time, with a zone where local ones are ambiguous"
            )
        return placed.to_numpy().astype("datetime64[ns]").view(np.int64)

    def _numbers(self, column: polars.Series) -> Floats:
        """Gives a column's values, or the codes of its categories; NaN where it holds nothing."""
        import polars as pl

        if column.name in self.categories:
            place_R = _places(column, self.categories[column.name])
            code_R = np.where(place_R < 0, UNSEEN, place_R + 1).astype(np.float64)
            return np.where(column.is_null().to_numpy(), np.nan, code_R)
        if not column.dtype.is_numeric() and column.dtype not in (pl.Boolean, pl.Null):
            what = f"the frame's column {column.name} is {column.dtype}, not numbers"
            raise UsageError(what, todo="Cast it: pl.col(...).cast(pl.Float64)")
        return column.cast(pl.Float64).to_numpy()  # nulls come out as NaN

    def _refuse_doubles(self, cell_R: NDArray[np.int64], at_L: NDArray[np.int64]) -> None:
        count_C = np.bincount(cell_R)
        if (count_C > 1).any():
            step, node = divmod(int(count_C.argmax()), len(self.nodes))
            what = f"{int(count_C.max()):,} rows are of {spell(int(at_L[step]), self.zone)}, node {shorten(self.nodes[node])}"
            raise UsageError(what, todo="Give one row a step and node, aggregated as features say")

    def _refuse_shape(self, values: NDArray[Any], history: int) -> None:
        names = ", ".join(feature.name for feature in self.features)
        nodes = f"{len(self.nodes):,} node{'s' * (len(self.nodes) > 1)}"
        if (
            values.ndim != 3
            or values.shape[1:] != (len(self.nodes), len(self.inputs))
            or values.dtype.kind not in "fiub"
        ):
            what = f"the history is an array of {values.dtype} {list(values.shape)}"
            todo = f"Give numbers [steps, nodes, features], of {nodes} in the order of `nodes` and the features {names}"
            raise UsageError(what, todo=todo)
        if len(values) < history:
            what = f"the history has {counted(len(values), 'step')}, and the model looks back {history:,}"
            raise UsageError(what, todo="Give earlier steps too, with NaN where nothing was observed")

    def _refuse_values(self, raw_LNI: Floats, spans: list[tuple[Day, slice]]) -> None:
        for index, feature in enumerate(self.features):
            column = raw_LNI[..., index]
            outside, why = unfit_values(column, feature.transform)
            if feature.categorical:
                outside = (column != np.floor(column)) & ~np.isnan(column)
                outside |= (column < 0) | (column > len(self.categories[feature.name]))
                why = f"is no code: 0 (unseen) to {len(self.categories[feature.name]):,}"
            if outside.any():
                raise self._fault((*np.argwhere(outside)[0], index), raw_LNI, spans, why)

    def _fault(self, place: Any, raw_LNI: Floats, spans: list[tuple[Day, slice]], why: str) -> UsageError:
        step, node, index = map(int, place)
        days = [(day, row) for day, rows in spans for row in range(rows.start, rows.stop)]
        day, row = days[step]
        at, value = spell(day.start + row * day.step, self.zone), float(raw_LNI[step, node, index])
        where = Where(date=day.date, column=self.features[index].name, value=repr(value))
        what = f"a value of the history at {at}, node {shorten(self.nodes[node])}: {why}"
        return UsageError(what, where=where, todo="Correct it, or give NaN: nothing was observed")


def _places(column: polars.Series, names: Sequence[str]) -> NDArray[np.int64]:
    """Gives the place of each text among some names, -1 where it is none of them: by calls that need no query engine."""
    import polars as pl

    placed = column.cast(pl.String).cast(pl.Enum(names), strict=False)
    return np.asarray(placed.to_arrow().indices.cast("int64").fill_null(-1))
