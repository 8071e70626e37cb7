"""Freezes what a generation knows of its nodes beside their names: the static columns, and the edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from dateshard.pipeline.execution.job import Job, PreprocessProgress
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.frozen import NO_NODES, Frozen, Nodes, load_new_nodes, save_new_nodes
from dateshard.shardstore.frozen.edges import save_edges
from dateshard.shardstore.frozen.static_columns import place_columns, save_static
from dateshard.shardstore.layouts.category_codes import sorted_names
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.measured import load_receipt


def with_node_facts(manifest: Manifest, job: Job, frozen: Frozen) -> Manifest:
    """Publishes them (not yet durable); returns the manifest with their ids.

    Raises:
        UsageError: a static column that cannot be scaled, or an edge of a node that is not there.
    """
    static, rows, root = job.about.static, job.about.edges, job.writer.root
    names = frozen.nodes.joined(frozen.new_nodes).names
    if static.names:
        place_columns(static, names, frozen.statistics.on(len(names)).trained_nodes)  # what is unfit is refused here
        job.writer.published([save_static(root, static)])
    if rows is not None:
        if not job.config.keeps_unknown:  # else it may be of a node that is to come
            rows.refuse_unknown(names)
        job.writer.published([save_edges(root, rows.edges)])
    if frozen.new_nodes.names:
        job.writer.published([save_new_nodes(root, frozen.new_nodes)])
    return replace(
        manifest,
        static=static.id,
        edges=rows.edges.id if rows else "",
        keeps_unknown=job.config.keeps_unknown,
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
    """
    root, old = job.writer.root, job.old
    if not job.config.keeps_unknown:
        return NO_NODES
    known = load_new_nodes(root, old.new_nodes) if old and old.normalise == normalise else NO_NODES

    def names_by_date() -> Iterator[Sequence[str]]:
        for plan in progress.plan.to_normalise:
            if plan.date in progress.failed:
                continue
            with suppress(StoreError):  # damaged: it is measured again, and another preprocess finds them
                yield load_receipt(root / "staged" / str(plan.date) / plan.key)["nodes"]

    return with_unseen(known, names_by_date(), frozen.nodes, job.about)


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
