"""Windows one by one for torch's DataLoader, and the order of batches as lists of their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dateshard.notebooks.loop_position import LoopPosition
from dateshard.trainer.data.order import Order
from dateshard.trainer.data.reader import Reader

if TYPE_CHECKING:
    from dateshard.notebooks.windows import Windows


class SingleWindows(Dataset[dict[str, torch.Tensor]]):
    """Windows by their number in date order, each a dict of tensors: what `Batch.tensors` gives, without the first axis.

    A list of numbers is one gather. A pickle says where the dataset lies; it is opened again where it is loaded.

    Memory: maps, and the windows that were asked for.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._reader: Reader | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SingleWindows, (self._windows,)

    def __len__(self) -> int:
        return self._windows.num_anchors

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """The windows with these numbers, negative ones from the end: views of one gather, in memory of its own.

        Raises:
            IndexError: there is no such window.
        """
        total = len(self)
        if wrong := [number for number in numbers if not -total <= number < total]:
            raise IndexError(f"there is no window {wrong[0]}: the split has {total:,}")
        if self._reader is None:
            self._reader = self._windows.mapped_reader()
        tensors = self._reader.windows(np.asarray(numbers, dtype=np.int64) % total).tensors()
        return [
            dict(zip(tensors, rows, strict=True)) for rows in zip(*(t.unbind() for t in tensors.values()), strict=True)
        ]


class WindowSampler(Sampler[list[int]]):
    """Numbers of the windows of each batch, for `DataLoader(windows.map_style(), batch_sampler=windows.batch_sampler())`.

    Each iteration is the next epoch.
    """

    def __init__(
        self, order: Order, bound: Mapping[str, Any], position: LoopPosition, rank: int = 0, world: int = 1
    ) -> None:
        self._order, self._bound, self._position = order, bound, position
        self._rank, self._world = rank, world
        self.batch_size, self.drop_last = order.batch_size // world, order.drop_last  # frameworks read them

    @property
    def sampler(self) -> WindowSampler:
        """Itself: Lightning and accelerate call `set_epoch` of a batch sampler's sampler."""
        return self

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._order.num_batches

    def set_epoch(self, epoch: int, batch: int | None = None) -> None:
        """Lets the next iteration give this epoch, from number `batch` on; none of those before it is read."""
        self._position.set(epoch, batch)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self._position.begin()
        order, size = self._order.epoch(epoch), self._order.batch_size
        for draw in order.draws(start):
            numbers = np.concatenate([self._order.numbers(piece) for piece in draw.pieces])
            for begin in range(0, len(numbers), size):
                self._position.reach(epoch, (draw.low + begin) // size + 1)
                yield numbers[begin : begin + size][self._rank :: self._world].tolist()

    def state_dict(self) -> dict[str, Any]:
        """Where the next list of numbers stands, and what the order is bound to.

        A loader's workers are given lists ahead: torchdata's StatefulDataLoader takes the state of the batch that it gives
        out; a loop of one's own counts its batches and calls `set_epoch(epoch, batch)`.
        """
        return {"epoch": self._position.epoch, "batch": self._position.batch, "bound": dict(self._bound)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration go on where the state was taken.

        Raises:
            UsageError: the state is of other windows; names all that differs.
        """
        self._position = LoopPosition.of(state, self._bound)
