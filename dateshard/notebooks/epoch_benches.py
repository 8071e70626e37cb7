"""Compares the ways to feed an epoch, as a table and a plot: `bench epoch` as a function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dateshard.documents.benching import BenchEpochDocument
from dateshard.notebooks.configured import Config, settings_from
from dateshard.reports.epoch_bench_page import plot_of
from dateshard.terminal.screen import screen_of
from dateshard.training.epoch_bench import bench_epoch as benching
from dateshard.training.epoch_bench.bench_epoch_screen import progress_of, table_as_text

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True, slots=True, repr=False)
class EpochBench:
    """A comparison: printed it is a table.

    Attributes:
        document: what `bench epoch --json` prints; docs/json.md describes it.
    """

    document: BenchEpochDocument

    def __repr__(self) -> str:
        return table_as_text(self.document)

    @property
    def table(self) -> polars.DataFrame:
        """A row a way: windows, batches, bytes, seconds, losses, and why it was skipped."""
        import polars as pl

        return pl.DataFrame(self.document["ways"], infer_schema_length=None)

    @property
    def plot(self) -> EpochPlot:
        """The bars of memory, times and loss, which a notebook draws."""
        return EpochPlot(plot_of(self.document))


@dataclass(frozen=True, slots=True)
class EpochPlot:
    """A picture as HTML, which a notebook draws."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"a plot, {len(self.html):,} characters of HTML: .html"


def bench_epoch(config: Config | None = None, *, progress: bool = True, **settings: Any) -> EpochBench:
    """Trains one epoch with all windows in RAM, date-batched, streaming and from shards, each in a process of its own.

    All windows in RAM are skipped where they do not fit what is free. Nothing is kept of these trainings.

    Args:
        config: a file, a tree of plain values, or several of both, of which later ones win.
        progress: show a line a way; False: show nothing.
        settings: `dataset`, `pipeline`, `trainer`, keys by their place, or the short names of the command.

    Raises:
        UsageError: the model is not trained by batches. StoreError: the dataset is not ready.
    """
    screen = screen_of(progress=progress)
    document = benching.bench_epoch(settings_from(config, settings), lambda row: screen.say(progress_of(row)))
    return EpochBench(document)
