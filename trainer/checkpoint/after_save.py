"""What follows a save: notes for people, exports, and the removal of what is not kept. The checkpoint stands already."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from dateshard.shardstore.errors import StoreError
from dateshard.trainer.checkpoint.checkpoint_folder import NAME, Checkpoint, inspect, verify
from dateshard.trainer.checkpoint.choice import ranked, scan
from dateshard.trainer.checkpoint.removal import GONE, bytes_of, export_of, is_pinned, removal_lock, remove, sweep
from dateshard.trainer.checkpoint.retention import RetentionPolicy, going, listed
from dateshard.trainer.checkpoint.saving import point
from dateshard.trainer.config import CheckpointConfig

BEST_NOTE, BEST_EXPORT = "best_model.json", "best_model.pth"


def _export(checkpoint: Checkpoint, path: Path) -> None:
    from dateshard.trainer.checkpoint.pth import export  # and torch, without which one may list and remove

    export(checkpoint, path)


def _matches(path: Path, checkpoint: Checkpoint) -> bool:
    from dateshard.trainer.checkpoint.pth import matches

    return matches(path, checkpoint)


def tend(parent: Path, config: CheckpointConfig, saved: Path) -> list[str]:
    """Everything that a new checkpoint brings about; returns the names of those that were removed.

    Args:
        parent: the run's checkpoints. saved: the folder that has just appeared there.

    Raises:
        DiskFullError: an export did not fit; every checkpoint is whole.
    """
    checkpoint = inspect(saved)
    point(saved, "latest.json", checkpoint.state)
    is_best = checkpoint.state.validated and checkpoint.state.progress.best_epoch == checkpoint.state.epoch
    if is_best:
        point(saved, BEST_NOTE, checkpoint.state)
    if is_best and config.export_pth != "none":
        _export(checkpoint, parent / BEST_EXPORT)
    if config.export_pth == "all":
        _export(checkpoint, export_of(saved))
    policy = RetentionPolicy.of(config)
    return retain(parent, policy).gone if policy.removes else []


def mend(parent: Path, config: CheckpointConfig) -> None:
    """Checkpoints, notes and exports as an undisturbed run leaves them, whatever was killed. Under the run's lock."""
    policy = RetentionPolicy.of(config)
    if policy.removes or any(parent.glob(f"{GONE}*")):  # no save may come any more that would bring it about
        retain(parent, policy)
    checkpoints, _ = scan(parent)
    best = next(iter(ranked(checkpoints)), None)
    if checkpoints:
        point(checkpoints[-1].folder, "latest.json", checkpoints[-1].state)
    if best is not None:
        point(best.folder, BEST_NOTE, best.state)
    else:
        for name in (BEST_NOTE, BEST_EXPORT):
            (parent / name).unlink(missing_ok=True)
    wanted = [(saved, export_of(saved.folder)) for saved in checkpoints if config.export_pth == "all"]
    wanted = [pair for pair in wanted if not pair[1].exists()]
    if best is not None and config.export_pth != "none":
        wanted.append((best, parent / BEST_EXPORT))
    for saved, path in wanted:
        if _damage(saved) is None and not (path.exists() and _matches(path, saved)):
            _export(saved, path)
    present = {export_of(saved.folder) for saved in checkpoints}
    for path in parent.glob("checkpoint_epoch_*.pth"):  # a removal was cut off behind it
        if NAME.fullmatch(path.stem) and path not in present and not path.with_suffix("").exists():
            path.unlink()


@dataclass(frozen=True, slots=True)
class Retained:
    """What a policy did, or would do.

    Attributes:
        kept, gone: names, the oldest first. freed: bytes. damaged: what is wrong with those that are neither.
    """

    kept: list[str]
    gone: list[str]
    freed: int
    damaged: list[str]


def retain(parent: Path, policy: RetentionPolicy, *, dry_run: bool = False, thorough: bool = False) -> Retained:
    """Removes what the policy does not keep; one that is damaged counts for nothing and is left where it is.

    Before anything goes, the newest of those that stay is verified, and the best ones where one with a validation loss
    goes. If none verifies, nothing goes.

    Args:
        dry_run: only look, which a read-only disk lets do as well.
        thorough: verify all that stay.
    """
    with nullcontext() if dry_run else removal_lock(parent):
        if not dry_run:
            sweep(parent)
        checkpoints, damaged = scan(parent)
        while True:
            gone = _going(checkpoints, policy)
            bad = [
                (saved, error) for saved in _decisive(checkpoints, gone, thorough=thorough) if (error := _damage(saved))
            ]
            if not bad:
                break
            damaged += [str(error) for _, error in bad]
            checkpoints = [saved for saved in checkpoints if saved.name not in {other.name for other, _ in bad}]
        kept = [saved.name for saved in checkpoints if saved.name not in gone]
        if dry_run:
            return Retained(kept, gone, sum(bytes_of(parent / name) for name in gone), damaged)
        return Retained(kept, gone, remove(parent / name for name in gone), damaged)


def _going(checkpoints: Sequence[Checkpoint], policy: RetentionPolicy) -> list[str]:
    sized = [replace(saved, num_bytes=bytes_of(checkpoints[k].folder)) for k, saved in enumerate(listed(checkpoints))]
    return going(sized, policy, {saved.name for saved in checkpoints if is_pinned(saved.folder)})


def _decisive(checkpoints: Sequence[Checkpoint], gone: Sequence[str], *, thorough: bool) -> list[Checkpoint]:
    """Lists the checkpoints that stay, and whose damage would change what may go."""
    stay = [saved for saved in checkpoints if saved.name not in gone]
    if thorough or not gone:
        return stay if thorough else []
    loses_judged = any(saved.name in gone for saved in ranked(checkpoints))
    return [
        *stay[-1:],
        *([saved for saved in ranked(checkpoints) if saved.name not in gone][:1] if loses_judged else []),
    ]


def _damage(checkpoint: Checkpoint) -> StoreError | None:
    try:
        verify(checkpoint)
    except StoreError as error:
        return error
    return None
