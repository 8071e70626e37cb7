"""Batches, and the buffers that they are views of.

Legend: B batch, H history steps, P target steps, W window steps, N nodes, F features (inputs and targets a subset).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.trainer.data.order import Window

HUGE_PAGE = 2 << 20
Memory = Callable[[int], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Views into a buffer that is used again two batches later; not contiguous: no `.view`.

    Attributes:
        history_BHNF, target_BPNF: float32, scaled.
        observed_BPNF: bool, None where the dataset misses nothing.
        codes_BW: int32 time codes (step of local day x 8 + weekday) of the whole window, None unless asked for.
        known_BHNF: bool, which cells of the history were observed, and not padding; None unless asked for, and where nothing
            is missing.
        future_BPNF: float32, scaled, features that are known ahead at the target steps; None unless asked for.
        instant_BW: int64 nanoseconds of the whole window's steps, None unless a baseline of the user's own is given them.
    """

    history_BHNF: torch.Tensor
    target_BPNF: torch.Tensor
    observed_BPNF: torch.Tensor | None
    codes_BW: torch.Tensor | None
    known_BHNF: torch.Tensor | None = None
    future_BPNF: torch.Tensor | None = None
    instant_BW: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Windows in the batch."""
        return len(self.history_BHNF)

    def copy(self) -> Batch:
        """Returns a copy in memory of its own: valid for as long as it is held."""
        return self.changed(torch.clone)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on a device; itself where it lies there."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns {`history`, `target`, `observed`, `codes`, `known`, `future`: tensor} of those that there are."""
        each = {field.name.partition("_")[0]: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in each.items() if tensor is not None}

    def rows(self, chosen: slice) -> Batch:
        """Some of its windows."""
        return self.changed(lambda tensor: tensor[chosen])

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with every tensor changed."""
        observed, codes, known, future, instant = (
            None if tensor is None else change(tensor)
            for tensor in (self.observed_BPNF, self.codes_BW, self.known_BHNF, self.future_BPNF, self.instant_BW)
        )
        return Batch(
            history_BHNF=change(self.history_BHNF),
            target_BPNF=change(self.target_BPNF),
            observed_BPNF=observed,
            codes_BW=codes,
            known_BHNF=known,
            future_BPNF=future,
            instant_BW=instant,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchForm:
    """What a batch is made of. `codes`, `known`: the time codes, and which cells of the history were observed.

    `futures`: features whose values at the target steps are known ahead.
    """

    window: Window
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    codes: bool = False
    known: bool = False
    futures: tuple[int, ...] = ()

    @property
    def target_begin(self) -> int:
        """The step of the window at which its targets begin."""
        return self.window.history if self.window.horizon else 0

    @property
    def masked(self) -> range:
        """The steps of the window whose mask is read: those of the targets, or all of them."""
        return range(0 if self.known else self.target_begin, self.window.length)


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    """Zeroed anonymous memory; large ones start at 2 MB and ask for huge pages (73 -> 89 % of memcpy at big windows)."""
    if num_bytes < 2 * HUGE_PAGE:
        return np.zeros(num_bytes, dtype=np.uint8)
    area = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared has no huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(area, dtype=np.uint8)
    skip = -raw.ctypes.data % HUGE_PAGE
    return raw[skip : skip + num_bytes]


def on_host(num_bytes: int) -> torch.Tensor:
    """Memory of the host, as bytes."""
    return torch.from_numpy(aligned(num_bytes))


def columns(index: tuple[int, ...]) -> slice | list[int]:
    """A slice (a view) where the columns are neighbours, else a list (a copy per batch)."""
    joined = index == tuple(range(index[0], index[0] + len(index)))
    return slice(index[0], index[0] + len(index)) if joined else list(index)


class Slot:
    """One buffer of the ring with its views made once; `size`: windows that it has room for.

    Args:
        memory: makes so many bytes, where the windows are copied to.
    """

    def __init__(
        self,
        batch_size: int,
        num_nodes: int,
        num_features: int,
        wanted: BatchForm,
        *,
        mask: bool,
        memory: Memory = on_host,
    ) -> None:
        window, self.wanted = wanted.window, wanted
        cells = num_nodes * num_features
        self.flat = memory(batch_size * window.length * cells * 4).view(torch.float32).view(batch_size, -1)
        self.shaped = self.flat.view(batch_size, window.length, num_nodes, num_features)
        self.has_mask, self.has_codes = mask, wanted.codes
        if mask:
            self.mask_flat = memory(batch_size * len(wanted.masked) * cells).view(batch_size, -1)
            self.mask_shaped = self.mask_flat.view(batch_size, len(wanted.masked), num_nodes, num_features)
        if wanted.codes:
            self.codes_flat = memory(batch_size * window.length * 4).view(torch.int32).view(batch_size, -1)
        self.size, self.full = batch_size, self._batch(batch_size)
        self.views = all(
            isinstance(columns(index), slice) for index in (wanted.inputs, wanted.targets, wanted.futures) if index
        )

    def _batch(self, size: int) -> Batch:
        window, begin = self.wanted.window, self.wanted.target_begin
        inputs, targets = columns(self.wanted.inputs), columns(self.wanted.targets)
        ahead = self.shaped[:size, begin : begin + window.target_steps]
        observed = known = None
        if self.has_mask:
            observed = self.mask_shaped[:size, -window.target_steps :, :, targets].view(torch.bool)
            if self.wanted.known:
                known = self.mask_shaped[:size, : window.history, :, inputs].view(torch.bool)
        return Batch(
            history_BHNF=self.shaped[:size, : window.history, :, inputs],
            target_BPNF=ahead[..., targets],
            observed_BPNF=observed,
            codes_BW=self.codes_flat[:size] if self.has_codes else None,
            known_BHNF=known,
            future_BPNF=ahead[..., columns(self.wanted.futures)] if self.wanted.futures else None,
        )

    def pad(self, at: int, stop: int, before_K: torch.Tensor) -> None:
        """Empties what lies before the last `before_K` history steps of rows [at, stop): it belongs to no window."""
        history = self.wanted.window.history
        padded_KH = torch.arange(history, device=before_K.device) < history - before_K[:, None]
        self.shaped[at:stop, :history].masked_fill_(padded_KH[..., None, None], 0.0)
        if self.has_mask and self.wanted.known:
            self.mask_shaped[at:stop, :history].masked_fill_(padded_KH[..., None, None], 0)
        if self.has_codes:
            self.codes_flat[at:stop, :history].masked_fill_(padded_KH, 0)

    def batch(self, size: int) -> Batch:
        """The batch of the first `size` rows; views made once where that is possible."""
        return self.full if size == self.size and self.views else self._batch(size)

    @staticmethod
    def rows(buffer: torch.Tensor, at: int, stop: int) -> torch.Tensor:
        """Rows [at, stop) of one of the slot's buffers."""
        return buffer if stop - at == len(buffer) else buffer[at:stop]
