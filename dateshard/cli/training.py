"""The commands train, estimate and evaluate: the online stage at the command line."""

from __future__ import annotations

import os
from typing import Any

import click

from dateshard.cli.options import (
    config_option,
    emit,
    json_option,
    needed_config_option,
    preset_option,
    quiet_option,
    settings_of,
    split_arguments,
    trust_option,
)
from dateshard.shardstore.commands import command, door
from dateshard.training.flags import FLAGS


def _flags(command: Any) -> Any:
    for name, path in reversed(FLAGS.items()):
        option = "--" + name.replace("_", "-")
        command = click.option(option, name, metavar="X", help=f"trainer.{path}")(command)
    return command


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@config_option
@click.option("--run", "name", metavar="NAME", help="name of a new run (default: dataset and time)")
@click.option(
    "--resume",
    default="none",
    metavar="none|auto|latest|best|RUN|PATH",
    help="auto: continue the newest run of these settings, or begin a new one; latest, best: continue the newest run from "
    "that checkpoint; RUN or PATH: continue that run or checkpoint. Without -c a run continues with its own settings",
)
@click.option("--save-dir", metavar="DIR", help="write the checkpoints of a new run directly into this folder")
@click.option(
    "--init-from", metavar="RUN|CHECKPOINT|X.pth", help="begin a new run with these weights, and nothing else of them"
)
@_flags
@preset_option
@click.option("--devices", metavar="N|all", help="train in N processes of this machine, or one for each accelerator")
@click.option("--dry-run", is_flag=True, help="try a step, a validation batch and a checkpoint; keeps nothing")
@click.option(
    "--overfit", type=click.IntRange(1), metavar="N", help="try whether the model can learn N batches by heart"
)
@trust_option
@json_option
@quiet_option
def train(
    words: tuple[str, ...],
    files: tuple[str, ...],
    preset: str | None,
    devices: str | None,
    dry_run: bool,
    overfit: int | None,
    trust: bool,
    as_json: bool,
    quiet: bool,
    name: str | None,
    resume: str,
    save_dir: str | None,
    init_from: str | None,
    **flags: str | None,
) -> int:
    """Train a model from shards, or continue a run from any checkpoint, to the same bits."""
    from dateshard.terminal.screen import Screen
    from dateshard.training.rehearsal_command import show_dry_run, show_overfit
    from dateshard.training.train import TrainRequest, configure
    from dateshard.training.train_command import train_to_the_end

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"train takes KEY=VALUE, not '{stray[0]}'.")
    overrides += [f"trainer.{FLAGS[flag]}={value}" for flag, value in flags.items() if value is not None]
    if ((dry_run or overfit) and resume not in ("none", "auto")) or (dry_run and (overfit or name)):
        raise click.UsageError("Give --dry-run or --overfit, without --resume (and --dry-run without --run).")
    if (dry_run or overfit) and (save_dir or init_from):
        raise click.UsageError(
            "--dry-run and --overfit save nothing and begin with new weights: leave --save-dir and --init-from out."
        )
    if (devices is not None or int(os.environ.get("WORLD_SIZE", "1")) > 1) and (dry_run or overfit):
        raise click.UsageError("--dry-run and --overfit run in one process: leave --devices and torchrun out.")
    if devices is not None and "RANK" not in os.environ:
        from dateshard.training.launch import number_of, train_in_processes

        return train_in_processes(door().words[1:], number_of(devices))
    settings = configure(files, overrides, resume, preset, trust=trust)
    screen = Screen(as_json=as_json, quiet=quiet, works=True)
    if dry_run:
        code, document = show_dry_run(settings, screen)
    elif overfit:
        code, document = show_overfit(settings, overfit, screen, name)
    else:
        code, document = train_to_the_end(settings, screen, TrainRequest(resume, name, save_dir, init_from))
    if as_json and document:  # only the first of several processes has one
        emit(document)
    return code


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@needed_config_option
@json_option
def estimate(words: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> int:
    """Show windows, batches, memory by days per block, and checkpoints of a training. Reads no data, writes nothing."""
    from dateshard.terminal.screen import Screen
    from dateshard.training.estimate import estimate as work_out
    from dateshard.training.estimate import show

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"estimate takes KEY=VALUE, not '{stray[0]}'.")
    settings = settings_of(files, overrides)
    document = work_out(settings)
    if as_json:
        emit(document)
    else:
        show(Screen(), document, settings)
    return 0


