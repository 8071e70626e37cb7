"""Which measured arrays the present settings need, and the removal of all that nothing needs."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Pipeline
from pipeline.observe import observe
from pipeline.plan import Wish, make_plan
from shardstore.commit import Writer
from shardstore.garbage import Garbage, Runs, Wanted, find_garbage, remove_garbage
from shardstore.measured import partial_key


def clean(config: Pipeline, root: Path, keep: int, *, dry_run: bool, runs: Runs) -> Garbage:
    """Removes what neither a kept generation nor the present plan needs; with `dry_run` only looks, without the lock.

    Raises:
        BusyError: another process writes this dataset.
        StoreError: nothing was committed here yet, or what must stay cannot be read.
    """
    if dry_run:
        return find_garbage(root, _wanted(config, root), keep, runs)
    with Writer(root):
        return remove_garbage(root, _wanted(config, root), keep, runs)


def _wanted(config: Pipeline, root: Path) -> Wanted:
    current, _ = Writer(root).current()
    seen, _, _ = observe(config, root, current)
    plan = make_plan(config, seen, Wish())
    features = config.feature_specs()
    return Wanted(
        frozenset((str(p.date), p.key) for p in plan.dates if p.key), lambda staged: partial_key(staged, features)
    )
