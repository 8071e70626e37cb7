"""Freezes what a generation knows of its nodes beside their names: the static columns, and the edges between them."""

from __future__ import annotations

from dataclasses import replace

from dateshard.pipeline.execution.job import Job
from dateshard.shardstore.frozen import Frozen
from dateshard.shardstore.frozen.edges import save_edges
from dateshard.shardstore.frozen.static_columns import place_columns, save_static
from dateshard.shardstore.manifest import Manifest


def with_node_facts(manifest: Manifest, job: Job, frozen: Frozen) -> Manifest:
    """Publishes them (not yet durable); returns the manifest with their ids.

    Raises:
        UsageError: a static column that cannot be scaled, or an edge of a node that is not there.
    """
    static, rows, root = job.about.static, job.about.edges, job.writer.root
    if static.names:
        place_columns(static, frozen.nodes.names, frozen.statistics.trained_nodes)  # what is unfit is refused here
        job.writer.published([save_static(root, static)])
    if rows is not None:
        rows.refuse_unknown(frozen.nodes.names)
        job.writer.published([save_edges(root, rows.edges)])
    return replace(manifest, static=static.id, edges=rows.edges.id if rows else "")
