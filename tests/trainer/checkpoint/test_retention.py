"""Which checkpoints go, and how: the best, the newest and the pinned ones never, and never what would be the last good one."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as format_tensors

from dateshard.shardstore.errors import DamagedError, NotThereError
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import after_save, removal
from dateshard.trainer.checkpoint.retention import Listed, RetentionPolicy, going
from dateshard.trainer.config import CheckpointConfig, Trainer
from dateshard.trainer.optimization.schedule import LossHistory
from dateshard.trainer.runs.disk_need import Need, fitting


@st.composite
def listings(draw: st.DrawFn) -> list[Listed]:
    """Checkpoints of some positions, some of them judged; no order."""
    places = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), unique=True, max_size=14))
    judged = draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    ranks = draw(st.permutations(range(sum(judged))))
    turn = iter(ranks)
    return [
        Listed(f"{e}-{b}", (e, b, there, 1), draw(st.integers(1, 50)), next(turn) if there else None)
        for (e, b), there in zip(places, judged, strict=True)
    ]


policies = st.builds(
    RetentionPolicy,
    keep_last=st.none() | st.integers(1, 8),
    keep_best=st.integers(1, 4),
    max_bytes=st.none() | st.integers(1, 300),
)


@given(listings(), policies, st.data())
def test_what_goes_is_exactly_what_no_rule_keeps(
    found: list[Listed], policy: RetentionPolicy, data: st.DataObject
) -> None:
    names = [one.name for one in found]
    pinned = set(data.draw(st.lists(st.sampled_from(names), max_size=3))) if names else set[str]()
    gone = going(found, policy, pinned)
    by_time = sorted(found, key=lambda one: one.place)
    best = sorted((one for one in found if one.rank is not None), key=lambda one: one.rank or 0)[: policy.keep_best]
    safe = {one.name for one in (*by_time[-1:], *best)} | pinned
    left = [one for one in by_time if one.name not in gone]

    assert [one.name for one in by_time if one.name in gone] == gone  # known, each once, the oldest first
    assert safe.isdisjoint(gone)
    if not policy.removes:
        assert gone == []
    if policy.max_bytes is None:
        last = {one.name for one in by_time[-policy.keep_last :]} if policy.keep_last else set(names)
        assert {one.name for one in left} == safe | last
    elif sum(one.num_bytes for one in left) > policy.max_bytes:
        assert {one.name for one in left} == safe  # what may go has gone
    if policy.keep_last is not None:
        assert len({one.name for one in left} - safe) <= policy.keep_last
    shuffled = random.Random(0).sample(found, len(found))
    assert going(shuffled, policy, pinned) == gone
    assert going(left, policy, pinned) == []


@given(listings(), st.integers(1, 300), st.integers(1, 300))
def test_a_larger_budget_never_removes_more_and_takes_no_newer_one_before_an_older(
    found: list[Listed], one: int, other: int
) -> None:
    small, large = (set(going(found, RetentionPolicy(max_bytes=most))) for most in sorted((one, other)))
    assert large <= small
    best = min((x for x in found if x.rank is not None), key=lambda x: x.rank or 0, default=None)
    removable = [x for x in sorted(found, key=lambda x: x.place)[:-1] if x is not best]
    gone = [x.name in small for x in removable]
    assert gone == sorted(gone, reverse=True)


@given(listings(), st.integers(0, 14))
def test_a_byte_budget_that_is_just_kept_costs_no_more(found: list[Listed], count: int) -> None:
    """A budget of what is left without the oldest `count` that may go takes these and no other."""
    best = min((x for x in found if x.rank is not None), key=lambda x: x.rank or 0, default=None)
    removable = [x for x in sorted(found, key=lambda x: x.place)[:-1] if x is not best][:count]
    left = sum(x.num_bytes for x in found) - sum(x.num_bytes for x in removable)
    if left:
        assert going(found, RetentionPolicy(max_bytes=left)) == [x.name for x in removable]


def described(epoch: int, batch: int, loss: float | None = None, *, last: int = 9) -> checkpoint.CheckpointState:
    """A state as a training saves it; with a loss it is an epoch's end, validated."""
    progress = LossHistory() if loss is None else LossHistory(best_loss=loss, best_epoch=epoch)
    bound = {"settings": {}, "order": {}, "data": {"name": "world", "generation": 1}}
    counts = {"epoch": epoch, "batch": batch, "num_batches": last, "step": 1, "skipped": 0, "skipped_in_a_row": 0}
    losses = {"train_loss": 1.0, "val_loss": loss, "losses": {"mse": 1.0}, "validated": loss is not None}
    rest = {"without_moments": [], "parameters": ["w"], "learning_rate": 0.5, "environment": {}}
    config = Trainer().model_dump(mode="json")
    more = {"progress": asdict(progress), "bound": bound, "config": config}
    return checkpoint.CheckpointState.from_json({**counts, **losses, **rest, **more})


