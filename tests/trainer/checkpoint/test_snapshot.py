"""A snapshot is the bytes of its files, to the last one; it stays what it was; and it takes one copy of the state."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as parse
from safetensors.torch import save as library_bytes

from dateshard.trainer.checkpoint import Snapshot, TakenRows

MIB = 1 << 20
TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]
SHAPES = st.lists(st.integers(0, 3), max_size=3)
FORMS = st.dictionaries(st.text(max_size=6), st.tuples(st.sampled_from(TYPES), SHAPES), max_size=6)


def filled(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    """Any bytes that the type can hold."""
    generator = torch.Generator().manual_seed(seed)
    high = 2 if dtype == torch.bool else 256
    count = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(high, (count,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """To the bit: NaN is equal to itself."""
    parts = [one.contiguous().reshape(-1).view(torch.uint8) for one in (left, right)]
    return (left.dtype, left.shape) == (right.dtype, right.shape) and torch.equal(*parts)


@given(st.lists(FORMS, min_size=1, max_size=3))
def test_a_snapshot_is_what_the_library_writes_whatever_was_in_its_buffers_before(forms: list[dict]) -> None:
    snapshot = Snapshot()
    for seed, form in enumerate(forms):
        group = {name: filled(*kind, seed) for name, kind in form.items() if name != "__metadata__"}
        taken = bytes(snapshot.take({"model": group})["model.safetensors"])
        assert taken == library_bytes(group)
        assert all(same(tensor, group[name]) for name, tensor in parse(taken).items())


@pytest.mark.parametrize("name", ['"', "\\", "\n", "\x7f", "\u2028", "名", "\U0001f600", "a//b", "\x00", "<>&'"])
def test_names_are_spelled_as_the_library_spells_them(name: str) -> None:
    group = {name: torch.arange(3), f"{name}2": torch.ones(2)}
    assert bytes(Snapshot().take({"g": group})["g.safetensors"]) == library_bytes(group)


def test_views_with_gaps_and_turned_ones_are_saved_as_they_read() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    group = {"turned": whole.T, "gaps": whole[::2, 1::3], "gradient": torch.nn.Parameter(whole[1])}
    found = parse(bytes(Snapshot().take({"g": group})["g.safetensors"]))
    assert all(torch.equal(found[name], tensor) for name, tensor in group.items())


def test_rows_are_copied_as_indexing_copies_them_while_they_grow() -> None:
    values, flags = torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2 == 0
    snapshot, sizes = Snapshot(), set()
    for count in (0, 2, 6, 3):
        at = torch.tensor([5, 0, 3, 1, 2, 4])[:count]
        taken = snapshot.take({"sample": {"values": TakenRows(values, at), "flags": TakenRows(flags, at)}})[
            "sample.safetensors"
        ]
        sizes.add(snapshot.num_bytes)
        assert bytes(taken) == library_bytes({"values": values[at], "flags": flags[at]})
    assert max(sizes) - min(sizes) < 64, "room for all rows was taken at first, but for the digits in the header"


def test_a_snapshot_stays_what_it_was_until_the_next() -> None:
    state = {"w": torch.zeros(1000)}
    snapshot = Snapshot()
    taken = snapshot.take({"model": state})["model.safetensors"]
    before = bytes(taken)
    state["w"] += 1
    assert bytes(taken) == before
    again = snapshot.take({"model": state})["model.safetensors"]
    assert bytes(taken) == bytes(again) == library_bytes(state)  # the same memory


def test_room_that_was_made_before_there_was_anything_to_copy_is_used() -> None:
    forms = {"model": {"w": torch.empty(3 * MIB), "b": torch.empty(())}, "optimizer": {"m": torch.empty(2, 5)}}
    groups = {stem: {name: torch.randn(part.shape) for name, part in group.items()} for stem, group in forms.items()}
    snapshot = Snapshot()
    for buffer in snapshot.lay_out(forms):
        buffer.fill(255)
    before = snapshot.num_bytes
    taken = snapshot.take(groups)
    assert {name: bytes(data) for name, data in taken.items()} == {
        f"{stem}.safetensors": library_bytes(group) for stem, group in groups.items()
    }
    assert snapshot.num_bytes == before


def memory_peak() -> int:
    """Largest resident memory since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def test_memory_is_one_copy_of_the_state_also_while_it_is_laid_out_anew() -> None:
    state = {f"w{i}": torch.randn(4 * MIB) for i in range(4)}  # 64 MiB
    snapshot = Snapshot()
    before = forget_peak()
    snapshot.take({"model": state})
    assert memory_peak() - before < 72 * MIB
    assert snapshot.num_bytes < 65 * MIB
    before = forget_peak()
    for _ in range(3):
        snapshot.take({"model": state})
    assert memory_peak() - before < 4 * MIB
    state["more"] = torch.randn(4 * MIB)
    before = forget_peak()
    snapshot.take({"model": state})
    assert memory_peak() - before < 24 * MIB, "the old buffer goes before the new one comes"
