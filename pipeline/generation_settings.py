"""The settings that a generation was prepared with, and whether others would encode a dump as it did."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from dateshard.pipeline.arrays import Normaliser
from dateshard.pipeline.config import NORMALISE_CODE, Pipeline
from dateshard.pipeline.planning.plan import bases_of, measured_so, normalise_identity
from dateshard.shardstore.commit import load_sources
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, UsageError, Where
from dateshard.shardstore.frozen import Frozen
from dateshard.shardstore.sources import Sources

SHOWN = 4  # settings in a message


def settings_of(dataset: Dataset) -> Pipeline:
    """The pipeline half that a generation was prepared with.

    Raises:
        UsageError: it was prepared by a version that did not keep it.
        StoreError: the sources file is missing or damaged.
    """
    kept = load_sources(dataset.root, dataset.generation).settings or {}
    try:
        return Pipeline.model_validate({**kept, "features": dict(kept.get("features", ()))})
    except (ValidationError, TypeError, ValueError, AttributeError):
        what = f"generation {dataset.generation} does not hold the settings that it was prepared with"
        where, todo = Where(file=str(dataset.root)), "Name the configuration that prepared it with -c FILE"
        raise UsageError(what, where=where, todo=todo) from None


def table_of(dataset: Dataset, config: Pipeline) -> tuple[str, ...] | None:
    """The names of the node table as they are frozen; None where nodes are found."""
    return dataset.nodes.names if config.lists_nodes else None


def target_of(dataset: Dataset) -> Normaliser:
    """What every date of a generation was mapped to."""
    frozen = Frozen(dataset.nodes, dataset.vocabularies, dataset.statistics)
    return Normaliser.of(frozen, dataset.manifest)


def refuse_other_settings(config: Pipeline, dataset: Dataset) -> None:
    """Refuses settings that are not those of the generation.

    Raises:
        UsageError: by these settings, or by this version, a dump would become other values than the generation holds.
    """
    if why := _difference(config, dataset, load_sources(dataset.root, dataset.generation)):
        raise UsageError(
            f"generation {dataset.generation} was prepared differently: {why}",
            where=Where(file=str(dataset.root)),
            todo="Name the configuration that prepared it with -c FILE, or prepare and train again",
        )


def _difference(config: Pipeline, dataset: Dataset, sources: Sources) -> str:
    manifest = dataset.manifest
    measure = config.measure_identity(table_of(dataset, config))
    same = [row for row in sources.dates.values() if row.measure == measure]
    alone = not sources.dates and sources.basis in bases_of(config, measure)  # statistics, and no shard
    if not same and not alone:
        keys = _differing(config, dataset)
        return f"the settings that decide how a dump is read ({keys}) differ"
    if not alone and not any(measured_so(row, measure) for row in same):
        return "this version measures dumps in another way"
    frozen = (manifest.statistics, manifest.nodes, manifest.vocabularies)
    if normalise_identity(config.normalise_settings(), *frozen) == manifest.normalise:
        return ""
    if sources.normalise is None or sources.normalise.code != NORMALISE_CODE:
        return "this version scales in another way"
    return "fill, transform, scale or clip differ"


def _differing(config: Pipeline, dataset: Dataset) -> str:
    """Names the settings that differ from those that the generation keeps; what they may be, where it keeps none."""
    with suppress(DateshardError):
        mine, theirs = _that_decide(config), _that_decide(settings_of(dataset))
        keys = sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))
        if keys:
            return ", ".join(f"pipeline.{key}" for key in keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    return "source, step, nodes, features"


def _that_decide(config: Pipeline) -> dict[str, Any]:
    """The settings by which a dump becomes values, by their place."""
    source = {f"source.{key}": value for key, value in config.source.measuring().items()}
    features = {f"features.{name}": feature for name, feature in config.features.items()}
    return {"layout": config.layout, "step": config.step_length, "calendar": config.calendar, **source, **features}
