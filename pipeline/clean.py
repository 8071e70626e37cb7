"""Which measured arrays the present settings need, and the removal of all that nothing needs."""

from __future__ import annotations

from pathlib import Path

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.observe import observe
from dateshard.pipeline.planning.plan import Observed, Wish, make_plan
from dateshard.shardstore.cleaning.garbage import Garbage, Needed, Runs, find_garbage, remove_garbage
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.errors import UsageError, Where
from dateshard.shardstore.measured import partial_key
from dateshard.shardstore.objects.bucket_store import bucket_of
from dateshard.shardstore.objects.copies_budget import BUDGET, budget_bytes, copies

BY_PINS = Runs()  # only those that pins name are looked at


def clean(config: Pipeline, root: Path, keep: int, *, dry_run: bool, runs: Runs = BY_PINS) -> Garbage:
    """Removes what neither a kept generation nor the present plan needs; with `dry_run` only looks, without the lock.

    Raises:
        BusyError: another process writes this dataset.
        StoreError: nothing was committed here yet, or what must stay cannot be read.
        UsageError: the store lies in a bucket.
    """
    refuse_in_bucket(root)
    if dry_run:
        garbage = find_garbage(root, _wanted(config, root), keep, runs)
    else:
        with StoreWriter(root):
            garbage = remove_garbage(root, _wanted(config, root), keep, runs)
    if taken := sum(num_bytes for _, _, num_bytes in copies(root.parents[1])):
        most = f"{budget_bytes() / (1 << 30):,.6g} GiB ({BUDGET})"
        garbage.notes.append(
            f"copies of objects take {taken / 1e6:,.1f} MB and stay: they keep to {most} by themselves"
        )
    return garbage


def refuse_in_bucket(root: Path) -> None:
    """Refuses to clean a store in a bucket.

    Raises:
        UsageError: it lies in one.
    """
    if bucket := bucket_of(root):
        what = "nothing is removed of a store in a bucket: runs on other machines may need its generations"
        todo = f"Copies on this machine keep to {BUDGET} by themselves"
        raise UsageError(what, where=Where(file=str(bucket.at)), todo=todo)


def _wanted(config: Pipeline, root: Path) -> Needed:
    current, _ = StoreWriter(root).current()
    seen, _, _ = observe(config, root, current)
    plan = make_plan(config, seen, Wish())
    features, cuts = config.feature_specs(), current.manifest.split_cuts.get("train", ()) if current else ()
    staged = frozenset((str(p.date), p.key) for p in plan.dates if p.key)
    return Needed(staged, lambda key: partial_key(key, features, cuts), _cuts(config, seen))


def _cuts(config: Pipeline, seen: Observed) -> frozenset[str] | None:
    """The cut that the dumps are spills of; all of them where the file of many dates is not there now."""
    if config.source.cut_first and not seen.dumps and not seen.to_cut:
        return None
    return frozenset(spill.parent.name for dump in seen.dumps.values() for spill in dump.files)
