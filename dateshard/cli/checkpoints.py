"""The command checkpoints: what was saved, and what is done with it.

Also `--action list --save_dir DIR`, as the notes spell it."""

from __future__ import annotations

from typing import Any

import click

from dateshard.cli.options import emit, json_option, trust_option
from dateshard.shardstore.commands import command

WORDS = "[RUN] [CHECKPOINT]"


class _Group(click.Group):
    """Shows its commands in the order in which they are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _dir_option(command: Any) -> Any:
    return click.option(
        "--dir", "--save-dir", "directory", metavar="DIR", help="a folder of checkpoints, instead of a run's"
    )(command)


def _checkpoint_option(command: Any) -> Any:
    return click.option("--checkpoint", metavar="NAME[.pth]", help="the checkpoint, as the argument CHECKPOINT")(
        command
    )


@click.group(cls=_Group, invoke_without_command=True)
@click.option("--action", metavar="list|info|load|clean", help="the same as the command of that name")
@_dir_option
@click.option("--checkpoint", metavar="NAME[.pth]", help="for --action")
@click.option("--keep-count", metavar="K", help="for --action clean")
@json_option
@click.pass_context
def checkpoints(
    ctx: click.Context,
    action: str | None,
    directory: str | None,
    checkpoint: str | None,
    keep_count: str | None,
    as_json: bool,
) -> Any:
    """Work on the checkpoints of a run (default: the newest) or of a folder.

    CHECKPOINT is a name such as checkpoint_epoch_1_batch_100, with or without .pth; best, latest; or a path.
    """
    given = {"--dir": directory, "--checkpoint": checkpoint, "--keep-count": keep_count}
    if ctx.invoked_subcommand is not None:
        for option, value in {"--action": action, **given}.items():
            if value is not None:
                raise click.UsageError(f"{option} comes after the command's name: checkpoints {ctx.invoked_subcommand}")
        return None
    if action is None:
        if any(given.values()) or as_json:
            raise click.UsageError(f"Name an action, for example: {command('checkpoints', 'list')}")
        click.echo(ctx.get_help())
        return 0
    asked = checkpoints.get_command(ctx, action)
    if asked is None:
        raise click.UsageError(f"No action '{action}'. There are: {', '.join(checkpoints.commands)}")
    words = [checkpoint] if checkpoint is not None else []
    for option in ("--dir", "--keep-count"):
        words += [option, given[option] or ""] if given[option] is not None else []
    with asked.make_context(action, [*words, *(["--json"] if as_json else [])], parent=ctx) as inner:
        return asked.invoke(inner)


@checkpoints.command(name="list", short_help="list checkpoints with size, time and validation loss")
@click.argument("run", required=False, metavar="[RUN]")
@_dir_option
@json_option
def list_(run: str | None, directory: str | None, as_json: bool) -> int:
    """List all checkpoints with size and time, the best first, then the newest, also those set aside or damaged."""
    from dateshard.bookkeeping.checkpoint_chores import list_checkpoints, place_of
    from dateshard.bookkeeping.checkpoints_screen import show_list
    from dateshard.terminal.screen import Screen

    document = list_checkpoints(place_of(run, directory))
    if as_json:
        emit(document)
    else:
        show_list(Screen(), document)
    return 0


@checkpoints.command(short_help="show position, losses and settings of one, and whether it is whole")
@click.argument("words", nargs=-1, metavar=WORDS)
@_dir_option
@_checkpoint_option
@json_option
def info(words: tuple[str, ...], directory: str | None, checkpoint: str | None, as_json: bool) -> int:
    """Show a checkpoint (default: the newest): position, losses, settings, and whether it is whole."""
    from dateshard.bookkeeping.checkpoint_chores import describe, named
    from dateshard.bookkeeping.checkpoints_screen import show_info
    from dateshard.terminal.screen import Screen

    document = describe(named((*words, *([checkpoint] if checkpoint else [])), directory, "latest"))
    if as_json:
        emit(document)
    else:
        show_info(Screen(), document)
    return 4 if document["damage"] else 0


@checkpoints.command(short_help="hash every byte of all or of the named ones")
@click.argument("words", nargs=-1, metavar="[RUN] [CHECKPOINT]...")
@_dir_option
@json_option
def verify(words: tuple[str, ...], directory: str | None, as_json: bool) -> int:
    """Hash every byte of all checkpoints, or of the named ones. Exit 4 names each damaged file."""
    from dateshard.bookkeeping.checkpoint_chores import LATEST, CheckpointPlace, is_checkpoint, named, place_of
    from dateshard.bookkeeping.checkpoint_chores import verify as compare
    from dateshard.bookkeeping.checkpoints_screen import show_verified
    from dateshard.terminal.screen import Screen

    if directory is None and words == (LATEST,):  # the newest run, as of other commands
        words = ()
    runs, wanted = ([word for word in words if is_checkpoint(word) is kind] for kind in (False, True))
    if wanted:
        each = [named([*runs, word], directory, "latest") for word in wanted]
        place: CheckpointPlace = each[0].place
        if any(checkpoint_named.place != place for checkpoint_named in each):
            raise click.UsageError("Name checkpoints of one folder at a time.")
        document = compare(place, [checkpoint_named.name for checkpoint_named in each])
    else:
        if len(runs) > 1:
            raise click.UsageError("Name one run.")
        document = compare(place_of(runs[0] if runs else None, directory), [])
    if as_json:
        emit(document)
    else:
        show_verified(Screen(), document)
    return 4 if document["damaged"] else 0


@checkpoints.command(short_help="verify one, build its model and compute a batch")
@click.argument("words", nargs=-1, metavar=WORDS)
@_dir_option
@_checkpoint_option
@trust_option
@json_option
def load(words: tuple[str, ...], directory: str | None, checkpoint: str | None, trust: bool, as_json: bool) -> int:
    """Verify a checkpoint (default: the best), build its model, load its weights, and compute one batch."""
    from dateshard.bookkeeping.checkpoint_chores import named
    from dateshard.bookkeeping.checkpoints_screen import show_loaded
    from dateshard.bookkeeping.loading_trial import load as bring_back
    from dateshard.terminal.screen import Screen

    document = bring_back(named((*words, *([checkpoint] if checkpoint else [])), directory, "best"), trust=trust)
    if as_json:
        emit(document)
    else:
        show_loaded(Screen(), document)
    return 0


def _last(words: tuple[str, ...], what: str) -> tuple[tuple[str, ...], str]:
    if len(words) < 2:
        raise click.UsageError(f"Name a checkpoint and {what}.")
    return words[:-1], words[-1]


@checkpoints.command(short_help="write one as a .pth for torch")
@click.argument("words", nargs=-1, metavar="[RUN] CHECKPOINT FILE.pth")
@_dir_option
@click.option("--force", is_flag=True, help="replace an existing file")
@json_option
def export(words: tuple[str, ...], directory: str | None, force: bool, as_json: bool) -> int:
    """Write a checkpoint as a .pth, which torch.load(weights_only=True) reads."""
    from pathlib import Path

    from dateshard.bookkeeping.checkpoint_chores import export as write
    from dateshard.bookkeeping.checkpoint_chores import named
    from dateshard.terminal.screen import Screen, size

    words, file = _last(words, "the file to write")
    document = write(named(words, directory, "best"), Path(file), force=force)
    if as_json:
        emit(document)
    else:
        Screen().tell(f"{document['name']} -> {document['file']} ({size(document['bytes'])})")
    return 0


@checkpoints.command(short_help="copy one into another folder, and verify the copy")
@click.argument("words", nargs=-1, metavar="[RUN] CHECKPOINT DIR")
@_dir_option
@json_option
def copy(words: tuple[str, ...], directory: str | None, as_json: bool) -> int:
    """Copy a checkpoint into another folder, and verify every byte of the copy. It can be used from there."""
    from pathlib import Path

    from dateshard.bookkeeping.checkpoint_chores import copy as duplicate
    from dateshard.bookkeeping.checkpoint_chores import named
    from dateshard.terminal.screen import Screen, size

    words, target = _last(words, "the folder to copy it to")
    document = duplicate(named(words, directory, "best"), Path(target))
    if as_json:
        emit(document)
    else:
        Screen().tell(f"{document['name']} -> {document['folder']} ({size(document['bytes'])}, verified)")
    return 0


@checkpoints.command(short_help="remove all except the newest, the best and the pinned")
@click.argument("run", required=False, metavar="[RUN]")
@_dir_option
@click.option("--keep-count", type=click.IntRange(min=1), metavar="K", help="keep the K newest")
@click.option(
    "--keep-best", type=click.IntRange(min=1), default=1, metavar="K", help="keep also the K best (default: 1)"
)
@click.option("--max-bytes", metavar="2GiB", help="remove the oldest until the rest takes no more than this")
@click.option("--dry-run", is_flag=True, help="only show what would be removed")
@json_option
def clean(
    run: str | None,
    directory: str | None,
    keep_count: int | None,
    keep_best: int,
    max_bytes: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove checkpoints except the newest, the best and the pinned ones.

    Checkpoints that were set aside are removed too. It may be used while the run is training.
    """
    from dateshard.bookkeeping.checkpoint_chores import clean as remove
    from dateshard.bookkeeping.checkpoint_chores import place_of
    from dateshard.bookkeeping.checkpoints_screen import show_cleaned
    from dateshard.terminal.screen import Screen
    from dateshard.trainer.checkpoint.retention import RetentionPolicy
    from dateshard.trainer.config import parse_bytes

    if keep_count is None and max_bytes is None:
        raise click.UsageError("Say how many stay, --keep-count 5, or how much, --max-bytes 2GiB.")
    try:
        most = None if max_bytes is None else int(parse_bytes(max_bytes))
    except ValueError as error:
        raise click.UsageError(f"--max-bytes: {error}") from None
    document = remove(place_of(run, directory), RetentionPolicy(keep_count, keep_best, most), dry_run=dry_run)
    if as_json:
        emit(document)
    else:
        show_cleaned(Screen(), document)
    return 0


