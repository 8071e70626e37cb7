"""The processes that train one model together. The only file that names torch.distributed.

Every process walks through the same steps with its own rows of each batch. What they have to agree on, gradients, counts,
flags, is added up over all of them, and the sum is the same bits in each. Only the first, `leads`, writes anything.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import DateshardError, UsageError
from dateshard.trainer.devices.device import backend_of

TIMEOUT = dt.timedelta(
    minutes=30
)  # of a process that waits for another: the first may read a store of thousands of dates


def _never() -> bool:
    return False


@dataclass(slots=True, kw_only=True)
class Mesh:
    """One process of several; alone where `world` is 1.

    Attributes:
        rank: number of this process, from 0. world: how many there are. local: how many share this machine.
        local_rank: number among those.
        asked: whether this process was asked to stop; stopping: whether any was, as of the last step that they shared.
    """

    rank: int = 0
    world: int = 1
    local: int = 1
    local_rank: int = 0
    asked: Callable[[], bool] = _never
    stopping: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes: checkpoints, metrics, the record of the run."""
        return self.rank == 0

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Adds up each tensor over all processes, in place; one exchange for each kind of number."""
        if self.world == 1:
            return
        kinds = dict.fromkeys(tensor.dtype for tensor in tensors)
        for kind in kinds:
            own = [tensor for tensor in tensors if tensor.dtype == kind]
            joined = torch.cat([tensor.reshape(-1) for tensor in own])
            try:
                dist.all_reduce(joined)
            except RuntimeError as error:  # "Connection closed by peer", and a page of where in C++
                what = "another process of this training is gone"
                raise DateshardError(what, todo=f"Continue it: {command('train', '--resume', 'latest')}") from error
            at = 0
            for tensor in own:
                tensor.copy_(joined[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

    def any(self, flag: bool) -> bool:
        """Whether any of the processes says so."""
        if self.world == 1:
            return flag
        raised = torch.tensor([float(flag)])
        dist.all_reduce(raised)
        return bool(raised.item())

    def send(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrites the tensors with those of the first process."""
        for tensor in tensors if self.world > 1 else ():
            dist.broadcast(tensor, 0)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all of them; what it raises, too. It is pickled: these processes trust each other."""
        if self.world == 1:
            return make()
        held: list[Any] = [None, None]
        if self.leads:
            try:
                held = [make(), None]
            except Exception as error:
                dist.broadcast_object_list([None, error], 0)
                raise
        dist.broadcast_object_list(held, 0)
        if held[1] is not None:
            raise held[1]
        return held[0]


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
    """Waits until all processes are there."""
    if mesh.world == 1 or dist.is_initialized():
        return
    where = os.environ.get("DATESHARD_MESH_FILE")
    options: dict[str, Any] = {"rank": mesh.rank, "world_size": mesh.world, "timeout": TIMEOUT}
    dist.init_process_group(backend_of(device), init_method=f"file://{where}" if where else "env://", **options)


def leave() -> None:
    """Lets go of the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
