"""The processes that train one model together. The only file that names torch.distributed.

Every process walks through the same steps with its own rows of each batch. What they have to agree on, gradients, counts,
flags, is added up over all of them, and the sum is the same bits in each. Only the first, `leads`, writes anything.
"""

from __future__ import annotations

import atexit
import datetime as dt
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import DateshardError, UsageError
from dateshard.trainer.devices.device import backend_of
from dateshard.trainer.devices.flat import Flat
from dateshard.trainer.devices.gone import GONE, ProcessGoneError
from dateshard.trainer.devices.partners import Exchanges, Place

WAITED = dt.timedelta(minutes=30)  # for another process: the first may read a store of thousands of dates
_EXCHANGES = Exchanges()  # of this process, as is torch's group


def _nothing() -> Sequence[bool]:
    return ()


@dataclass(slots=True, kw_only=True)
class Mesh:
    """One process of several; alone where `world` is 1.

    Attributes:
        rank: number of this process, from 0. world: how many there are. local: how many share this machine.
        local_rank: number among those.
        asked: what this process was asked for; raised: what any was, as of the last time that they shared it.
    """

    rank: int = 0
    world: int = 1
    local: int = 1
    local_rank: int = 0
    asked: Callable[[], Sequence[bool]] = _nothing
    raised: Sequence[bool] = ()

    @property
    def leads(self) -> bool:
        """Whether this process writes: checkpoints, metrics, the record of the run."""
        return self.rank == 0

    @property
    def option(self) -> tuple[str, ...]:
        """The option of `train` that starts as many processes again; none where torchrun starts them on several machines."""
        return ("--devices", str(self.world)) if 1 < self.world == self.local else ()

    def add(self, figures: Flat) -> None:
        """Adds figures up over all processes, in place."""
        if self.world > 1:
            with _exchange():
                for row in figures.values():
                    dist.all_reduce(row)

    def add_pairwise(self, figures: Flat) -> None:
        """Adds figures up over a power of two of processes, in place, in the order that `shares` draws.

        In each round a process adds those of one other, which adds its own: both have the same bits.
        """
        distance = self.world // 2
        while distance:
            for row in figures.values():
                row += self._swapped(row, self.rank ^ distance)
            distance //= 2

    def _swapped(self, row: torch.Tensor, other: int) -> torch.Tensor:
        """The row of another process, which gets this one's."""
        theirs = torch.empty_like(row)
        with _exchange():
            pair = [dist.P2POp(dist.isend, row, other), dist.P2POp(dist.irecv, theirs, other)]
            for work in dist.batch_isend_irecv(pair):
                work.wait()
        return theirs

    def ask(self) -> None:
        """Shares with the others what each was asked for."""
        if self.world > 1:
            flags = torch.tensor([float(flag) for flag in self.asked()])
            with _exchange():
                dist.all_reduce(flags)
            self.raised = [bool(flag) for flag in flags.tolist()]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all of them; what it raises, too. It is pickled: these processes trust each other."""
        if self.world == 1:
            return make()
        held: list[Any] = [None, None]
        if self.leads:
            try:
                held = [make(), None]
            except Exception as error:
                with _exchange():
                    dist.broadcast_object_list([None, error], 0)
                raise
        with _exchange():
            dist.broadcast_object_list(held, 0)
        if held[1] is not None:
            raise held[1]
        return held[0]

    def together(self, make: Callable[[], Any]) -> Any:
        """What each process makes; where one fails all of them raise its error.

        Raises:
            DateshardError: of the first that failed.
        """
        if self.world == 1:
            return make()
        made, failure = None, None
        try:
            made = make()
        except DateshardError as error:
            failure = error
        failures: list[DateshardError | None] = [None] * self.world
        with _exchange():
            dist.all_gather_object(failures, failure)
        for failure in failures:
            if failure is not None:
                raise failure
        return made


@contextmanager
def _exchange() -> Iterator[None]:
    """Makes what torch says of a lost connection, a page of where in C++, one sentence.

    Raises:
        ProcessGoneError: another process does not answer.
    """
    try:
        with _EXCHANGES.within():
            yield
    except RuntimeError as error:
        raise ProcessGoneError(GONE, todo=f"Continue it: {command('train', '--resume', 'latest')}") from error


def mesh_of(environment: Mapping[str, str]) -> Mesh:
    """The place of this process as torchrun, or `train --devices`, tells it; alone where nobody does.

    Raises:
        UsageError: only some of it is told.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Mesh()
    try:
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local, local_rank = int(environment.get("LOCAL_WORLD_SIZE", world)), int(environment.get("LOCAL_RANK", rank))
    except ValueError:
        given = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
        raise UsageError(f"these do not say which process this is: {given}", todo="Start it with torchrun") from None
    return Mesh(rank=rank, world=world, local=local, local_rank=local_rank)


def join(mesh: Mesh, device: torch.device) -> None:
    """Waits until all processes are there; from then on one that is gone is noticed.

    Raises:
        ProcessGoneError: one of them did not come.
    """
    if mesh.world == 1 or dist.is_initialized():
        return
    where = os.environ.get("DATESHARD_MESH_FILE")
    options: dict[str, Any] = {"rank": mesh.rank, "world_size": mesh.world, "timeout": WAITED}
    with _exchange():
        dist.init_process_group(backend_of(device), init_method=f"file://{where}" if where else "env://", **options)
        places: list[Any] = [None] * mesh.world
        dist.all_gather_object(places, Place.here())
    _EXCHANGES.watch(places)
    atexit.register(dist.destroy_process_group)  # what still connects them when C++ ends may abort the process
    if where:
        joined(where, mesh.rank).touch()


def joined(where: str, rank: int) -> Path:
    """The file that says that a process of `train --devices` met the others: from then on it notices when one is gone."""
    return Path(f"{where}-{rank}")
