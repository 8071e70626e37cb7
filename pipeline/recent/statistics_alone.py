"""A generation that holds statistics and nodes, and no shard: what dates are scaled by that are read straight from dumps."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dateshard.pipeline import account
from dateshard.pipeline.config import NORMALISE_CODE, Pipeline
from dateshard.pipeline.drop import still_dropped
from dateshard.pipeline.execution.node_facts import with_node_facts
from dateshard.pipeline.generation_settings import refuse_other_settings, table_of
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.pipeline.planning.plan import Observed, Plan, Wish, make_plan, split_settings
from dateshard.pipeline.raw.cut_index import cut_account
from dateshard.pipeline.recent.dates_from_dumps import observed_dumps, raw_of, refuse_divided
from dateshard.pipeline.recent.measuring_pass import Passed, measuring_pass
from dateshard.shardstore.commands import command
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NoRowsError, UsageError, Where, shorten
from dateshard.shardstore.frozen import load_frozen, load_new_nodes, save_frozen
from dateshard.shardstore.objects.bucket_store import has_store
from dateshard.shardstore.sources import NormaliseRow, Sources

SHOWN = 3  # nodes in a message


def measure_statistics(name: str, config: Pipeline, root: Path, num_workers: int | None) -> Dataset:
    """Measures the statistics in one pass over all dumps, and commits them without a shard.

    Memory: that of `measuring_pass`. Writes some kB, and nothing else.

    Raises:
        UsageError: the dataset has a generation already, or its records are divided among the splits.
        DumpError, FailedDatesError: dumps that cannot be used. BusyError: another process writes this dataset.
    """
    refuse_divided(config)
    if has_store(root):
        what = f"generation {Dataset.open(root).generation} has statistics already, by which its dates are scaled"
        todo = f"Measure them anew with {command('preprocess', '--refit-statistics', config=True)}"
        raise UsageError(what, where=Where(file=str(root)), todo=todo)
    seen, about = observed_dumps(config, root, None)
    with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
        passed = measuring_pass(config, Path(folder), seen, about, num_workers)
    return _commit(name, config, root, passed, about)


def take_statistics(name: str, config: Pipeline, root: Path, statistics: Dataset) -> Dataset:
    """Commits the statistics and nodes of another dataset, without a shard; where it is done already, checks that.

    Raises:
        UsageError: the other dataset was prepared with other settings, has no node of the dumps, or this one has a
            generation with other statistics.
        DumpError: dumps that cannot be used. BusyError: another process writes this dataset.
    """
    if has_store(root):
        return _same(Dataset.open(root), statistics)
    refuse_divided(config)
    refuse_other_settings(config, statistics)
    seen, about = observed_dumps(config, root, None)
    plan, theirs = make_plan(config, seen, Wish()), statistics.manifest
    _refuse_strangers(config, seen, plan, statistics)
    frozen = load_frozen(statistics.root, theirs.statistics, theirs.nodes, theirs.vocabularies)
    if config.nodes and about.nodes:
        if about.nodes.names != frozen.nodes.names:
            raise _other_nodes(about.nodes.names, Where(file=config.nodes.table), statistics)
        frozen = replace(frozen, nodes=about.nodes)  # the same names, with this table's positions
    frozen = replace(frozen, new_nodes=load_new_nodes(statistics.root, theirs.new_nodes))
    return _same(_commit(name, config, root, Passed(frozen=frozen, plan=plan, seen=seen), about), statistics)


def _same(current: Dataset, statistics: Dataset) -> Dataset:
    if current.manifest.statistics == statistics.manifest.statistics:
        return current
    what = f"generation {current.generation} is scaled by other statistics than those of {statistics.root}"
    todo = "Leave loading.statistics out, or give the configuration another name of its dataset"
    raise UsageError(what, where=Where(file=str(current.root)), todo=todo)


def _refuse_strangers(config: Pipeline, seen: Observed, plan: Plan, statistics: Dataset) -> None:
    """Refuses dumps whose first date with a row has none of the nodes that the statistics are of."""
    raw = raw_of(config, seen.dumps, {each.date for each in plan.dates if each.state != "excluded"})
    known = statistics.nodes.names
    for date in sorted(raw.dumps):
        with suppress(NoRowsError), tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
            nodes = replace(raw, folder=Path(folder)).stage(date, table_of(statistics, config)).nodes
            if not set(nodes) & set(known):
                raise _other_nodes(nodes, Where(file=str(raw.dumps[date].path), date=date), statistics)
            return


def _other_nodes(names: Sequence[str], where: Where, statistics: Dataset) -> UsageError:
    mine, theirs = (", ".join(map(shorten, some[:SHOWN])) for some in (names, statistics.nodes.names))
    what = f"its nodes ({mine}) are not those that the statistics of {statistics.root} are of ({theirs})"
    return UsageError(what, where=where, todo=f"Measure statistics of its own: {measuring_command()}")


def measuring_command() -> str:
    """The command that measures statistics alone."""
    return command("statistics", "--measure", config=True)


def _commit(name: str, config: Pipeline, root: Path, made: Passed, about: AboutNodes) -> Dataset:
    """Commits what is frozen as the first generation; where another process was first, its generation stays."""
    with StoreWriter(root) as writer:
        current, _ = writer.current()
        if current is None:
            writer.published(save_frozen(root, made.frozen))
            skeleton = account.skeleton(name, config, made.frozen, made.plan, ())
            manifest = with_node_facts(skeleton, writer, config, about, made.frozen)
            sources = Sources(
                basis=made.plan.basis,
                split=split_settings(config),
                normalise=NormaliseRow(config.normalise_settings(), NORMALISE_CODE),
                dropped=still_dropped(made.seen.sources, made.plan),
                cut=cut_account(root, made.seen.dumps, config),
            )
            current = writer.commit(manifest, account.with_settings(sources, config, None), None)
        return Dataset(root, current.generation, current.manifest)
