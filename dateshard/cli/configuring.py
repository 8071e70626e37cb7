"""The commands schema and config: what a configuration may hold, what one resolves to, and what is wrong with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dateshard.cli.options import emit, json_option, needed_config_option, preset_option, split_arguments
from dateshard.terminal.screen import put

if TYPE_CHECKING:
    from dateshard.documents.configuring import ConfigCheckDocument, ConfigDocument


@click.command()
@click.argument("document", required=False, metavar="[DOCUMENT]")
@click.option("--json", "as_json", is_flag=True, help="changes nothing: a schema is always JSON")
def schema(document: str | None, as_json: bool) -> None:
    """Print the JSON Schema of the configuration, or of the document that a command's --json prints.

    DOCUMENT is a command such as plan, status or "config show", or error: what stands on stdout where a command with
    --json fails.
    """
    if document is None:
        from dateshard.settings.resolved import configuration_schema

        emit(configuration_schema())
        return
    from dateshard.documents import DOCUMENTS, document_schema

    if document not in DOCUMENTS:
        raise click.UsageError(f"'{document}' prints no JSON. Those that do: {', '.join(DOCUMENTS)}")
    emit(document_schema(document))


class _Group(click.Group):
    """Shows its commands in the order in which they are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group)
def config() -> None:
    """Show the resolved configuration, or check it."""


@config.command()
@click.argument("words", nargs=-1, metavar="[KEY]... [KEY=VALUE]...")
@needed_config_option
@preset_option
@json_option
def show(words: tuple[str, ...], files: tuple[str, ...], preset: str | None, as_json: bool) -> None:
    """Print every setting and where its value came from, as YAML that gives the same settings again.

    KEY, such as trainer.training, shows that part alone.
    """
    from dateshard.settings.presets import preset_file
    from dateshard.settings.resolved import choose, resolve, to_yaml

    keys, overrides = split_arguments(words)
    settings, origins = resolve(files, overrides, preset_file(preset) if preset else None)
    tree = choose(settings, keys)
    if as_json:
        shown = tuple(f"{key}." for key in keys)
        kept = {key: o for key, o in origins.items() if not keys or f"{key}.".startswith(shown)}
        document: ConfigDocument = {"settings": tree, "origins": kept}
        emit(document)
        return
    for line in to_yaml(tree, origins):
        put(line)  # a value's escapes are those of YAML


@config.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@needed_config_option
@json_option
def check(words: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> int:
    """Report all faults at once, each with file, line and column. Exit 2 if there is one."""
    from dateshard.settings.resolved import check as look_through
    from dateshard.shardstore.errors import counted

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"check takes KEY=VALUE, not '{stray[0]}'.")
    settings, faults = look_through(files, overrides)
    if as_json:
        rows: list[Any] = [{"place": f.place, "key": f.key, "message": f.message} for f in faults]
        document: ConfigCheckDocument = {"ok": not faults, "faults": rows}
        emit(document)
    for fault in faults:
        put(str(fault), sys.stderr)
    if faults or settings is None:
        put(f"{counted(len(faults), 'fault')} in {', '.join(files)}", sys.stderr)
        return 2
    features = settings.pipeline.features if settings.pipeline else {}
    pipeline = f"{counted(len(features), 'feature')}: {', '.join(features)}" if features else "no `pipeline:` half"
    ok = f"ok: dataset {settings.dataset}, {pipeline}; model {settings.trainer.model.name}"
    put(ok, sys.stderr if as_json else sys.stdout)
    return 0
