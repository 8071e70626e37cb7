"""Which configuration a command takes where none is named: the only one of `configs/`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dateshard.shardstore.commands import PLACEHOLDER, command, configuration_words, door
from dateshard.shardstore.errors import UsageError, shorten
from dateshard.terminal.screen import put

ENDINGS = (".yaml", ".yml")
NAMED = re.compile(
    rb"^dataset\s*:[ \t'\"]*([\w.-]*)", re.MULTILINE
)  # an overlay names none, and is no configuration alone
OVERRIDE = re.compile(r"(dataset|pipeline\.[^=]+|trainer\.[^=]+)=")  # a file's name may hold an = as well
LISTED, FIRST_BYTES = 8, 64 << 10


def configurations() -> list[Path]:
    """The files of `configs/` that are whole configurations, by name."""
    paths = sorted(path for path in Path("configs").glob("*") if path.suffix in ENDINGS)
    return [path for path in paths if _names_a_dataset(path)]


def _names_a_dataset(path: Path) -> bool:
    return bool(_dataset_of(path))


def _dataset_of(path: Path) -> str:
    """The dataset that a configuration's file names, as far as its first bytes tell; empty where it names none."""
    try:
        with open(path, "rb") as file:
            named = NAMED.search(file.read(FIRST_BYTES))
    except OSError:
        return ""
    return named[1].decode(errors="replace").strip() or "?" if named else ""


def configuration_for(dataset: str | None) -> tuple[str, ...]:
    """What names the configuration of a dataset: the only file of `configs/` that has it; else a placeholder."""
    there = [path for path in configurations() if _dataset_of(path) == dataset]
    return ("-c", str(there[0])) if len(there) == 1 else PLACEHOLDER


def configuration_of(words: Sequence[str]) -> tuple[str, ...]:
    """What names the configuration in the commands that messages print: as given, or the only one; else a placeholder.

    KEY=VALUE is kept with the only one too."""
    given = configuration_words(words)
    if "-c" in given:
        return given
    there = configurations()
    return ("-c", str(there[0]), *filter(OVERRIDE.match, given)) if len(there) == 1 else PLACEHOLDER


def taken(files: Sequence[str]) -> tuple[str, ...]:
    """The files that a command named; the only one there is where it named none, which is said.

    Raises:
        UsageError: there are several, or none.
    """
    if files:
        return tuple(files)
    file = only_one()
    first = os.environ.get("RANK", "0") == "0"  # of several processes
    if first and not {"-q", "--quiet"} & set(door().words):
        put(f"configuration {file}, the only one in configs/", sys.stderr)
    return (file,)


def only_one() -> str:
    """The file of the only configuration.

    Raises:
        UsageError: there are several, with the command for the first of them; or none.
    """
    there = [str(path) for path in configurations()]
    if len(there) == 1:
        return there[0]
    if not there:
        todo = f"Write one by a look at your data: {command('init', '--from', 'FILE')}; or name one with -c"
        raise UsageError("no configuration is named, and configs/ holds none", todo=todo)
    names = ", ".join(there[:LISTED]) + (", ..." if len(there) > LISTED else "")
    todo = f"Name one of them: {command(*door().words, '-c', there[0])}"
    raise UsageError(f"no configuration is named, and there are {len(there)}: {names}", todo=todo)


def refuse_as_word(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuses a configuration's file among the words of a command.

    Raises:
        UsageError: a word of a command is a configuration's file.
    """
    for word in (value,) if isinstance(value, str) else value or ():
        if word.endswith(ENDINGS) and Path(word).is_file():
            words = [
                word_given for given in door().words for word_given in (("-c", given) if given == word else (given,))
            ]
            raise click.UsageError(f"{shorten(word, 200)} is a file; name a configuration with -c: {command(*words)}")
    return value
