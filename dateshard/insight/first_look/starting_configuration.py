"""Writes the configuration of a first look at somebody's own files, and says what it was guessed from."""

from __future__ import annotations

from pathlib import Path

from dateshard.insight.first_look.look import Guess, look_at
from dateshard.settings.resolved import check
from dateshard.shardstore.commands import command_in, door
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import UsageError
from dateshard.terminal.screen import Screen


def start_from(place: Path, top: Path, screen: Screen) -> None:
    """Looks at a file or folder and writes `configs/NAME.yaml` under `top`, if none is there.

    Raises:
        UsageError: there is no such file or folder, or its name cannot stand in a configuration.
        DumpError: nothing in it can be read or forecast.
    """
    guess = look_at(place, top)
    config = top / "configs" / f"{guess.dataset}.yaml"
    there = config.read_bytes() if config.exists() else None
    if there is None:
        _write(guess, config)
    _tell(guess, place, screen)
    if there is None:
        screen.tell(f"wrote {config}")
    elif there == guess.text.encode():
        screen.tell(f"kept {config}: it was there before")
    else:
        screen.tell(
            f"kept {config}: it was there before, and differs. To have a new one, move it away and run init again"
        )
        return  # what would be next is not for this data
    if door().alone:
        screen.tell(f"next: {command_in(top, 'preprocess', '-c', config.relative_to(top))}")


def _write(guess: Guess, config: Path) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    with appearing(config, durable=False) as temporary:
        temporary.write_text(guess.text)
        _, faults = check([str(temporary)], [])
        if faults:
            what = str(faults[0]).replace(str(temporary), str(config))
            raise UsageError(f"no configuration can name what is there: {what}", todo="Rename the files or columns")


def _tell(guess: Guess, place: Path, screen: Screen) -> None:
    screen.tell(f"guessed from {place}:")
    screen.table([[what, value, why] for what, value, why in guess.seen], wrap=True)
    if not guess.doubts:
        return
    screen.tell("not sure:")
    screen.table([[key, doubt] for doubt, key in guess.doubts], wrap=True)
