"""The commands that forecast: predict, of what comes after raw dumps, and export-model, for programs without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dateshard.cli.options import (
    config_option,
    emit,
    json_option,
    quiet_option,
    settings_of,
    split_arguments,
    trust_option,
)
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted

if TYPE_CHECKING:
    from dateshard.judging.prediction import Prediction
    from dateshard.terminal.screen import Screen


def _level(_context: click.Context, _option: click.Parameter, text: str) -> float | None:
    if text == "none":
        return None
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0 < level < 1:
        raise click.BadParameter(f"'{text}' is not a share: write it as 0.9, or none.")
    return level


@click.command()
@click.argument("words", nargs=-1, metavar="RUN [KEY=VALUE]...")
@click.option(
    "--history",
    multiple=True,
    metavar="FILE",
    help="raw dumps before the forecast, as preprocess reads them: files, or a pattern with {date}; may be repeated",
)
@click.option(
    "--future",
    multiple=True,
    metavar="FILE",
    help="raw dumps of the steps that are forecast, with the features that are known ahead; repeatable",
)
@click.option("--until", metavar="INSTANT", help="the history ends here (default: with the last step that has a value)")
@click.option(
    "--at",
    metavar="INSTANT|latest",
    help="instead of dumps, take the history from the prepared dates before this (default: latest)",
)
@click.option(
    "--checkpoint", "which", default="best", metavar="best|latest|NAME", help="which of the run's checkpoints"
)
@click.option(
    "--interval",
    "level",
    default="0.9",
    callback=_level,
    metavar="SHARE|none",
    help="the share of targets that shall lie between low and high (default: 0.9)",
)
@click.option("--out", type=click.Path(), metavar="FILE", help="write the rows there: .csv or .parquet")
@config_option
@trust_option
@json_option
@quiet_option
def predict(
    words: tuple[str, ...],
    history: tuple[str, ...],
    future: tuple[str, ...],
    until: str | None,
    at: str | None,
    which: str,
    level: float | None,
    out: str | None,
    files: tuple[str, ...],
    trust: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Forecast what comes after raw dumps, in raw units. In a pipe the output is CSV.

    RUN is a run's name, a checkpoint's folder, or `latest`. The dumps are decoded and scaled as the run's dataset
    was. Without --history the forecast follows the last prepared date. -c FILE is needed only if the dataset was
    prepared by an older version.
    """
    import sys
    from pathlib import Path

    from dateshard.judging import forecast_table
    from dateshard.judging.prediction import PredictRequest, predict_run
    from dateshard.terminal.screen import Screen

    names, overrides = split_arguments(words)
    if len(names) != 1:
        files_too = "; before each further file of the history say --history" if len(names) > 1 and history else ""
        raise click.UsageError(f"Name one run (latest is the newest, {command('runs')} lists all){files_too}.")
    if overrides and not files:
        raise click.UsageError("A run forecasts with its own settings; KEY=VALUE is for a configuration named with -c.")
    if out:
        forecast_table.refuse_file(Path(out))
    settings = settings_of(files, overrides) if files else None
    pipeline = settings.preparing() if settings else None
    bounds = settings.trainer.bounds or None if settings else None
    screen = Screen(as_json=as_json or not (out or sys.stdout.isatty()), quiet=quiet)
    made = predict_run(
        PredictRequest(
            run=names[0],
            history=history,
            future=future,
            until=until,
            at=at,
            checkpoint=which,
            interval=level,
            pipeline=pipeline,
            bounds=bounds,
            trust=trust,
        )
    )
    _show(made, screen, out, as_json=as_json)
    return 0


def _show(made: Prediction, screen: Screen, out: str | None, *, as_json: bool) -> None:
    """The headline, and the rows where they are asked for: a file, a document, the terminal or a pipe."""
    from pathlib import Path

    from dateshard.judging import forecast_table, prediction_screen
    from dateshard.shardstore.disk.naming import naming

    prediction_screen.headline(screen, made)
    if out:
        forecast_table.write(made.frame, Path(out))
        screen.tell(f"{counted(made.frame.height, 'row')}: {out}")
    if as_json:
        emit(prediction_screen.document(made))
    elif not out and screen.terminal:
        prediction_screen.rows(screen, made)
    elif not out:
        with naming("standard output"):
            click.echo(forecast_table.as_csv(made.frame), nl=False)  # names as they are: docs/decisions/0047


@click.command(name="export-model")
@click.argument("run", metavar="RUN")
@click.option("--onnx", "file", type=click.Path(), required=True, metavar="FILE", help="the file to write")
@click.option(
    "--checkpoint", "which", default="best", metavar="best|latest|NAME", help="which of the run's checkpoints"
)
@click.option("--force", is_flag=True, help="replace existing files")
@trust_option
@json_option
@quiet_option
def export_model(run: str, file: str, which: str, force: bool, trust: bool, as_json: bool, quiet: bool) -> int:
    """Write a run's model as an ONNX file, for programs that have no torch. Needs the extra `onnx`.

    The graph takes raw values, which of them were observed, and time codes, for any number of windows, and gives the
    forecast in raw units: fill, transform, scale and bounds are in it. FILE.json says what its inputs and outputs are.
    Before it is written, onnxruntime must forecast what torch forecasts.
    """
    from pathlib import Path

    from dateshard.judging.exporting.onnx_file import export_model as write
    from dateshard.terminal.screen import Screen, size

    document = write(run, which, Path(file), force=force, trust=trust)
    if as_json:
        emit(document)
        return 0
    screen = Screen(quiet=quiet)
    inputs, outputs = (
        ", ".join(f"{each['name']} [{', '.join(map(str, each['shape']))}]" for each in document[side])
        for side in ("inputs", "outputs")
    )
    screen.tell(f"run {document['run']}, {document['checkpoint']}: {file} ({size(document['bytes'])}), {file}.json")
    screen.tell(f"in   {inputs}")
    screen.tell(f"out  {outputs}")
    screen.tell(f"onnxruntime differs from torch by {document['difference']:.1e} of a forecast at most")
    for note in document["notes"]:
        screen.tell(note)
    return 0