def _set_pin(words: tuple[str, ...], directory: str | None, as_json: bool, *, pinned: bool) -> int:
    from dateshard.bookkeeping.checkpoint_chores import is_checkpoint, named, set_pin
    from dateshard.terminal.screen import Screen

    if not any(map(is_checkpoint, words)):
        raise click.UsageError("Name a checkpoint.")
    document = set_pin(named(words, directory, "latest"), pinned=pinned)
    if as_json:
        emit(document)
    else:
        kept = "pinned: nothing removes it" if document["pinned"] else "not pinned"
        Screen().tell(f"{document['folder']}  {kept}")
    return 0


@checkpoints.command(short_help="protect one from removal")
@click.argument("words", nargs=-1, metavar="[RUN] CHECKPOINT")
@_dir_option
@json_option
def pin(words: tuple[str, ...], directory: str | None, as_json: bool) -> int:
    """Protect a checkpoint from removal."""
    return _set_pin(words, directory, as_json, pinned=True)


@checkpoints.command(short_help="end that protection")
@click.argument("words", nargs=-1, metavar="[RUN] CHECKPOINT")
@_dir_option
@json_option
def unpin(words: tuple[str, ...], directory: str | None, as_json: bool) -> int:
    """Remove a checkpoint's pin."""
    return _set_pin(words, directory, as_json, pinned=False)
