"""A dataset in a notebook: `dateshard.open("flights")`. Reads one generation, verified as training reads it.

Legend: T steps, N nodes, F features.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dateshard.preparing.raw_units import raw_units
from dateshard.preparing.selectors import committed_dates
from dateshard.preparing.statistics_source import dataset_named
from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, UsageError, Where, counted
from dateshard.shardstore.layouts.feature import categorical
from dateshard.shardstore.manifest import SPLITS
from dateshard.shardstore.scaling.transform import Floats
from dateshard.shardstore.storage.shards import stored_path
from dateshard.shardstore.times.calendar import collapse
from dateshard.terminal.screen import size

if TYPE_CHECKING:
    import polars
    import xarray

    from dateshard.notebooks.windows import Windows

Dates = str | dt.date | Iterable[str | dt.date] | None
UNITS = ("raw", "scaled")


class Arrays(NamedTuple):
    """The arrays of one date. What was not observed is filled or empty in `values`: see the features' `fill`."""

    values: NDArray[np.float32]  # [T, N, F] scaled, as training reads them; a read-only map where it can be
    observed: NDArray[np.bool_]  # [T, N, F]
    time: NDArray[np.datetime64]  # [T] UTC, at which each step begins


def open_dataset(dataset: str | Path, generation: int | None = None) -> Opened:
    """Opens a dataset by its name (below `data/`, or where DATESHARD_DATA says) or by its folder; read-only.

    Raises:
        NotThereError: nothing was prepared under that name. DamagedError: the manifest is damaged.
    """
    return Opened(dataset_named(dataset, generation))


