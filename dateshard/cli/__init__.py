"""The command line. The root knows every command's name and one line of help; a command's file is imported when used."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from importlib import import_module

import click

from dateshard.shardstore.commands import Door, command, stand_at
from dateshard.shardstore.errors import DateshardError, UsageError, of_memory, of_system, shorten
from dateshard.terminal.chosen import configuration_of, refuse_as_word
from dateshard.terminal.screen import in_a_line, put, put_document

COMMANDS = {
    "init": ("starting", "write a starter configuration, from a look at your own data or for an example"),
    "plan": ("preparing", "show what preprocess would do, and why; writes nothing"),
    "preprocess": ("preparing", "make normalised shards of the dumps, for dates that are not fresh"),
    "status": ("preparing", "show the state of every date, with the reason"),
    "verify": ("preparing", "hash every committed file; name damaged ones and the command that mends them"),
    "inspect": ("insight", "show what the shards hold, in raw and scaled units"),
    "statistics": ("insight", "show the global statistics, those of each date, and which dates are unusual"),
    "diff": ("insight", "show what changed between two generations of the dataset"),
    "report": ("reporting", "write one HTML page about a training run, or with --data about the data"),
    "drop": ("store", "take dates out of the dataset; nothing is deleted"),
    "clean": ("store", "remove what no kept generation and no training run needs"),
    "export": ("store", "write shards as Parquet, CSV or npy, in raw units"),
    "train": ("training", "train a model from shards, or continue exactly from a checkpoint"),
    "estimate": ("training", "show the memory, batches and disk that a training would take"),
    "bench": ("benching", "measure an epoch in RAM, date-batched, streaming and from shards, on your data"),
    "evaluate": ("training", "compare a model with its baselines, in scaled and raw units"),
    "backtest": ("backtesting", "train and judge at several origins in time, and show how far they differ"),
    "predict": ("predicting", "forecast with a run's model what comes after raw dumps, with intervals"),
    "export-model": ("predicting", "write a run's model as an ONNX file, with raw values in and out"),
    "requests": ("requests", "forecast LLM request traces: the next request, and the load some minutes ahead"),
    "runs": ("runs", "list training runs, newest first, with their state and how to continue them"),
    "show": ("reporting", "show a run's loss curves in the terminal, its figures, and where its report is"),
    "compare": ("runs", "compare runs: settings that differ, outcomes, loss curves"),
    "tail": ("runs", "print the last lines of a run's metrics, and new ones until it ends"),
    "replay": ("runs", "take one step of a run again to the bit, and trace its losses to rows of the dumps"),
    "checkpoints": ("checkpoints", "list, verify, load, export, copy, clean and pin the checkpoints of a run"),
    "serve": ("serving", "start, watch, pause and resume trainings over HTTP"),
    "jobs": ("jobs", "start, watch, pause, resume and stop the trainings of a service"),
    "token": ("serving", "make, list and revoke the tokens that callers of the service send"),
    "config": ("configuring", "show the resolved configuration, or check it"),
    "schema": ("configuring", "print the JSON Schema of the configuration, or of a command's --json output"),
    "doctor": ("starting", "check whether this installation and this disk work"),
    "completion": ("starting", "print TAB completion for bash, zsh or fish"),
    "version": ("starting", "print the versions of dateshard and its libraries"),
}


class LazyGroup(click.Group):
    """Imports a command's file only when that command runs or shows its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        loaded = getattr(import_module(f"dateshard.cli.{COMMANDS[name][0]}"), name.replace("-", "_"))
        assert isinstance(loaded, click.Command)
        _refuse_files(loaded)
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


def _refuse_files(loaded: click.Command) -> None:
    """No word of a command is a configuration's file: that is named with -c."""
    for parameter in loaded.params:
        if isinstance(parameter, click.Argument) and parameter.callback is None:
            parameter.callback = refuse_as_word
    for inner in loaded.commands.values() if isinstance(loaded, click.Group) else ():
        _refuse_files(inner)


def _hyphens(name: str) -> str:
    """Spells an option with hyphens: `--save_freq` is `--save-freq`."""
    return name.replace("_", "-")


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _hyphens},
    epilog="Begin with: dateshard init, or dateshard init --example flights",
)
def root() -> None:
    """Turn raw daily dumps into normalised shards, train models from them, and resume a training at any batch."""


def run(arguments: list[str], program: tuple[str, ...] = ("dateshard",)) -> int:
    """Runs one command and returns the exit code (docs/commands.md lists them).

    Args:
        program: the words that started this process; what it prints to be run begins with them.
    """
    words, alone = tuple(arguments), "DATESHARD_STEP" not in os.environ
    before = stand_at(Door(program, words, configuration_of(words), alone))
    try:
        return _run(arguments)
    finally:
        stand_at(before)


def _run(arguments: list[str]) -> int:
    try:
        named = {"prog_name": command(), "complete_var": "_DATESHARD_COMPLETE"}
        code = root.main(args=arguments, standalone_mode=False, **named)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        _as_document("usage", error.format_message(), error.exit_code, arguments)
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # a help has many lines
            error.message = in_a_line(error.message)  # type: ignore[misc] # words of the command line stand in it
        said = io.StringIO()
        error.show(said)
        _complain(said.getvalue().rstrip("\n"), lines=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        text = "interrupted; what was committed stays; run the same command again to continue"
        _as_document("interrupted", text, 130, arguments)
        _complain(text)
        return 130
    except DateshardError as error:
        return report(error, arguments)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except UnicodeEncodeError as error:
        what = f"a name cannot be written: {shorten(error.object)} ({error.encoding}: {error.reason})"
        return report(UsageError(what, todo="Rename it, or set PYTHONUTF8=1 for names that are UTF-8"), arguments)
    except (OSError, MemoryError, RuntimeError) as error:
        failure: DateshardError | None = of_memory(error)
        if failure is None and isinstance(error, OSError):
            failure = of_system(error)
        if failure is None:
            raise
        return report(failure, arguments)


def report(error: DateshardError, arguments: list[str]) -> int:
    """Prints one error: what, where, what to do; as JSON too where JSON was asked for."""
    text = str(error)
    first = error.__cause__ if isinstance(error.__cause__, DateshardError) else None  # people were told of it before
    whole = f"{text} First failure: {first}" if first else text
    _as_document(error.kind, whole, error.exit_code, arguments)
    _complain(f"Error: {text}", lines=bool(getattr(error, "faults", ())))  # those of a configuration: a line each
    return error.exit_code


def _complain(text: str, *, lines: bool = False) -> None:
    """Prints an error on stderr. Where that goes to the same full disk, the exit code still tells."""
    with suppress(OSError):
        put(text, sys.stderr, lines=lines)


def _as_document(kind: str, text: str, code: int, arguments: list[str]) -> None:
    """An error as the one document on stdout, where --json asked for one."""
    if "--json" in arguments:
        with suppress(OSError):
            put_document({"error": {"kind": kind, "message": text, "exit_code": code}})
