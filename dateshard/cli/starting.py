"""The commands init, doctor, completion and version: the first minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dateshard.cli.options import config_option, emit, json_option, split_arguments
from dateshard.shardstore.commands import command_in, door
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import put

if TYPE_CHECKING:
    from dateshard.documents.configuring import DoctorDocument


@click.command()
@click.argument("folder", default=".", metavar="[DIR]")
@click.option(
    "--example",
    type=click.Choice(["flights", "traffic", "sensors", "tabular", "requests"]),
    help="an example with its data: flights (real), or traffic, sensors, tabular, requests (generated)",
)
@click.option(
    "--from",
    "place",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="your own raw data: writes a configuration that reads them, and says what was guessed from what",
)
@click.option("--dates", "num_dates", type=int, metavar="N", help="traffic: how many dates, default 60")
@click.option("--sensors", "num_sensors", type=int, metavar="N", help="traffic: how many sensors, default 64")
def init(folder: str, example: str | None, place: Path | None, num_dates: int | None, num_sensors: int | None) -> None:
    """Write a starter configuration, from a look at your own raw data or for an example with its data.

    Never overwrites a file."""
    from dateshard.examples import STARTER, configuration, contents, write_missing
    from dateshard.places import data_folder
    from dateshard.shardstore.disk.durable import appearing

    if not example and (num_dates is not None or num_sensors is not None):
        raise click.UsageError("--dates and --sensors are for --example traffic")
    if place is not None and example:
        raise click.UsageError("--from is for your own data, and --example brings its own")
    top = Path(folder)
    if place is not None:
        from dateshard.insight.first_look.starting_configuration import start_from
        from dateshard.terminal.screen import Screen

        top.mkdir(parents=True, exist_ok=True)
        start_from(place, top, Screen())
        return
    name = example or "mydata"
    raw = top / data_folder() / "raw" / name
    wanted = contents(name, raw, num_dates, num_sensors) if example else None  # refuses before anything is written
    config = top / "configs" / f"{name}.yaml"
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        with appearing(config, durable=False) as temporary:
            temporary.write_text(configuration(example) if example else STARTER)
        put(f"wrote {config}")
    else:
        put(f"kept {config}: it was there before" + ("" if _as_shipped(config, example) else ", and differs"))
    if wanted is not None:
        written = write_missing(raw, wanted)
        there = len(list(raw.glob("*.csv")))
        files = counted(there, "file") if written else counted(there, "file is", "files are")
        put(f"{raw}: {files}, {written} written now" if written else f"{raw}: {files} there")
    following = command_in(top, "preprocess", "-c", config.relative_to(top))
    if example == "requests":
        following = command_in(top, "requests", "train", "--data-path", (raw / f"{name}.csv").relative_to(top))
    if example:
        if door().alone:
            put(f"next: {following}")
        return
    put(f"next: say in {config} where your dumps lie (now {raw}/{{date}}.csv) and what their columns are,")
    put(f"then: {following}")


def _as_shipped(config: Path, example: str | None) -> bool:
    """Whether a configuration is still the one that `init` writes."""
    from dateshard.examples import STARTER, configuration

    return config.read_bytes() == (configuration(example) if example else STARTER).encode()


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@config_option
@json_option
def doctor(words: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> int:
    """Check whether this installation works, which one it is, and whether this disk suits a store. Exit 1 if not.

    With -c FILE also: is that configuration right, and are its dumps and its store there.
    """
    from dateshard.insight.doctor import examine, examine_configuration
    from dateshard.places import data_folder
    from dateshard.terminal.screen import Screen

    stray, overrides = split_arguments(words)
    if stray or (overrides and not files):
        raise click.UsageError(
            f"doctor takes KEY=VALUE, not '{stray[0]}'." if stray else "KEY=VALUE goes with -c FILE."
        )
    checks = list(examine(data_folder()))
    if files:
        checks += examine_configuration(files, overrides)
    bad = [check for check in checks if check.level == "fail"]
    if as_json:
        rows: list[Any] = [{"name": c.name, "level": c.level, "value": c.value, "todo": c.todo} for c in checks]
        document: DoctorDocument = {"ok": not bad, "checks": rows}
        emit(document)
        return 1 if bad else 0
    screen = Screen()
    shown = [[c.level, c.name, c.value + (f". {c.todo}" if c.todo else "")] for c in checks]
    screen.table(shown, wrap=True)
    warnings = sum(1 for check in checks if check.level == "warn")
    sentence = f"{counted(len(bad), 'thing')} must be mended" if bad else "all that is needed works"
    screen.tell(sentence + (f", {counted(warnings, 'warning')}" if warnings else ""))
    return 1 if bad else 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that makes TAB complete commands and options in that shell.

    \b
    bash   dateshard completion bash >> ~/.bashrc
    zsh    dateshard completion zsh >> ~/.zshrc
    fish   dateshard completion fish > ~/.config/fish/completions/dateshard.fish
    """
    from click.shell_completion import get_completion_class

    from dateshard.cli import root

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    put(completion_class(root, {}, "dateshard", "_DATESHARD_COMPLETE").source(), lines=True)


@click.command()
def version() -> None:
    """Print the versions of dateshard and its libraries."""
    import importlib.metadata

    from dateshard import __version__
    from dateshard.insight.doctor import STANDS_ON

    put(f"dateshard {__version__}")
    for name in STANDS_ON:
        put(f"{name} {importlib.metadata.version(name)}")