class Opened:
    """One generation of a dataset, opened to be read by date.

    Wherever dates are taken: a date, `2013-03`, `2013-03-01..2013-03-07`, `last:7`, `train`, several of them in a list,
    or None for all.

    Attributes:
        dataset: what the trainer reads.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __repr__(self) -> str:
        manifest = self.dataset.manifest
        step = dt.timedelta(microseconds=manifest.step / 1000)
        lines = [
            f"dataset {manifest.dataset}, generation {self.dataset.generation}",
            f"  dates      {len(self.dates)}: {collapse(self.dates, undated=manifest.undated)}".rstrip(": "),
            *(f"  {name:10} {text}" for name, text in self._shares().items()),
            f"  steps      {f'every {step}' if step else 'records as they come'} in {manifest.timezone}",
            f"  nodes      {manifest.num_nodes:,}",
            f"  features   {', '.join(self.features)}",
            f"  bytes      {', '.join(f'{size(count)} {name}' for name, count in self.bytes.items())}",
        ]
        return "\n".join(lines)

    def _shares(self) -> dict[str, str]:
        manifest = self.dataset.manifest
        if manifest.split_cuts:
            return {name: manifest.cuts_of(name) for name in SPLITS if name in manifest.split_cuts}
        return {
            name: f"{counted(len(dates), 'date')}: {collapse(dates)}" for name, dates in self.split.items() if dates
        }

    @property
    def dates(self) -> list[dt.date]:
        """All committed dates in order."""
        return sorted(self.dataset.manifest.dates)

    @property
    def split(self) -> dict[str, list[dt.date]]:
        """Returns {train|validation|test: its dates}; where records are divided, every date is of `train`."""
        manifest = self.dataset.manifest
        return {
            name: [d for d in self.dates if manifest.split_of(d) == name] for name in SPLITS if name in manifest.split
        }

    @property
    def features(self) -> list[str]:
        """Names of the last axis."""
        return self.dataset.feature_names

    @property
    def bytes(self) -> dict[str, int]:
        """Returns {format: bytes of all dates in it}."""
        total: dict[str, int] = {}
        for entry in self.dataset.manifest.dates.values():
            for shard in entry.parts:
                for name, stored in shard.formats.items():
                    num_bytes = stored.size if stored else sum(count for count, _ in shard.files.values())
                    total[name] = total.get(name, 0) + num_bytes
        return total

    @property
    def nodes(self) -> polars.DataFrame:
        """A row a node, in the order of axis 1: its name, and its position in the node table's columns."""
        import polars as pl

        nodes = self.dataset.nodes
        axes = {axis: nodes.positions_NP[:, index] for index, axis in enumerate(nodes.axes)}
        return pl.DataFrame({"node": nodes.names, **axes}, schema_overrides={"node": pl.String})

    @property
    def statistics(self) -> polars.DataFrame:
        """A row a feature: observed cells of the training dates, mean, deviation, least and greatest, transformed."""
        import polars as pl

        n, pivot, delta, m2, low, high = self.dataset.statistics.over_nodes
        mean, deviation = pivot + delta, np.sqrt(m2 / np.maximum(n, 1))
        columns = {"count": n.astype(np.int64), "mean": mean, "std": deviation, "min": low, "max": high}
        return pl.DataFrame({"feature": self.features, **columns})

    def read(self, date: str | dt.date) -> Arrays:
        """One date's arrays, verified."""
        (chosen,) = self._chosen([date])
        arrays = self.dataset.arrays(chosen)
        values = arrays["values"]
        observed = arrays["observed"] if "observed" in arrays else np.ones(values.shape, bool)
        return Arrays(values, observed, arrays["time"].view("datetime64[ns]"))

    def frame(self, dates: Dates = None, units: str = "raw", *, filled: bool = False) -> polars.DataFrame:
        """Tidy rows: time (in the dataset's zone), node, a column a feature; ordered by time, then node.

        Memory: of all the dates at once, 8 bytes a cell in raw units, 4 in scaled.

        Args:
            units: `raw` as in the dumps, categories as texts; or `scaled` as training reads them.
            filled: what was filled instead of null; a category that is not known stays null.
        """
        import polars as pl

        manifest, names = self.dataset.manifest, pl.Series("node", self.dataset.nodes.names, pl.String)
        frames = []
        for date in self._chosen(dates):
            arrays = self.read(date)
            steps, nodes, _ = arrays.values.shape
            cells = self._in_units(arrays.values, units)
            time = pl.Series("time", np.repeat(arrays.time, nodes)).dt.replace_time_zone("UTC")
            columns = {
                "time": time.dt.convert_time_zone(manifest.timezone),
                "node": names.gather(np.tile(np.arange(nodes), steps)),
            }
            for index, name in enumerate(self.features):
                column = self._column(index, np.ascontiguousarray(cells[..., index]).ravel(), units)
                seen = pl.Series(np.ascontiguousarray(arrays.observed[..., index]).ravel())
                columns[name] = column if filled else column.zip_with(seen, pl.Series([None], dtype=column.dtype))
            frames.append(pl.DataFrame(columns))
        if not frames:
            raise UsageError("no committed date is among those named", todo="See .dates")
        return pl.concat(frames)

    def _column(self, index: int, cells: NDArray[Any], units: str) -> polars.Series:
        import polars as pl

        if units == "scaled" or index not in (named := categorical(self.dataset.features)):
            return pl.Series(cells)
        texts = pl.Series([None, *self.dataset.vocabularies.names[named[index]]], dtype=pl.String)
        return texts.gather(cells.astype(np.int64))

    def xarray(self, dates: Dates = None, units: str = "raw") -> xarray.Dataset:
        """Returns `values` and `observed` over (time, node, feature), with the nodes' positions as coordinates.

        NaN in raw units where nothing was observed. A category stays its code: 1 + its place in attribute `categories`."""
        try:
            import xarray as xr
        except ImportError:
            raise UsageError("xarray is not installed", todo="Run: pip install 'dateshard[notebook]'") from None
        read = [self.read(date) for date in self._chosen(dates)]
        if not read:
            raise UsageError("no committed date is among those named", todo="See .dates")
        observed = np.concatenate([arrays.observed for arrays in read])
        values = np.concatenate([self._in_units(arrays.values, units) for arrays in read])
        values = np.where(observed, values, np.nan) if units == "raw" else values
        nodes, manifest, dimensions = self.dataset.nodes, self.dataset.manifest, ("time", "node", "feature")
        coordinates: dict[str, Any] = {"time": np.concatenate([arrays.time for arrays in read])}
        coordinates |= {"node": list(nodes.names), "feature": self.features}
        coordinates |= {axis: ("node", nodes.positions_NP[:, k]) for k, axis in enumerate(nodes.axes)}
        known = {"dataset": manifest.dataset, "generation": self.dataset.generation, "timezone": manifest.timezone}
        known |= {"units": units, "categories": self.dataset.vocabularies.describe()}
        return xr.Dataset({"values": (dimensions, values), "observed": (dimensions, observed)}, coordinates, known)

    def _in_units(self, values_TNF: NDArray[np.float32], units: str) -> NDArray[np.float32] | Floats:
        """Scaled values as they are, or raw ones in float64, without the digits that float32 never held."""
        if units not in UNITS:
            raise UsageError(f"units are raw or scaled, not '{units}'")
        if units == "scaled":
            return values_TNF
        return raw_units(self.dataset, values_TNF)

    def files(self, dates: Dates = None) -> list[str]:
        """The dates' Parquet files, for duckdb, polars, pandas or whoever reads them: verified, scaled and filled.

        A date that lies in parts of `store.nodes_per_part` nodes has a file a part.

        Raises:
            NotThereError: a date that is not stored as Parquet.
        """
        paths, manifest = list[str](), self.dataset.manifest
        for date in (chosen := self._chosen(dates)):
            for shard in manifest.dates[date].parts:
                if (stored := shard.formats.get("parquet")) is None:
                    todo = f"Set pipeline.store.formats: [zarr, parquet] and run: {command('preprocess', config=True)}"
                    raise NotThereError("the date is not stored as Parquet", where=Where(date=date), todo=todo)
                paths.append(str(stored_path(self.dataset.root, date, "parquet", stored)))
        for _, error in self.dataset.verify_dates(chosen, full=False):
            if error is not None:
                raise error
        return paths

    def windows(
        self,
        split: str,
        history: int | str,
        horizon: int,
        *,
        batch_size: int = 64,
        stride: int = 1,
        inputs: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        shuffle: bool = True,
        seed: int = 7,
        days_per_batch: int | str | None = None,
        policy: str = "auto",
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> Windows:
        """Batches of a split's windows for a loop of one's own, in the order of `dateshard train`, resumable at any batch.

        Args:
            history, horizon, stride: steps, as `trainer.window`.
            batch_size: windows of a batch, over all ranks together.
            inputs, targets: names of features; None: as `trainer.inputs` and `trainer.targets` when they are left out.
            shuffle: False: date order, as training reads its validation.
            seed, drop_last: as `trainer.training`. days_per_batch, policy: as `trainer.loading`.
            rank, world: this process gives windows rank, rank + world, ... of each batch.

        Raises:
            UsageError: what does not fit, with what would. StoreError: the dataset is not whole.
        """
        from dateshard.notebooks.windows import make_windows

        keys = {
            "window": {"history": history, "horizon": horizon, "stride": stride},
            "inputs": inputs,
            "targets": targets,
            "training": {"batch_size": batch_size, "seed": seed, "drop_last": drop_last},
            "loading": {"days_per_batch": days_per_batch, "policy": policy},
        }
        return make_windows(self.dataset, split, keys, shuffle=shuffle, rank=rank, world=world)

    def _chosen(self, dates: Dates) -> list[dt.date]:
        """Committed dates that selectors name.

        Raises:
            NotThereError: a date that is not committed, a selector that names none. UsageError: no selector.
        """
        if dates is None:
            return self.dates
        words = [str(word) for word in ([dates] if isinstance(dates, str | dt.date) else dates)]
        return committed_dates(self.dataset, words) if words else []
