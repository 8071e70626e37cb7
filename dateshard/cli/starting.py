"""init, doctor, version: the first minutes."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import click

from dateshard.cli.options import json_option

PACKAGES = ("shardstore", "pipeline", "trainer", "dateshard")
STANDS_ON = ("torch", "numpy", "polars", "pyarrow", "zarr", "pydantic", "safetensors", "xxhash", "click", "rich")


@click.command()
@click.argument("folder", default=".", metavar="[DIR]")
@click.option(
    "--example",
    type=click.Choice(["flights", "traffic"]),
    help="an example with data (a real year; a generated city); without it a starter configuration",
)
@click.option("--dates", "num_dates", type=int, metavar="N", help="traffic: how many dates, default 60")
@click.option("--sensors", "num_sensors", type=int, metavar="N", help="traffic: how many sensors, default 64")
def init(folder: str, example: str | None, num_dates: int | None, num_sensors: int | None) -> None:
    """A starter configuration, and data to run it on. Never overwrites a file."""
    from dateshard.examples import STARTER, configuration, contents, write_missing
    from dateshard.places import data_folder

    if not example and (num_dates is not None or num_sensors is not None):
        raise click.UsageError("--dates and --sensors are for --example traffic")
    top = Path(folder)
    name = example or "mydata"
    raw = top / data_folder() / "raw" / name
    wanted = contents(name, raw, num_dates, num_sensors) if example else None  # refuses before anything is written
    config = top / "configs" / f"{name}.yaml"
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(configuration(example) if example else STARTER)
        click.echo(f"wrote {config}")
    if wanted is not None:
        written = write_missing(raw, wanted)
        there = len(list(raw.glob("*.csv")))
        click.echo(f"{raw}: {there} files, {written} written now" if written else f"{raw}: {there} files are there")
    enter = "" if top == Path() else f"cd {top} && "
    click.echo(f"next: {enter}dateshard preprocess -c {config.relative_to(top)}")


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Does this installation work, and is it the one you think. Exit 1 if not."""
    import importlib.metadata
    import platform

    from dateshard.places import data_folder

    rows = [("python", True, platform.python_version())]
    for name in PACKAGES:
        module = import_module(name)
        ours = getattr(module, "SENTINEL", None) == f"dateshard:{name}"
        rows.append((name, ours, str(Path(str(module.__file__)).parent)))
    rows += [(name, True, importlib.metadata.version(name)) for name in STANDS_ON]
    rows.append(("data", True, str(data_folder().resolve())))
    good = all(ok for _, ok, _ in rows)
    if as_json:
        click.echo(json.dumps([{"name": n, "ok": ok, "value": v} for n, ok, v in rows], indent=1))
    else:
        from dateshard.screen import Screen

        Screen().table([["ok" if ok else "WRONG", name, value] for name, ok, value in rows])
        if not good:
            click.echo("A foreign package of the same name wins the import: use an environment of its own.", err=True)
    return 0 if good else 1


@click.command()
def version() -> None:
    """Versions of dateshard and what it stands on."""
    import importlib.metadata

    from dateshard import __version__

    click.echo(f"dateshard {__version__}")
    for name in STANDS_ON:
        click.echo(f"{name} {importlib.metadata.version(name)}")
