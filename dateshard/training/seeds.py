"""One training for each of several seeds, one after the other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import chain, count

from dateshard.places import runs_folder
from dateshard.settings import Settings, apply
from dateshard.shardstore.commands import command, door
from dateshard.shardstore.errors import UsageError
from dateshard.terminal.screen import Screen
from dateshard.training.launch import train_in_processes
from dateshard.training.train import TrainRequest
from dateshard.training.train_command import Document, train_to_the_end


def seeds_of(settings: Settings, many: int) -> list[int]:
    """So many seeds from the configured one on."""
    return [settings.trainer.training.seed + k for k in range(many)]


def name_of(name: str | None, settings: Settings) -> str:
    """What the names of the runs begin with: as given, or made of the dataset and the time, and of no run yet."""
    if name:
        return name
    stem = f"{settings.dataset}-{dt.datetime.now():%Y%m%d-%H%M}"
    names = chain([stem], (f"{stem}_{n}" for n in count(2)))
    return next(each for each in names if not any(runs_folder().glob(f"{each}-seed*")))


def train_seeds(
    settings: Settings, seeds: Sequence[int], name: str, init_from: str | None, screen: Screen, num_processes: int = 1
) -> Iterator[tuple[str, int, Document]]:
    """Trains `NAME-seed7` and so on, each to its end; yields (run, exit code, its document). One that is there is continued.

    A training that is stopped is the last one. Those of several processes have no document here.

    Raises:
        UsageError: a run of such a name has other settings.
    """
    if init_from and any((runs_folder() / f"{name}-seed{seed}").exists() for seed in seeds):
        raise UsageError(
            f"runs of the name {name} are there, and --init-from begins new ones", todo="Give another --run"
        )
    for place, seed in enumerate(seeds, 1):
        run = f"{name}-seed{seed}"
        there = (runs_folder() / run / "run.json").exists()
        request = TrainRequest(run, None) if there else TrainRequest("none", run, None, init_from)
        screen.tell(f"seed {seed} ({place} of {len(seeds)}): run {run}")
        code, document = 0, Document()
        if num_processes > 1:
            words = [*_without(door().words[1:], "--run", "--seeds", "--devices"), "--seed", str(seed)]
            code = train_in_processes([*words, "--resume" if there else "--run", run], num_processes)
        else:
            code, document = train_to_the_end(apply(settings, [f"trainer.training.seed={seed}"]), screen, request)
        yield run, code, document
        if code:
            words = [*_without(door().words[1:], "--run"), "--run", name]
            screen.tell(f"The others wait. To go on with all: {command('train', *words)}")
            return


def _without(words: Sequence[str], *options: str) -> list[str]:
    """The words of the command without some of its options, and what these say."""
    kept, skip = list[str](), False
    for word in words:
        if not (skip or word.partition("=")[0] in options):
            kept.append(word)
        skip = word in options and not skip
    return kept
