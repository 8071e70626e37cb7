"""Options that commands share, and what they are turned into."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dateshard.terminal.screen import in_a_line, put_document

if TYPE_CHECKING:
    from dateshard.settings import Settings

Command = Callable[..., Any]
TEXTS, NUMBERS = {str, type(None)}, {int, float, bool, type(None)}


def config_option(command: Command) -> Command:
    """Adds `-c/--config FILE`, repeatable, later wins, to a command that can do without."""
    return _config_option("configuration file; may be repeated, later ones win")(command)


def needed_config_option(command: Command) -> Command:
    """Adds `-c/--config FILE` to a command that needs one: the only one in configs/ where none is named."""
    return _config_option(
        "configuration file; may be repeated, later ones win (default: the only one in configs/)", _taken
    )(command)


def _config_option(words: str, callback: Command | None = None) -> Callable[[Command], Command]:
    return click.option(
        "-c", "--config", "files", multiple=True, type=click.Path(), metavar="FILE", help=words, callback=callback
    )


def _taken(context: click.Context, _option: click.Parameter, files: tuple[str, ...]) -> tuple[str, ...]:
    from dateshard.terminal.chosen import taken

    return files if context.resilient_parsing else taken(files)  # TAB says nothing


def preset_option(command: Command) -> Command:
    """Adds `--preset`: settings for a kind of machine, below the user's own files."""
    return click.option(
        "--preset",
        metavar="auto|cpu|gpu",
        help="default settings for that kind of machine; your own files override them",
    )(command)


def json_option(command: Command) -> Command:
    """Adds `--json`: one document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout, the rest on stderr")(
        command
    )


def emit(document: object) -> None:
    """The one document on stdout. Valid JSON whatever it holds: a figure that is not finite becomes null."""
    put_document(_finite(document), in_lines=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        if _are_plain(value):
            return value
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _are_plain(values: Sequence[Any]) -> bool:
    """Whether texts or finite numbers are all that stands there, as in a list of thousands of nodes."""
    kinds = {*map(type, values)}
    return kinds <= TEXTS or (kinds <= NUMBERS and all(map(math.isfinite, filter(None, values))))


def trust_option(command: Command) -> Command:
    """Adds `--trust`: code that a folder from elsewhere names may be imported."""
    return click.option(
        "--trust", is_flag=True, help="allow the import of code that a run from elsewhere names; remembered"
    )(command)


def quiet_option(command: Command) -> Command:
    """Adds `-q/--quiet`: only errors and the result are shown."""
    return click.option("-q", "--quiet", is_flag=True, help="only errors and the result")(command)


def split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits words into (date selectors, KEY=VALUE overrides)."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def settings_of(files: Sequence[str], overrides: Sequence[str]) -> Settings:
    """The configuration of a command."""
    from dateshard.settings import load_settings

    return load_settings(files, overrides)


def agreed(question: str) -> bool:
    """Asks on the terminal before something goes.

    Raises:
        UsageError: there is no terminal.
    """
    import sys

    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask: add -y to do it, or --dry-run to see what it would do.")
    return click.confirm(in_a_line(question), err=True)