@click.command()
@click.argument("words", nargs=-1, metavar="[RUN] [KEY=VALUE]...")
@config_option
@click.option(
    "--checkpoint", "which", default="best", metavar="best|latest|NAME", help="which of the run's checkpoints"
)
@click.option("--split", default="test", metavar="train|validation|test", help="the dates to evaluate on")
@click.option(
    "--baselines",
    metavar="LIST",
    help="comma-separated: repeat, mean, majority, seasonal:STEPS, ridge, ridge:last, ridge:STEPS, logistic, "
    "my_module:forecast",
)
@click.option(
    "--baseline-windows",
    type=click.IntRange(1),
    metavar="N",
    help="judge functions of your own on N windows, spread evenly over the split, in a table of their own",
)
@click.option(
    "--forecasts",
    "table",
    metavar="FILE.parquet",
    help="also write truth and forecast of every window of the split, in raw units",
)
@click.option(
    "--report",
    "page",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="also write the run's report (default: data/runs/RUN/report.html)",
)
@trust_option
@json_option
def evaluate(
    words: tuple[str, ...],
    files: tuple[str, ...],
    which: str,
    split: str,
    baselines: str | None,
    baseline_windows: int | None,
    table: str | None,
    page: str | None,
    trust: bool,
    as_json: bool,
) -> int:
    """Compare a model with its baselines on the same windows; with -c FILE alone, show the baselines.

    RUN is a run's name, or `latest` for the newest (with -c FILE: the newest with those settings).
    """
    from pathlib import Path

    from dateshard.judging.judge import evaluate_config, evaluate_run, keep_forecasts, run_of, with_windows
    from dateshard.judging.tables import show, show_file
    from dateshard.terminal.screen import Screen

    names, overrides = split_arguments(words)
    if len(names) > 1:
        raise click.UsageError("Name one run.")
    if page is not None and (not names or which != "best"):
        raise click.UsageError("--report needs a RUN, and shows its best checkpoint.")
    if table is not None:
        from dateshard.judging.window_forecasts import refuse_name

        if not names:
            raise click.UsageError("--forecasts is of a RUN.")
        refuse_name(Path(table))
    screen = Screen(as_json=as_json)
    chosen = baselines.split(",") if baselines else None
    if names:
        if overrides and not files:
            raise click.UsageError("A run is evaluated with its own settings; name -c FILE to evaluate others.")
        like = settings_of(files, overrides) if files else None
        run = run_of(names[0], like, trust=trust)
        result, headline = evaluate_run(run, which, split, chosen, baseline_windows)
    elif not files:
        raise click.UsageError(
            f"Name a run (latest is the newest, {command('runs')} lists all), or -c FILE for baselines."
        )
    else:
        settings = with_windows(settings_of(files, overrides), baseline_windows)
        result, headline = evaluate_config(settings, split, chosen)
    if not as_json:
        screen.tell(headline)
        show(screen, result)
    written = keep_forecasts(run, which, split, Path(table)) if table is not None else None
    if written is not None:
        show_file(screen, written, names[0])
    if page is not None:
        from dateshard.cli.reporting import report_of, tell_report

        tell_report(screen, report_of(run, page or None, split))
    if as_json:  # last: where the page cannot be written, that is the one document
        emit({**result.to_json(), "forecasts": None if written is None else written.to_json()})
    return 0
