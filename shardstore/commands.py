"""The commands that messages name, spelled so that the reader can type them: every hint and remedy comes from here.

A process stands at one door: the command line, which says how it was started and what it was given, or Python.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

PLACEHOLDER = ("-c", "CONFIG")


@dataclass(frozen=True, slots=True)
class Door:
    """Where a person stands.

    Attributes:
        program: the words that start dateshard, such as `.venv/bin/dateshard`; none in Python.
        words: the command as it was given. config: what names its configuration, KEY=VALUE included.
        alone: False in a script whose next line does what would be hinted at.
    """

    program: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    config: tuple[str, ...] = PLACEHOLDER
    alone: bool = True


PYTHON = Door()
_standing = PYTHON


def stand_at(door: Door) -> Door:
    """From now on messages are written for this door; returns the one before."""
    global _standing
    before, _standing = _standing, door
    return before


def door() -> Door:
    """Where messages are read."""
    return _standing


def command(*words: object, config: bool = False) -> str:
    """A command as a shell takes it, quoted where need be.

    Args:
        config: it needs the configuration that this command was given.
    """
    named = _standing.config if config else ()
    return shlex.join([*_program(), *map(str, words), *named])


def command_in(folder: str | os.PathLike[str], *words: object) -> str:
    """A command that is to run in another folder: it goes there, and a program named by its path is named by the whole."""
    if os.path.samefile(folder, "."):
        return command(*words)
    program = [os.path.abspath(word) if k == 0 and "/" in word else word for k, word in enumerate(_program())]
    return f"cd {shlex.quote(str(folder))} && {shlex.join([*program, *map(str, words)])}"


def _program() -> tuple[str, ...]:
    return _standing.program or ("dateshard",)


def to_run(*words: object, config: bool = False) -> str:
    """Returns the remedy that is a command, `Run: dateshard ...`; who called a function is told where."""
    return f"{by_door('Run', 'Run in a shell')}: {command(*words, config=config)}"


def by_door(shell: str, python: str) -> str:
    """The hint for who typed a command, or the one for who called a function."""
    return shell if _standing.program else python


def configuration_words(arguments: Sequence[str]) -> tuple[str, ...]:
    """What names the configuration in a command's words: each -c FILE, and KEY=VALUE in their order."""
    words: list[str] = []
    for before, word in itertools.pairwise(["", *arguments]):
        name, equals, value = word.partition("=")
        if before in ("-c", "--config"):
            words += ["-c", word]
        elif name == "--config" and equals:
            words += ["-c", value]
        elif word.startswith("-c") and len(word) > 2 and not word.startswith("--"):
            words += ["-c", word[2:]]
        elif equals and not word.startswith("-"):
            words.append(word)
    return tuple(words)
