"""Freezes what a generation knows of its nodes beside their names: the static columns, and the edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execution.job import Job, PreprocessProgress
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.pipeline.planning.plan import DatePlan
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.frozen import NO_NODES, Frozen, Nodes, load_new_nodes, save_nodes
from dateshard.shardstore.frozen.edges import save_edges
from dateshard.shardstore.frozen.static_columns import place_columns, save_static
from dateshard.shardstore.layouts.category_codes import sorted_names
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.measured import load_receipt


def with_node_facts(
    manifest: Manifest, writer: StoreWriter, config: Pipeline, about: AboutNodes, frozen: Frozen
) -> Manifest:
    """Publishes them (not yet durable); returns the manifest with their ids.

    Raises:
        UsageError: a static column that cannot be scaled, or an edge of a node that is not there.
    """
    static, rows, root = about.static, about.edges, writer.root
    names = frozen.nodes.joined(frozen.new_nodes).names
    if static.names:
        place_columns(static, names, frozen.statistics.on(len(names)).trained_nodes)  # what is unfit is refused here
        writer.published([save_static(root, static)])
    if rows is not None:
        if not config.keeps_unknown:  # else it may be of a node that is to come
            rows.refuse_unknown(names)
        writer.published([save_edges(root, rows.edges)])
    if frozen.new_nodes.names:
        writer.published([save_nodes(root, frozen.new_nodes, "new_nodes")])
    return replace(
        manifest,
        static=static.id,
        edges=rows.edges.id if rows else "",
        keeps_unknown=config.keeps_unknown,
        new_nodes=frozen.new_nodes.id if frozen.new_nodes.names else "",
        num_new_nodes=len(frozen.new_nodes.names),
        num_nodes=len(names),
    )


def find_new_nodes(job: Job, progress: PreprocessProgress, frozen: Frozen, normalise: str) -> Nodes:
    """The nodes that training never saw, of all dates: those that stand already, then those of dates to be normalised.

    The list only grows, in the order of dates and then of names, as long as dates are scaled alike: a date has the same
    bytes, whichever nodes come after it.

    Args:
        normalise: identity of what dates are scaled with now.

    Raises:
        StoreError: the list is damaged, and nothing is to be made anew (--refit-statistics), or dates that it needs are gone.
    """
    root, old = job.writer.root, job.old
    if not job.config.keeps_unknown:
        return NO_NODES
    known = NO_NODES
    if old is not None and old.normalise == normalise:
        try:
            known = load_new_nodes(root, old.new_nodes)
        except StoreError:
            if not progress.plan.merge or (again := _rebuilt(job, progress, frozen, old)).id != old.new_nodes:
                raise
            known = again
    names_by_date = (names_on(root, plan) for plan in progress.plan.to_normalise if plan.date not in progress.failed)
    return with_unseen(known, names_by_date, frozen.nodes, job.about)


def _rebuilt(job: Job, progress: PreprocessProgress, frozen: Frozen, old: Manifest) -> Nodes:
    """The list of new nodes of a generation once more, in the order in which they came.

    A shard reaches to the last node of its date, so what a date brought stands right before the end of its shard.
    """
    by_width = dict[int, set[str]]()
    for plan in progress.plan.dates:
        if plan.date in old.dates:
            width = old.dates[plan.date].num_nodes
            by_width.setdefault(width, set()).update(names_on(job.writer.root, plan))
    in_order = (sorted(by_width[width]) for width in sorted(by_width))
    return with_unseen(NO_NODES, in_order, frozen.nodes, job.about)


def names_on(root: Path, plan: DatePlan) -> Sequence[str]:
    """The nodes of a date's staged array; none if it is damaged: it is measured again, and another preprocess finds them."""
    with suppress(StoreError):
        names: Sequence[str] = load_receipt(root / "staged" / str(plan.date) / plan.key)["nodes"]
        return names
    return ()


def with_unseen(known: Nodes, names_by_date: Iterable[Sequence[str]], frozen: Nodes, about: AboutNodes) -> Nodes:
    """The new nodes, and behind them those of these dates that are on neither list."""
    listed = dict.fromkeys([*frozen.names, *known.names])
    before = len(listed)
    for names in names_by_date:
        listed |= dict.fromkeys(name for name in sorted_names(names) if name not in listed)
    added = about.placed(list(listed)[before:])
    if added.axes != frozen.axes:  # the table has had other columns since
        added = Nodes(added.names, frozen.axes, np.full((len(added.names), len(frozen.axes)), np.nan))
    return known.joined(added) if known.names else added
