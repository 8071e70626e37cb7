"""What an order needs in memory: the table of days a block, and the largest that a budget holds.

All of it follows from the data, the window and the settings; the machine is never asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.blocks import buffer_rows, num_blocks, rows_read
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.shuffle import Shuffle

DAYS = (1, 2, 3, 4, 7, 14, 30, 60, 90, 180, 365)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSize:
    """One way to cut the training dates into blocks.

    Attributes:
        days: of a block. resident_bytes: of its buffers, two where the next one is filled meanwhile.
        reading: rows read in an epoch for each row of the training dates; 1.1 reads a tenth twice.
    """

    days: int
    shuffle: Shuffle
    blocks: int
    resident_bytes: int
    reading: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What is needed to size blocks. `order_of` makes the training order of a shuffle."""

    dataset: Dataset
    window: Window
    config: Trainer
    order_of: Callable[[Shuffle], Order]
    shuffle_of_days: Callable[[int], Shuffle]

    @property
    def row_bytes(self) -> int:
        """Returns the bytes of one step in a buffer: values, the mask if anything is missing, and the time code."""
        mask = any(self.dataset.has_mask(day.date) for day in self.dataset.days)
        return self.dataset.row_values * (5 if mask else 4) + 4

    @property
    def train_steps(self) -> tuple[int, int]:
        """Returns (dates, steps) of the training split."""
        split = self.dataset.manifest.split_of
        days = [day for day in self.dataset.days if split(day.date) == "train"]
        return len(days), sum(day.num_steps for day in days)

    def of(self, days: int, shuffle: Shuffle, row_bytes: int) -> BlockSize:
        """The sizes of one shuffle."""
        order = self.order_of(shuffle)
        resident = sum(buffer_rows(order, self.window, prefetch=self.config.loading.prefetch)) * row_bytes
        reading = rows_read(order, self.window) / max(self.train_steps[1], 1)
        return BlockSize(days=days, shuffle=shuffle, blocks=num_blocks(order), resident_bytes=resident, reading=reading)

    def table(self) -> Iterator[BlockSize]:
        """A row for 1, 2, 3, 4, 7, 14 ... days a block, and one for all dates in one block; none that takes more than that.

        Two blocks whose buffers hold all dates save nothing: each run has its own history and horizon beside them.
        """
        num_days, row_bytes = self.train_steps[0], self.row_bytes
        whole = self.of(num_days, Shuffle(None, None), row_bytes)
        shuffles = ((days, self.shuffle_of_days(days)) for days in DAYS if days < num_days)
        sizes = (self.of(days, shuffle, row_bytes) for days, shuffle in shuffles)
        yield from (size for size in sizes if size.resident_bytes < whole.resident_bytes)
        yield whole

    def largest(self, budget: int) -> Shuffle:
        """The shuffle of the most days whose buffers the budget holds; one block of all dates if that fits."""
        num_days, row_bytes = self.train_steps[0], self.row_bytes
        whole = Shuffle(None, None)
        if self.of(num_days, whole, row_bytes).resident_bytes <= budget:
            return whole
        low, high = 1, num_days  # low is taken even where it does not fit: the reader then says what would
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.of(middle, self.shuffle_of_days(middle), row_bytes).resident_bytes <= budget
            low, high = (middle, high) if fits else (low, middle)
        return self.shuffle_of_days(low)
