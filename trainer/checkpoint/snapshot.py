"""A copy of training's state, laid out as the very bytes of its files: one copy a tensor, nothing left to serialise.

    a group's buffer:  length of the header | header, JSON | tensor | tensor ...      = a safetensors file

Memory: one copy of the state, kept from save to save. A sample that grows has room for its whole size from its first
save on, of which pages are taken as they are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as format_tensors

from dateshard.trainer.data.batch import aligned
from dateshard.trainer.devices import device


@dataclass(frozen=True, slots=True)
class TakenRows:
    """Some rows of a tensor (`at`: int64), copied once: straight to where they are saved."""

    tensor: torch.Tensor
    at: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the tensor."""
        return self.tensor.dtype

    @property
    def shape(self) -> torch.Size:
        """The shape of the rows as a tensor."""
        return torch.Size((len(self.at), *self.tensor.shape[1:]))


Part = torch.Tensor | TakenRows
Form = dict[str, tuple[torch.dtype, torch.Size]]


class Snapshot:
    """Buffers that state is copied into, one a group; a group's is laid out anew when its form changes."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def take(self, groups: Mapping[str, Mapping[str, Part]]) -> dict[str, memoryview]:
        """Returns {file's name: its bytes}, valid until the next `take`. Later changes of the tensors do not reach them."""
        taken = {}
        for stem, group in groups.items():
            taken[f"{stem}.safetensors"] = self._files.setdefault(stem, _File()).fill(group)
        device.wait_for_copies()
        return taken

    def lay_out(self, groups: Mapping[str, Mapping[str, Part]]) -> list[NDArray[np.uint8]]:
        """Makes room for groups of these forms before there is anything to copy; what may be touched in advance.

        Writing to it makes its pages, which the first snapshot would wait for; it must be over before that is taken.
        """
        files = [(self._files.setdefault(stem, _File()), group) for stem, group in groups.items()]
        return [file.lay_out(form_of(group), group) for file, group in files]

    @property
    def num_bytes(self) -> int:
        """Returns the bytes of all buffers."""
        return sum(file.buffer.nbytes for file in self._files.values())


class _File:
    """One group: its buffer, and in it a view for each tensor."""

    def __init__(self) -> None:
        self.buffer: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._form: Form | None = None
        self._views: dict[str, torch.Tensor] = {}
        self._size = 0

    def fill(self, group: Mapping[str, Part]) -> memoryview:
        """Copies the group in; the file's bytes."""
        form = form_of(group)
        if form != self._form:
            self.lay_out(form, group)
        for name, tensor in group.items():
            _copy(tensor, self._views[name])
        return self.buffer.data[: self._size]

    def lay_out(self, form: Form, group: Mapping[str, Part]) -> NDArray[np.uint8]:
        """Header and views; where tensors will be copied to."""
        self._form, self._views = None, {}
        head, places = header(form)
        self._size = len(head) + sum(_num_bytes(*kind) for kind in form.values())
        if self._size > self.buffer.nbytes:
            most = self._size + sum(_num_missing(tensor) for tensor in group.values() if isinstance(tensor, TakenRows))
            self.buffer = np.empty(0, dtype=np.uint8)  # before the new one is there: never two
            far = any(isinstance(tensor, torch.Tensor) and tensor.is_cuda for tensor in group.values())
            self.buffer = device.pinned(most) if far else aligned(most)
        self.buffer[: len(head)] = np.frombuffer(head, dtype=np.uint8)
        whole = torch.from_numpy(self.buffer)
        for name, (dtype, shape) in form.items():
            low = len(head) + places[name]
            self._views[name] = whole[low : low + _num_bytes(dtype, shape)].view(dtype).view(shape)
        self._form = form
        return self.buffer[len(head) : self._size]


def form_of(group: Mapping[str, Part]) -> Form:
    """Returns {name: (type, shape)} of a group's tensors."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in group.items()}


def _copy(data: Part, view: torch.Tensor) -> None:
    """Copies a tensor by numpy, on this one thread.

    torch would wake its threads for a copy that memory alone bounds, and on a machine with other work wait for the last
    of them (docs/decisions/0031)."""
    if isinstance(data, TakenRows):
        np.take(data.tensor.numpy(), data.at.numpy(), axis=0, out=view.numpy(), mode="clip")  # other modes copy twice
    elif data.device.type == "cpu" and data.is_contiguous():
        np.copyto(_as_bytes(view), _as_bytes(data.detach()))
    else:
        view.copy_(data.detach(), non_blocking=data.is_cuda)


def _as_bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    flat: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return flat


def header(form: Form) -> tuple[bytes, dict[str, int]]:
    """What stands before the tensors in a safetensors file, and each tensor's place behind it.

    The library itself tells its order and its names of types, of tensors without elements.
    """
    empty = format_tensors({name: torch.empty(0, dtype=dtype) for name, (dtype, _) in form.items()})
    entries, places, at = json.loads(empty[8:]), dict[str, int](), 0
    for name, entry in entries.items():
        dtype, shape = form[name]
        places[name], end = at, at + _num_bytes(dtype, shape)
        entry["shape"], entry["data_offsets"] = list(shape), [at, end]
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def _num_bytes(dtype: torch.dtype, shape: torch.Size) -> int:
    return math.prod(shape) * dtype.itemsize


def _num_missing(rows: TakenRows) -> int:
    """Bytes of the rows that are not there yet."""
    return rows.tensor.nbytes - _num_bytes(rows.dtype, rows.shape)