def save(parent: Path, epoch: int, batch: int, loss: float | None = None, numbers: int = 10) -> Path:
    weights = torch.full((numbers,), float(100 * epoch + batch))
    moments = {"w//step": torch.tensor(3.0), "w//exp_avg": weights + 1, "w//exp_avg_sq": weights + 2}
    groups = {"model": {"w": weights}, "optimizer": moments}
    data = {f"{stem}.safetensors": memoryview(format_tensors(group)) for stem, group in groups.items()}
    folder = checkpoint.write(parent, described(epoch, batch, loss), data)
    checkpoint.point(folder, "latest.json", described(epoch, batch, loss))
    if loss is not None and checkpoint.best(parent)[0] == checkpoint.inspect(folder):
        checkpoint.point(folder, "best_model.json", described(epoch, batch, loss))
    return folder


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """Two epochs, three checkpoints each; the first epoch's end is the best."""
    folder = tmp_path / "run" / "checkpoints"
    for epoch, loss in ((0, 0.5), (1, 0.7)):
        for batch in (3, 6, 9):
            save(folder, epoch, batch, loss if batch == 9 else None)
    return folder


def names(parent: Path) -> list[str]:
    """`1-3` for epoch 1 batch 3, the oldest first; each is whole."""
    found, passed = checkpoint.scan(parent)
    assert passed == []
    for one in found:
        checkpoint.verify(one)
    return [f"{one.state.epoch + 1}-{one.state.batch}" for one in found]


