"""The commands report and show: one page of a run or of the data, and a run's curves in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dateshard.cli.options import (
    config_option,
    emit,
    json_option,
    settings_of,
    split_arguments,
    trust_option,
)
from dateshard.preparing.selectors import committed_dates

if TYPE_CHECKING:
    from dateshard.documents.reporting import ReportDocument
    from dateshard.terminal.screen import Screen
    from dateshard.trainer.runs.run_folder import TrainingRun


@click.command()
@click.argument("words", nargs=-1, metavar="[RUN] [KEY=VALUE]...")
@config_option
@click.option(
    "--data", is_flag=True, help="report the data instead: dates, features, missing cells, drift, nodes, rows"
)
@click.option(
    "--split", metavar="test|validation|train", help="the dates to evaluate on (default: test, else validation)"
)
@click.option(
    "-o",
    "--out",
    "--output",
    "output",
    metavar="FILE",
    help="default: data/runs/RUN/report.html, or data/reports/DATASET.html",
)
@click.option("--open", "show", is_flag=True, help="open the page in the browser")
@trust_option
@json_option
def report(
    words: tuple[str, ...],
    files: tuple[str, ...],
    data: bool,
    split: str | None,
    output: str | None,
    show: bool,
    trust: bool,
    as_json: bool,
) -> int:
    """Write one self-contained HTML page about a training run, or with --data about the data.

    RUN is a run's name, or `latest` for the newest (with -c FILE: the newest with those settings). Its best checkpoint is
    evaluated, unless it was evaluated before.
    """
    from pathlib import Path

    from dateshard.reports.page_files import refuse_no_page
    from dateshard.terminal.screen import Screen

    names, overrides = split_arguments(words)
    screen = Screen(as_json=as_json)
    if output:
        refuse_no_page(Path(output), "--out")
    if data:
        if names or split:
            raise click.UsageError(f"report --data takes KEY=VALUE, not '{names[0] if names else '--split'}'.")
        document = _of_data(screen, files, overrides, output)
    else:
        document = _of_run(screen, names, (files, overrides), (output, split), trust=trust)
    if as_json:
        emit(document)
    if show:
        click.launch(document["file"])
    return 0


def _of_run(
    screen: Screen,
    names: Sequence[str],
    configuration: tuple[Sequence[str], Sequence[str]],
    wanted: tuple[str | None, str | None],
    *,
    trust: bool,
) -> ReportDocument:
    from dateshard.judging.judge import run_of

    if len(names) != 1:
        raise click.UsageError("say what to report: report RUN, report latest, or report --data.")
    files, overrides = configuration
    if overrides and not files:
        raise click.UsageError("A run is evaluated with its own settings; KEY=VALUE goes with -c FILE and latest.")
    like = settings_of(files, overrides) if files else None
    document = report_of(run_of(names[0], like, trust=trust), *wanted)
    tell_report(screen, document)
    return document


def report_of(run: TrainingRun, output: str | None = None, split: str | None = None) -> ReportDocument:
    """Writes the page of a run, with what it became: a model of requests has sections of its own."""
    from dateshard.reports.making import write_report
    from dateshard.requests.request_sections import request_sections

    return write_report(run, output, split, more=request_sections)


def tell_report(screen: Screen, document: ReportDocument) -> None:
    """Where the page lies, how large it is, and how long the evaluation took or why there is none."""
    from dateshard.terminal.screen import seconds, size

    took = document["evaluated_seconds"]
    judged = f"  (evaluated {document['split']} in {seconds(took)})" if took is not None else ""
    if document["not_evaluated"]:
        judged = f"  (nothing is judged: {document['not_evaluated']})"
    screen.tell(f"{document['file']}  {size(document['bytes'])}{judged}")


def _of_data(screen: Screen, files: Sequence[str], overrides: Sequence[str], output: str | None) -> ReportDocument:
    from dateshard.cli.insight import open_dataset, read_survey
    from dateshard.reports.data_report.data_making import write_data_report
    from dateshard.terminal.chosen import taken
    from dateshard.terminal.screen import size
    from dateshard.trainer.setup import window_of

    files = taken(files)
    settings = settings_of(files, overrides)
    dataset = open_dataset(files, overrides)
    survey = read_survey(screen, dataset, committed_dates(dataset, ()))
    document, notes = write_data_report(survey, settings.preparing(), window_of(settings.trainer), output)
    for note in notes:
        screen.say(f"note: {note}")
    screen.tell(f"{document['file']}  {size(document['bytes'])}")
    for of in document["windows"] or ():
        if of["overlap"]:
            screen.tell(f"{100 * of['overlap']:.1f} % of the {of['split']} rows lie in a window of the training split")
    return document


@click.command()
@click.argument("name", required=False, metavar="[RUN]")
@click.option(
    "--open", "launch", is_flag=True, help="open its report in the browser; makes it first if it is missing or older"
)
@trust_option
@json_option
def show(name: str | None, launch: bool, trust: bool, as_json: bool) -> int:
    """Show the loss curves of RUN (default: the newest) in the terminal, its figures, and where its report is.

    Evaluates nothing: figures are those of the last evaluation. In a pipe a line an epoch, tab-separated.
    """
    from dateshard.reports.page_files import page_is_old, page_of
    from dateshard.reports.show import run_to_show, show_run, shown_run
    from dateshard.requests.request_sections import request_lines
    from dateshard.terminal.screen import Screen
    from dateshard.trust import settings_of_run

    run, screen = run_to_show(name), Screen(as_json=as_json)
    if trust:
        settings_of_run(run, trust=True)
    if launch and page_is_old(run.folder):
        tell_report(screen, report_of(run))
    document = shown_run(run)
    if as_json:
        emit(document)
    else:
        show_run(screen, run, document, request_lines(run.folder))
    if launch:
        click.launch(str(page_of(run.folder)))
    return 0
