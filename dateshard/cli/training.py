"""The commands train, estimate and evaluate: the online stage at the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from dateshard.documents.runs import SeedsDocument
    from dateshard.settings import Settings
    from dateshard.terminal.screen import Screen


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
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    metavar="N",
    help="train N runs, with seeds from training.seed on, and show mean and spread of their figures; again: goes on",
)
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
    seeds: int | None,
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
    if seeds is not None:
        _refuse_beside_seeds(
            resume=resume, save_dir=save_dir, as_json=as_json and devices is not None, tries=dry_run or bool(overfit)
        )
    num_processes = 1
    if devices is not None and "RANK" not in os.environ:
        from dateshard.training.launch import number_of, train_in_processes

        num_processes = number_of(devices)
        if seeds is None:
            return train_in_processes(door().words[1:], num_processes)
    settings = configure(files, overrides, resume, preset, trust=trust)
    screen = Screen(as_json=as_json, quiet=quiet, works=True)
    document: Any
    if seeds is not None:
        code, document = _train_seeds(settings, seeds, name, init_from, screen, num_processes)
    elif dry_run:
        code, document = show_dry_run(settings, screen)
    elif overfit:
        code, document = show_overfit(settings, overfit, screen, name)
    else:
        code, document = train_to_the_end(settings, screen, TrainRequest(resume, name, save_dir, init_from))
    if as_json and document:  # only the first of several processes has one
        emit(document)
    return code


def _refuse_beside_seeds(*, resume: str, save_dir: str | None, as_json: bool, tries: bool) -> None:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    given = {
        "--resume": resume != "none",
        "--save-dir": save_dir,
        "torchrun": several,
        "--json (with --devices)": as_json,
    }
    if wrong := [option for option, there in {**given, "--dry-run and --overfit": tries}.items() if there]:
        raise click.UsageError(f"--seeds trains several runs, one after the other: leave {wrong[0]} out.")


def _train_seeds(
    settings: Settings, count: int, name: str | None, init_from: str | None, screen: Screen, num_processes: int
) -> tuple[int, SeedsDocument]:
    from dateshard.bookkeeping.judged_runs import judge_where_it_goes, show_judged
    from dateshard.judging.judge import run_of
    from dateshard.training.seeds import name_of, seeds_of, train_seeds

    stem, code, runs = name_of(name, settings), 0, list[str]()
    document: SeedsDocument = {"name": stem, "trainings": [], "judged": None}
    for run, ended, training in train_seeds(
        settings, seeds_of(settings, count), stem, init_from, screen, num_processes
    ):
        runs.append(run)
        document["trainings"].append(training)  # type: ignore[arg-type]
        code = code or ended
    if code == 0:
        document["judged"] = judge_where_it_goes([run_of(run) for run in runs])
    if document["judged"] is not None:
        show_judged(screen, document["judged"])
    elif code == 0:
        screen.tell(f"There is no test or validation window to judge them by. See: {command('compare', *runs)}")
    return code, document


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
@click.argument("words", nargs=-1, metavar="[RUN]... [KEY=VALUE]...")
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

    RUN is a run's name, or `latest` for the newest (with -c FILE: the newest with those settings). Of several runs mean and
    spread of their figures are shown.
    """
    from pathlib import Path

    from dateshard.judging.judge import evaluate_config, evaluate_run, keep_forecasts, run_of, with_windows
    from dateshard.judging.tables import show, show_file
    from dateshard.terminal.screen import Screen

    names, overrides = split_arguments(words)
    if len(names) > 1:
        given = (files, overrides, table, page is not None, baseline_windows)
        return _evaluate_several(names, (which, split, baselines), given, trust=trust, as_json=as_json)
    _refuse_without_a_run(names, which, table, page)
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


def _refuse_without_a_run(names: Sequence[str], which: str, table: str | None, page: str | None) -> None:
    """Refuses, before anything is evaluated, files that are of a run where there is none, or cannot be written."""
    from pathlib import Path

    if page is not None and (not names or which != "best"):
        raise click.UsageError("--report needs a RUN, and shows its best checkpoint.")
    if page:
        from dateshard.reports.page_files import refuse_no_page

        refuse_no_page(Path(page), "--report")
    if table is not None:
        from dateshard.judging.window_forecasts import refuse_name

        if not names:
            raise click.UsageError("--forecasts is of a RUN.")
        refuse_name(Path(table))


def _evaluate_several(
    names: Sequence[str], wanted: tuple[str, str, str | None], given: tuple[Any, ...], *, trust: bool, as_json: bool
) -> int:
    from dateshard.bookkeeping.judged_runs import judge_runs, show_judged
    from dateshard.judging.judge import run_of
    from dateshard.terminal.screen import Screen

    of_one = ("-c FILE", "KEY=VALUE", "--forecasts", "--report", "--baseline-windows")
    if wrong := [option for option, there in zip(of_one, given, strict=True) if there]:
        raise click.UsageError(f"{wrong[0]} is of one run: name one.")
    which, split, baselines = wanted
    runs = [run_of(name, trust=trust) for name in names]
    document = judge_runs(runs, which, split, baselines.split(",") if baselines else None)
    if as_json:
        emit(document)
    else:
        show_judged(Screen(), document)
    return 0