def spoil(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def test_the_newest_the_best_and_the_pinned_stay(parent: Path) -> None:
    removal.pin(parent / "checkpoint_epoch_1_batch_6")
    done = checkpoint.retain(parent, RetentionPolicy(keep_last=1), dry_run=True)
    assert names(parent) == ["1-3", "1-6", "1-9", "2-3", "2-6", "2-9"]
    expected = sum(removal.bytes_of(parent / name) for name in done.gone)
    done = checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    assert names(parent) == ["1-6", "1-9", "2-9"]
    assert done.freed == expected > 0
    assert done.kept == [f"checkpoint_epoch_{p.replace('-', '_batch_')}" for p in names(parent)]
    assert removal.unpin(parent / "checkpoint_epoch_1_batch_6")
    assert not removal.unpin(parent / "checkpoint_epoch_1_batch_6")
    checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    assert names(parent) == ["1-9", "2-9"]
    assert [path.name for path in parent.iterdir() if path.name.startswith(".")] == [".lock"]


def test_a_byte_budget_takes_the_oldest_first_and_counts_exports(parent: Path) -> None:
    each = removal.bytes_of(parent / "checkpoint_epoch_1_batch_3")
    (parent / "checkpoint_epoch_2_batch_3.pth").write_bytes(bytes(2 * each))
    total = sum(removal.bytes_of(parent / name) for name in os.listdir(parent) if (parent / name).is_dir())
    done = checkpoint.retain(parent, RetentionPolicy(max_bytes=total - each - 1))
    assert names(parent) == ["1-9", "2-3", "2-6", "2-9"]
    done = checkpoint.retain(parent, RetentionPolicy(max_bytes=int(3.5 * each)))
    assert names(parent) == ["1-9", "2-6", "2-9"]
    assert done.freed > 2.9 * each
    assert not (parent / "checkpoint_epoch_2_batch_3.pth").exists()
    checkpoint.retain(parent, RetentionPolicy(max_bytes=1))
    assert names(parent) == ["1-9", "2-9"]


def test_a_damaged_newest_does_not_cost_the_good_one_before_it(parent: Path) -> None:
    spoil(parent / "checkpoint_epoch_2_batch_9")
    done = checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    assert [line.split(":")[0] for line in done.damaged] == [
        str(parent / "checkpoint_epoch_2_batch_9/model.safetensors")
    ]
    shutil.rmtree(parent / "checkpoint_epoch_2_batch_9")  # it was left as it is
    assert names(parent) == ["1-9", "2-6"]


def test_a_damaged_best_does_not_cost_the_second_best(parent: Path) -> None:
    spoil(parent / "checkpoint_epoch_1_batch_9")
    save(parent, 2, 3)
    checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    shutil.rmtree(parent / "checkpoint_epoch_1_batch_9")
    assert names(parent) == ["2-9", "3-3"]


def test_where_none_verifies_nothing_goes(parent: Path) -> None:
    for folder in parent.glob("checkpoint_*"):
        spoil(folder)
    assert checkpoint.retain(parent, RetentionPolicy(keep_last=1)).gone == []
    done = checkpoint.retain(parent, RetentionPolicy(keep_last=1), thorough=True)
    assert (done.gone, done.kept, len(done.damaged)) == ([], [], 6)
    assert len(list(parent.glob("checkpoint_*"))) == 6


def test_a_removal_that_is_killed_leaves_whole_ones_and_the_next_one_ends_it(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rename and the deletion, and in the middle of the deletion."""

    def half(folder: Path, **_: Any) -> None:
        (Path(folder) / "manifest.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dateshard.trainer.checkpoint.removal.shutil.rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    assert names(parent) == ["1-6", "1-9", "2-3", "2-6", "2-9"]
    assert len(list(parent.glob(".gone-*"))) == 1
    checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    assert names(parent) == ["1-9", "2-9"]
    assert list(parent.glob(".gone-*")) == []


def test_what_is_pinned_is_not_removed_by_whoever_asks(parent: Path) -> None:
    pinned, other = parent / "checkpoint_epoch_1_batch_3", parent / "checkpoint_epoch_1_batch_6"
    removal.pin(pinned)
    with removal.removal_lock(parent):
        freed = removal.bytes_of(other)
        assert removal.remove([pinned, other, parent / "checkpoint_epoch_9_batch_9"]) == freed
    assert names(parent) == ["1-3", "1-9", "2-3", "2-6", "2-9"]


def test_a_position_saved_again_over_a_damaged_one_comes_after_it_and_is_found_by_its_name(parent: Path) -> None:
    first = parent / "checkpoint_epoch_2_batch_9"
    assert save(parent, 1, 9, 0.7) == first  # it holds the same: nothing is written
    spoil(first)
    second = save(parent, 1, 9, 0.7)
    assert second == parent / "checkpoint_epoch_2_batch_9-2"
    assert checkpoint.inspect(first).place < checkpoint.inspect(second).place
    assert checkpoint.find(parent, first.name)[0].folder == checkpoint.newest(parent)[0].folder == second  # type: ignore[union-attr]
    spoil(second)
    with pytest.raises(DamagedError, match=r"checkpoint_epoch_2_batch_9/model\.safetensors"):
        checkpoint.find(parent, first.name)


def test_a_pin_waits_for_a_removal_and_is_told_where_it_came_too_late(parent: Path) -> None:
    wanted = [parent / "checkpoint_epoch_1_batch_3", parent / "checkpoint_epoch_1_batch_6"]
    with ThreadPoolExecutor(2) as pool:
        with removal.removal_lock(parent):
            pins = [pool.submit(removal.pin, folder) for folder in wanted]
            assert removal.remove(wanted[:1]) > 0
            assert not any(pin.done() for pin in pins)
        with pytest.raises(NotThereError, match="checkpoint_epoch_1_batch_3"):
            pins[0].result(60)
        assert pins[1].result(60) is None
    checkpoint.retain(parent, RetentionPolicy(keep_last=1))
    assert names(parent) == ["1-6", "1-9", "2-9"]


def test_tending_removes_after_each_save_and_points_and_exports_the_best(tmp_path: Path) -> None:
    parent = tmp_path / "run" / "checkpoints"
    config = CheckpointConfig(keep_last=2, export_pth="all")
    gone = []
    for epoch, loss in ((0, 0.5), (1, 0.7), (2, 0.4)):
        for batch in (3, 6, 9):
            folder = save(parent, epoch, batch, loss if batch == 9 else None)
            gone += after_save.tend(parent, config, folder)
    assert names(parent) == ["3-6", "3-9"]
    assert len(gone) == len(set(gone)) == 7
    exports = {path.name for path in parent.glob("*.pth")}
    assert exports == {"checkpoint_epoch_3_batch_6.pth", "checkpoint_epoch_3_batch_9.pth", "best_model.pth"}
    held = torch.load(parent / "best_model.pth", weights_only=True)
    assert (held["epoch"], held["batch"], held["val_loss"], held["checkpoint"]) == (
        *(3, 9, 0.4),
        "checkpoint_epoch_3_batch_9",
    )


def test_what_a_killed_save_did_not_come_to_is_mended_to_the_same_bytes(tmp_path: Path) -> None:
    """Every subset of what follows a save is missing, or stale."""
    config = CheckpointConfig(export_pth="all")
    whole = tmp_path / "whole" / "checkpoints"
    for epoch, loss in ((0, 0.5), (1, 0.3)):
        after_save.tend(whole, config, save(whole, epoch, 9, loss))
    wanted = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    later = ["latest.json", "best_model.json", "best_model.pth", "checkpoint_epoch_2_batch_9.pth"]
    for number, lost in enumerate(itertools.chain(*(itertools.combinations(later, k) for k in range(5)))):
        cut = tmp_path / f"cut{number}" / "checkpoints"
        shutil.copytree(whole, cut)
        for name in lost:
            (cut / name).unlink()
            if name.startswith("best"):
                (cut / name).write_bytes(b"of an earlier one")
        checkpoint.tidy(cut)
        after_save.mend(cut, config)
        assert {path.name: path.read_bytes() for path in cut.iterdir() if path.is_file()} == wanted, lost


def test_what_was_to_go_after_a_killed_save_goes_when_the_run_is_continued(parent: Path) -> None:
    """No later save may come that would bring it about. What a removal had begun goes whatever the policy."""
    (parent / "checkpoint_epoch_1_batch_3").rename(parent / ".gone-half")
    before = names(parent)
    after_save.mend(parent, CheckpointConfig())
    assert names(parent) == before
    assert not list(parent.glob(".gone-*"))
    after_save.mend(parent, CheckpointConfig(keep_last=1))
    assert names(parent) == ["1-9", "2-9"]  # the best and the newest


def test_an_export_whose_checkpoint_was_removed_goes_and_another_program_s_file_stays(parent: Path) -> None:
    after_save.mend(parent, CheckpointConfig())
    (parent / "checkpoint_epoch_9_batch_9.pth").write_bytes(b"left")
    (parent / "mine.pth").write_bytes(b"mine")
    after_save.mend(parent, CheckpointConfig())
    assert {path.name for path in parent.glob("*.pth")} == {"best_model.pth", "mine.pth"}
    after_save.mend(parent, CheckpointConfig(export_pth="all"))
    assert len(list(parent.glob("checkpoint_*.pth"))) == 6


def test_the_export_of_a_damaged_checkpoint_stays(parent: Path) -> None:
    """It may be the last copy of those weights; the damaged one is no checkpoint any more, and its folder is there."""
    after_save.mend(parent, CheckpointConfig(export_pth="all"))
    (parent / "checkpoint_epoch_1_batch_3" / "manifest.json").write_text("{}")
    after_save.mend(parent, CheckpointConfig(export_pth="all"))
    assert (parent / "checkpoint_epoch_1_batch_3.pth").exists()


def test_room_is_counted_as_before_a_run_s_own_checkpoints_were_there() -> None:
    config = CheckpointConfig(export_pth="none", keep_best=1)
    whole = Need(an_epoch=1, bytes_each=10, bytes_epoch=10, bytes_all=100, present=0, free=200)
    assert fitting(whole, config) is None
    assert fitting(replace(whole, present=90, free=110), config) is None
    tight = fitting(replace(whole, present=40, free=159), config)
    assert tight is not None
    assert tight.keep_last == 99 // 10 - 2  # beside the best and the one being written


def test_a_damaged_best_does_not_replace_its_own_export(parent: Path) -> None:
    """The export may be the last copy of those weights."""
    after_save.mend(parent, CheckpointConfig())
    exported = (parent / "best_model.pth").read_bytes()
    spoil(parent / "checkpoint_epoch_1_batch_9")
    after_save.mend(parent, CheckpointConfig())
    assert (parent / "best_model.pth").read_bytes() == exported
