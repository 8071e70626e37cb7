"""What the statistics of the training dates show to be amiss: nothing was observed, or a number stands for no value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.coverage.observed import never_observed, not_scaled, unscaled
from dateshard.shardstore.errors import DumpError, Where, counted
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.times.calendar import collapse

if TYPE_CHECKING:
    import datetime as dt

    from dateshard.pipeline.acts import Measured
    from dateshard.pipeline.config import Pipeline
    from dateshard.pipeline.planning.plan import Observed
    from dateshard.shardstore.commit import Committed
    from dateshard.shardstore.manifest import Manifest

NINES = re.compile(r"-?9{3,}(\.9+)?")
FAR = 6  # standard deviations of a feature from its mean; of a value that stands in fewer than 1 of 37 cells
CAUSES = (
    "Look at one of them: do the columns of pipeline.features hold the values (in a wide dump wide.value), does "
    "source.csv.missing name a text that stands everywhere, is a range with outside: null too narrow, are the rows of "
    "nodes that pipeline.nodes has? Correct it. "
)
NO_READING = (
    "A counter is observed where a step and the one before have a reading, and no step of {step} has: set a longer "
    "pipeline.step. "
)


def refuse_nothing_observed(
    config: Pipeline, statistics: Statistics, seen: Observed, measured: Mapping[dt.date, Measured]
) -> None:
    """Refuses statistics of training dates without a single value.

    Args:
        measured: the dates that were measured in this run, whose rows are counted in the message.

    Raises:
        DumpError: no cell of any feature was observed on any of their dates.
    """
    if statistics.merged.moments_6NF[0].any():
        return
    dates = [date for date, _ in statistics.sources]
    undated = config.source.undated
    first = next((seen.dumps[date] for date in dates if date in seen.dumps), None)
    names = ", ".join(statistics.features)
    what = f"no value of any feature ({names}) was observed in the training data ({collapse(dates, undated=undated)})"
    receipts = [measured[date].rows for date in dates if date in measured]
    if receipts:
        kept = sum(rows["accepted"] for rows in receipts)
        what += f": {counted(kept, 'row of them is', 'rows of them are')} kept, and none holds one"
        changed = dict[str, int]()
        for rows in receipts:
            for reason, count in rows["changed"].items():
                changed[reason] = changed.get(reason, 0) + count
        what += "".join(
            f"; {counted(count, 'value was', 'values were')} {reason}" for reason, count in sorted(changed.items())
        )
    counters = all(feature.aggregate == "difference" for feature in config.features.values())
    causes = NO_READING.format(step=config.step) if counters else CAUSES
    where = Where(file=str(first.path)) if first else None
    raise DumpError(what, where=where, todo=causes + to_run("preprocess", config=True))


def about_unobserved(current: Committed, statistics: Statistics | None) -> tuple[str, ...]:
    """Sentences on features, and on nodes with a scale of their own, of which the training dates hold nothing.

    Args:
        statistics: those that the generation is scaled by; None: unknown.
    """
    manifest, sentences = current.manifest, list[str]()
    training = [date for date in manifest.dates if manifest.split_of(date) == "train"]
    unseen = never_observed(manifest, current.sources.dates, "train")
    if unseen is None:
        unseen = unscaled(manifest, statistics) if statistics else ()
    if unseen and training:
        dates = collapse(training, undated=manifest.undated)
        names = ", ".join(manifest.features[place].name for place in unseen)
        sentences.append(
            f"no value of {names} was observed in the training data ({dates}): as a target train refuses it, as an input "
            f"it tells the model nothing. Look at them: {command('inspect', 'train', config=True)}"
        )
    if statistics is None:
        return tuple(sentences)
    if names := ", ".join(manifest.features[p].name for p in unscaled(manifest, statistics) if p not in unseen):
        sentences.append(". ".join(not_scaled(names)))
    return (*sentences, *_own_scales(manifest, statistics), *_nines(manifest, statistics))


def _nines(manifest: Manifest, statistics: Statistics) -> list[str]:
    """A sentence for each value of nines, such as -9999, that is the least or the greatest of some features.

    A negative one is always named, a positive one where it is far from all others: a count may well end at 999.
    """
    n, pivot, delta, m2, least, greatest = statistics.merged.over_nodes().moments_6NF[:, 0]
    far = pivot + delta + FAR * np.sqrt(m2 / np.maximum(n, 1))
    named = dict[str, list[str]]()
    for place, feature in enumerate(manifest.features):
        if feature.categorical or feature.transform != "none":
            continue
        ends = (least[place], least[place] < 0), (greatest[place], greatest[place] > far[place])
        for value in (f"{end:.10g}" for end, odd in ends if odd):
            if NINES.fullmatch(value):
                named.setdefault(value, []).append(feature.name)
    return [
        f"{value} stands among the training values of {', '.join(names)}, and often means that there is none. If so, set "
        f'pipeline.source.csv.missing: ["", "{value}"] (spelled as in the dumps), or a range of the feature with outside: null'
        for value, names in named.items()
    ]


def _own_scales(manifest: Manifest, statistics: Statistics) -> list[str]:
    """A sentence for each feature that is scaled per node, with nodes that the training dates hold no value of."""
    seen_NF = statistics.merged.moments_6NF[0] > 0
    rows = [(feature, int(seen_NF[:, place].sum())) for place, feature in enumerate(manifest.features)]
    nodes = manifest.num_frozen_nodes
    return [
        f"{feature.name} has no value in the training data at {nodes - seen:,} of {nodes:,} "
        "nodes: they are scaled as all nodes together"
        for feature, seen in rows
        if feature.scale_per == "node" and feature.scale != "none" and 0 < seen < nodes
    ]
