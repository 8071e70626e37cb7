"""The commands inspect, statistics and diff: what is in the data, and what changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from dateshard.cli.options import emit, json_option, needed_config_option, settings_of, split_arguments
from dateshard.preparing.selectors import committed_dates

if TYPE_CHECKING:
    import datetime as dt

    from dateshard.insight.survey import DataSurvey
    from dateshard.shardstore.dataset import Dataset
    from dateshard.terminal.screen import Screen


@click.command(name="inspect")
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option(
    "--rows", type=click.IntRange(0), default=5, show_default=True, help="how many cells of the first date to show"
)
@json_option
def inspect(words: tuple[str, ...], files: tuple[str, ...], rows: int, as_json: bool) -> int:
    """Show what the shards of DATES (default: all) hold: features, shape, missing share, raw and scaled figures."""
    from dateshard.insight.figures import first_rows, inspection
    from dateshard.insight.insight_screen import show_inspection
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    screen = Screen(as_json=as_json)
    dataset = open_dataset(files, overrides)
    dates = committed_dates(dataset, selectors)
    survey = read_survey(screen, dataset, dates)
    shown = first_rows(dataset, dates[0], rows) if rows and dates else []
    document = inspection(dataset, survey, shown)
    if as_json:
        emit(document)
    else:
        show_inspection(screen, document)
    return 0


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option(
    "--by-date", "by_date", is_flag=True, help="those of each date: missing share, mean, std, min, max, quartiles"
)
@click.option("--drift", is_flag=True, help="how far each date is from the training data, the farthest first")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="how many rows of --drift and nodes to show"
)
@click.option("--measure", is_flag=True, help="nothing is prepared yet: measure them in one pass, and write no shard")
@json_option
def statistics(
    words: tuple[str, ...], files: tuple[str, ...], by_date: bool, drift: bool, limit: int, measure: bool, as_json: bool
) -> int:
    """Show the frozen global statistics and the dates that they are from, those of each date, or unusual dates."""
    from dateshard.insight.figures import by_date as rows_by_date
    from dateshard.insight.figures import drift_rows, global_statistics
    from dateshard.insight.insight_screen import show_statistics
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    if selectors and not (by_date or drift):
        raise click.UsageError("dates go with --by-date or --drift: the global statistics are of the training data.")
    screen = Screen(as_json=as_json)
    if measure:
        measured(files, overrides)
    dataset = open_dataset(files, overrides)
    document = global_statistics(dataset, limit)
    if by_date or drift:
        dates = committed_dates(dataset, selectors)
        training = [date for date, _ in dataset.statistics.sources if drift and date in dataset.manifest.dates]
        survey = read_survey(screen, dataset, sorted({*dates, *training}))
        if by_date:
            document["by_date"] = rows_by_date(survey, dates)
        if drift:
            rows = drift_rows(survey, dates)
            document["drift"], document["drift_left_out"] = rows[:limit], max(len(rows) - limit, 0)
    if as_json:
        emit(document)
    else:
        show_statistics(screen, document, dataset.manifest)
    return 0


@click.command()
@click.argument("words", nargs=-1, metavar="[FROM] [TO] [KEY=VALUE]...")
@needed_config_option
@json_option
def diff(words: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> int:
    """Show what changed between two generations (g12 g13; default: the last two): dates, statistics, nodes, settings."""
    from dateshard.insight.comparison import comparison, two_generations
    from dateshard.insight.insight_screen import show_comparison
    from dateshard.places import shards_folder
    from dateshard.shardstore.dataset import Dataset
    from dateshard.terminal.screen import Screen

    chosen, overrides = split_arguments(words)
    root = shards_folder(settings_of(files, overrides).dataset)
    first, last = two_generations(root, chosen)
    newer = Dataset.open(root, last)
    document = comparison(Dataset.open(root, first), newer)
    if as_json:
        emit(document)
    else:
        show_comparison(Screen(), document, manifest=newer.manifest)
    return 0


def open_dataset(files: Sequence[str], overrides: Sequence[str]) -> Dataset:
    """The current generation of the configuration's dataset."""
    from dateshard.places import shards_folder
    from dateshard.shardstore.dataset import Dataset

    return Dataset.open(shards_folder(settings_of(files, overrides).dataset))


def measured(files: Sequence[str], overrides: Sequence[str]) -> None:
    """Measures and commits the statistics of the configuration's dataset."""
    from dateshard.preparing.statistics_source import measure_alone

    measure_alone(settings_of(files, overrides))


def read_survey(screen: Screen, dataset: Dataset, dates: Iterable[dt.date]) -> DataSurvey:
    """Reads the dates, with a bar."""
    from dateshard.insight.survey import DataSurvey

    survey, chosen = DataSurvey(dataset=dataset), list(dates)
    bar = screen.bar("dates", len(chosen))
    try:
        for date in chosen:
            survey.add(date)
            bar.advance()
    finally:
        bar.close()
    return survey
