"""The command bench: what loading costs on this machine, with the user's own data."""

from __future__ import annotations

from pathlib import Path

import click

from dateshard.cli.options import (
    emit,
    json_option,
    needed_config_option,
    quiet_option,
    settings_of,
    split_arguments,
)


@click.group()
def bench() -> None:
    """Measure this machine with your own data."""


@bench.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@needed_config_option
@click.option("--plot", "plot", metavar="FILE.html", help="also write the table and a plot as a page")
@json_option
@quiet_option
def epoch(words: tuple[str, ...], files: tuple[str, ...], plot: str | None, as_json: bool, quiet: bool) -> int:
    """Train one epoch with all windows in RAM, date-batched, streaming, and from shards; compare memory and time.

    Nothing is kept of these trainings. All windows in RAM is skipped where they do not fit.
    """
    from dateshard.reports.epoch_bench_page import write_plot
    from dateshard.reports.page_files import refuse_no_page
    from dateshard.terminal.screen import Screen
    from dateshard.training.epoch_bench.bench_epoch import bench_epoch
    from dateshard.training.epoch_bench.bench_epoch_screen import progress_of, show_bench

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"bench epoch takes KEY=VALUE, not '{stray[0]}'.")
    if plot is not None:
        refuse_no_page(Path(plot), "--plot")
    screen = Screen(as_json=as_json, quiet=quiet, works=True)
    document = bench_epoch(settings_of(files, overrides), lambda row: screen.say(progress_of(row)))
    if plot is not None:
        write_plot(Path(plot), document)
        document["page"] = plot
    if as_json:
        emit(document)
    else:
        show_bench(screen, document)
        if plot is not None:
            screen.say(f"wrote {plot}")
    return 0
