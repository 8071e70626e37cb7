"""What would be done, and why. A pure function of the configuration, what is committed, what is staged and the dumps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dateshard.pipeline.config import MEASURE_CODE, NORMALISE_CODE, TYPED_CODE, Pipeline
from dateshard.pipeline.planning.remarks import beside_shards, change_text, remarks_on, warnings_of
from dateshard.pipeline.planning.weights import known_weights
from dateshard.pipeline.raw.dumps import Dump, place_of
from dateshard.pipeline.source import StoreConfig
from dateshard.pipeline.splits import SHOWN_RANGES, resolve_split, why_not_last
from dateshard.shardstore.errors import DumpError, UsageError, Where, counted
from dateshard.shardstore.identity import identity, identity_of, nothing_to_collect
from dateshard.shardstore.manifest import Entry, Manifest, Ranges, in_no_split
from dateshard.shardstore.sources import SourceRow, Sources
from dateshard.shardstore.times.calendar import collapse, missing_days

BY_HAND = "dropped; preprocess DATE takes it in again"
EMPTY = "no row in it (pipeline.source.empty_date: drop), until its dump changes"


@dataclass(frozen=True, slots=True)
class ToCut:
    """A file of many dates as it is now, which must be cut before its dates are known; `why`: a sentence that names it."""

    whole: Dump
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that a plan looks at.

    Attributes:
        manifest, sources: of the current generation; None and an empty one before the first.
        staged: keys that lie measured on disk, by any date.
        dumps: the raw files that exist, by date.
        node_names: of the node table, None where nodes are found.
        nodes_id: of the node table with its positions, None where nodes are found.
        static_id: of the node table's static columns, empty where there are none. edges_id: likewise.
        to_cut: a file of many dates whose dumps are not known yet: there are none of it in `dumps`.
        no_match: why there is no dump at all, in words.
        weights: what dates hold that are not committed yet (`dateshard.pipeline.planning.weights`).
        merged: the dates that the frozen statistics were merged over; none where they are damaged.
    """

    manifest: Manifest | None
    sources: Sources
    staged: Mapping[dt.date, frozenset[str]]
    dumps: Mapping[dt.date, Dump]
    node_names: tuple[str, ...] | None
    nodes_id: str | None
    static_id: str = ""
    edges_id: str = ""
    to_cut: ToCut | None = None
    no_match: str = ""
    weights: Mapping[dt.date, int] = field(default_factory=dict)
    merged: tuple[dt.date, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; `dates` None means all."""

    dates: frozenset[dt.date] | None = None
    force: bool = False
    refit: bool = False
    resplit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DatePlan:
    """One date: its state with the reason, and what will be done with it."""

    date: dt.date
    state: str  # no-dump | missing | measured | fresh | stale(dump|config|code|statistics) | failed | excluded
    reason: str
    key: str  # of the staged array it should have; empty without a dump
    measure: bool = False
    normalise: bool = False
    store: bool = False  # only written in the formats and parts that it should have


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Acts with reasons.

    Attributes:
        merge: why the global statistics will be merged again; empty if the frozen ones stay.
        if_moved: dates whose shard will be written only if the merged statistics differ from the frozen ones.
        split: ranges of dates, resolved.
        undated: the rows have no date, and are shown without one.
        divided: records of every date are divided among the splits, and not the dates.
        in_no_split: known dates that lie in none of them.
        missing_days: days between the first and the last date without a dump, a shard, or a reason to be left out.
        beside_shards: what of the generation changes although no shard is written for it.
        remarks: what a person should know of the dataset, whatever is done.
        warnings: and what before the acts are carried out.
    """

    dates: tuple[DatePlan, ...]
    merge: str
    split: Mapping[str, Ranges]
    basis: str
    if_moved: tuple[dt.date, ...] = ()
    undated: bool = False
    divided: bool = False
    in_no_split: tuple[dt.date, ...] = ()
    missing_days: tuple[dt.date, ...] = ()
    beside_shards: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def to_measure(self) -> list[DatePlan]:
        """Dates whose dump will be read."""
        return [plan for plan in self.dates if plan.measure]

    @property
    def to_normalise(self) -> list[DatePlan]:
        """Dates whose shard will be written (or found to be equal)."""
        return [plan for plan in self.dates if plan.normalise]

    @property
    def to_store(self) -> list[DatePlan]:
        """Dates whose cells stay, but in other formats or parts."""
        return [plan for plan in self.dates if plan.store]

    def training(self, date: dt.date) -> bool:
        """Whether the date is a training date."""
        return any(low <= date <= high for low, high in self.split.get("train", ()))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What every date is held against.

    The settings, their measure identity, why each would be scaled anew, and which dates are left out."""

    config: Pipeline
    measure: str
    other_scale: tuple[str, str] | None
    left_out: Mapping[dt.date, str]  # why


def staged_key(dump_hash: str, measure: str, code: int = MEASURE_CODE) -> str:
    """Returns the key of a staged array, made of its inputs: the dump's content and the settings that decide its bytes."""
    plain = f'["{dump_hash}","{measure}",{code}]\n'  # canonical: both are hexadecimal; a plan makes one a date
    return identity_of(plain.encode())


def measured_so(source: SourceRow, measure: str) -> bool:
    """Whether a date's row of the sources file is of these settings, and of a code that still holds."""
    keys = (staged_key(source.dump.hash, measure, code) for code in (MEASURE_CODE, TYPED_CODE))
    return source.staged in keys


def basis_of(config: Pipeline, measure: str, seen: Observed) -> str:
    """Identifies the settings that global statistics rest on; another basis needs other statistics.

    Once they rest on the newer code of typed dumps they do so for ever, whichever dumps are still there.
    """
    plain, typed = bases_of(config, measure)
    newer = seen.sources.basis == typed or any(dump.typed for dump in seen.dumps.values())
    return typed if newer else plain


def bases_of(config: Pipeline, measure: str) -> tuple[str, str]:
    """Returns what `basis_of` may be: where dumps are text, and where some are typed."""
    plain, typed = (identity([measure, code, config.partial_settings()]) for code in (MEASURE_CODE, TYPED_CODE))
    return plain, typed


def normalise_identity(settings: str, statistics: str, nodes: str, vocabularies: str = "") -> str:
    """Identifies all that decides a shard's bytes beside its staged array; `vocabularies` is empty without categories."""
    return identity([settings, NORMALISE_CODE, statistics, nodes, *([vocabularies] if vocabularies else [])])


def split_settings(config: Pipeline) -> Any:
    """The split as configured, in JSON: fractions are resolved again when it changes."""
    return config.split.model_dump(mode="json") if config.split else None


@nothing_to_collect()
def make_plan(config: Pipeline, seen: Observed, wish: Wish) -> Plan:
    """States of all dates, and the acts that the wish needs.

    Raises:
        UsageError: the settings leave no date of those that exist, or make no split of them.
    """
    measure = config.measure_identity(seen.node_names)
    basis = basis_of(config, measure, seen)
    left_out = _left_out(config, seen, wish, measure)
    known = known_dates(seen, left_out)
    _refuse_none_left(config, seen, known)
    frozen = seen.manifest.split if seen.manifest and seen.sources.split == split_settings(config) else None
    weights = {} if config.split else known_weights(seen, config)
    split = resolve_split(config.split, known, None if wish.resplit else frozen, weights)
    wanted = _Wanted(config, measure, _other_scale(config, seen), left_out)
    listed = {*known, *left_out, *_asked(wish)}
    states = [_state(date, wanted, seen) for date in sorted(listed)]
    merge = _why_merge(config, seen, wish, basis)
    everything = bool(merge or wanted.other_scale)
    acts = (_acts(plan, seen, wish, bool(merge), everything, split) for plan in states)
    fits = _stored_as_wanted(config.store)
    plans = tuple(_with_formats(plan, config, seen, wish, fits) for plan in acts)
    plan = Plan(
        dates=plans,
        merge=merge,
        split=split,
        basis=basis,
        if_moved=_if_moved(plans, seen, wish, split) if merge else (),
        undated=config.source.undated,
        divided=config.split is not None and config.split.by is not None,
        in_no_split=tuple(in_no_split(split, known)),
        missing_days=_missing(config, seen, known, left_out),
    )
    remarks = (*remarks_on(plan, config, seen, known), *why_not_last(known, weights, split))
    warnings = (*warnings_of(plan, seen, wish), *remarks)
    return replace(plan, beside_shards=beside_shards(plan, seen), remarks=remarks, warnings=warnings)


def _refuse_none_left(config: Pipeline, seen: Observed, known: Sequence[dt.date]) -> None:
    there = sorted({*seen.dumps, *(seen.manifest.dates if seen.manifest else ())})
    if known or not there or seen.to_cut or not all(map(config.why_left_out, there)):
        return
    key = "pipeline.exclude" if config.source.dates is None else "pipeline.source.dates"
    what = f"{key} leaves no date of those that exist: {collapse(there, SHOWN_RANGES)}"
    raise UsageError(what, todo="Correct it, or name another dataset")


def _missing(
    config: Pipeline, seen: Observed, known: Sequence[dt.date], left_out: Collection[dt.date]
) -> tuple[dt.date, ...]:
    if not known or seen.to_cut:
        return ()
    days = missing_days(known[0], known[-1], {*known, *left_out}, config.source.timezone)
    return tuple(day for day in days if not config.why_left_out(day))


def _left_out(config: Pipeline, seen: Observed, wish: Wish, measure: str) -> dict[dt.date, str]:
    """Returns {date: why} of the dates that belong to no dataset: by the settings, else because they were dropped."""
    named = {low for low, high in config.exclude if low == high}
    there = {*seen.dumps, *(seen.manifest.dates if seen.manifest else ()), *named, *_asked(wish)}
    whys = ((date, config.why_left_out(date)) for date in there) if config.exclude or config.source.dates else ()
    return _dropped(config, seen, wish, measure) | {date: why for date, why in whys if why}


def _dropped(config: Pipeline, seen: Observed, wish: Wish, measure: str) -> dict[dt.date, str]:
    """Returns {date: why} of what is left out: by hand until it is asked for by name, for no rows until its dump changes."""
    rows = seen.sources.dropped
    asked = _asked(wish)
    by_hand = dict.fromkeys((date for date, row in rows.items() if row.empty is None and date not in asked), BY_HAND)
    same = config.source.empty_date == "drop"
    tolerated = config.source.tolerated()
    return by_hand | {
        date: EMPTY
        for date, row in rows.items()
        if same and row.empty is not None and (dump := seen.dumps.get(date)) and row.tolerated == tolerated
        if row.empty == staged_key(dump.hash, measure, dump.code)
    }


def known_dates(seen: Observed, left_out: Collection[dt.date]) -> list[dt.date]:
    """Dates that a split is about: those with a dump or a shard, but for what is left out."""
    committed = set(seen.manifest.dates) if seen.manifest else set()
    return sorted((set(seen.dumps) | committed) - set(left_out))


def _asked(wish: Wish) -> set[dt.date]:
    return set(wish.dates or ())


def refuse_no_match(seen: Observed) -> None:
    """Refuses to plan where no dump was found at all.

    Raises:
        DumpError: there is no dump at all.
    """
    if seen.no_match:
        raise DumpError(seen.no_match, todo="Correct pipeline.source.path, or the folder you are in")


def refuse_unknown(plan: Plan, wish: Wish, seen: Observed, path: str) -> None:
    """Refuses dates that were asked for and are not there.

    Raises:
        DumpError: dates that were asked for, of which there is neither a dump nor a shard; says where they would lie.
    """
    there = set(seen.dumps) | set(seen.manifest.dates if seen.manifest else ())
    if unknown := sorted(_asked(wish) - there - {p.date for p in plan.dates if p.state == "excluded"}):
        where, todo = Where(file=place_of(path, unknown[0])), "Check the date, or pipeline.source.path"
        raise DumpError(f"no dump of {collapse(unknown)} there", where=where, todo=todo)


def _state(date: dt.date, wanted: _Wanted, seen: Observed) -> DatePlan:
    measure = wanted.measure
    if date in wanted.left_out:
        return DatePlan(date=date, state="excluded", reason=wanted.left_out[date], key="")
    dump = seen.dumps.get(date)
    source = seen.sources.dates.get(date)
    if dump is None and seen.to_cut:
        state = "stale(dump)" if source else "missing"
        return DatePlan(
            date=date, state=state, reason="known once its file is divided", key=source.staged if source else ""
        )
    if dump is None:
        committed = seen.manifest is not None and date in seen.manifest.dates
        kept = (
            "the dump is gone, its shard stays"
            if committed
            else f"no dump: {place_of(wanted.config.source.path, date)}"
        )
        if source and not measured_so(source, measure):
            return DatePlan(
                date=date, state="no-dump", reason="the dump is gone, and it was measured with other settings", key=""
            )
        return DatePlan(date=date, state="no-dump", reason=kept, key=source.staged if source else "")
    key = staged_key(dump.hash, measure, dump.code)
    failed = seen.sources.failed.get(date)
    if failed and not (source and source.staged == key):
        changed = "the dump or its settings changed since it failed"
        return DatePlan(date=date, state="failed", reason=failed.what if failed.staged == key else changed, key=key)
    if seen.manifest is None or date not in seen.manifest.dates or source is None:
        return DatePlan(
            date=date, state="measured" if key in seen.staged[date] else "missing", reason="no shard yet", key=key
        )
    state, reason = _staleness(wanted, source, dump, key)
    return DatePlan(date=date, state=state, reason=reason, key=key)


def _staleness(wanted: _Wanted, source: SourceRow, dump: Dump, key: str) -> tuple[str, str]:
    if source.staged != key:
        if source.dump.hash != dump.hash:
            return "stale(dump)", f"dump changed ({change_text(source.dump.size, dump.size)})"
        if source.measure != wanted.measure:
            return "stale(config)", "settings that decide its values changed"
        return "stale(code)", "this version measures differently"
    return wanted.other_scale or ("fresh", "nothing changed")


def _other_scale(config: Pipeline, seen: Observed) -> tuple[str, str] | None:
    """State and reason if every shard was scaled with other settings, statistics or nodes than are now wanted."""
    if seen.manifest is None:
        return None
    nodes, settings = seen.nodes_id or seen.manifest.nodes, config.normalise_settings()
    frozen = seen.manifest.statistics, nodes, seen.manifest.vocabularies
    if normalise_identity(settings, *frozen) == seen.manifest.normalise:
        return None
    was = seen.sources.normalise
    if was is None or was.settings != settings:
        keeps = seen.manifest.keeps_unknown != config.keeps_unknown
        return "stale(config)", f"{'nodes.unknown' if keeps else 'fill, transform, scale or clip'} changed"
    if was.code != NORMALISE_CODE:
        return "stale(code)", "this version normalises differently"
    return "stale(statistics)", "another node table or statistics"


def _why_merge(config: Pipeline, seen: Observed, wish: Wish, basis: str) -> str:
    if seen.manifest is None:
        return "no statistics yet"
    if wish.refit:
        return "--refit-statistics"
    if wish.resplit and config.split and config.split.by:
        return "--resplit: other cuts may train"
    if seen.sources.basis != basis:
        return "settings of the statistics changed"
    mended = [date for date in seen.manifest.provisional if _mended(date, config, seen)]
    return f"training dates that failed are tried again: {', '.join(map(str, mended))}" if mended else ""


def _mended(date: dt.date, config: Pipeline, seen: Observed) -> bool:
    """A provisional date whose dump, or what is tolerated of it, is not what it was when it failed."""
    failed = seen.sources.failed.get(date)
    dump = seen.dumps.get(date)
    if dump is None or failed is None:
        return dump is not None
    return failed.dump.hash != dump.hash or failed.tolerated != config.source.tolerated()


def _acts(
    plan: DatePlan, seen: Observed, wish: Wish, merge: bool, everything: bool, split: Mapping[str, Ranges]
) -> DatePlan:
    """Adds the acts. A generation has one normalise identity: when that changes, every committed date is normalised."""
    if plan.state == "excluded" or not plan.key or seen.to_cut:
        return plan
    asked = wish.dates is None or plan.date in wish.dates
    committed = seen.manifest is not None and plan.date in seen.manifest.dates
    wanted = asked and (wish.force or plan.state not in ("fresh", "no-dump"))
    normalise = wanted or (everything and committed)
    needed = normalise or (merge and _trains(plan.date, split))
    if not needed:
        return plan
    staged = plan.key in seen.staged[plan.date]
    measure = plan.state != "no-dump" and ((wanted and wish.force) or not staged)
    return DatePlan(
        date=plan.date, state=plan.state, reason=plan.reason, key=plan.key, measure=measure, normalise=normalise
    )


def states_kept(wish: Wish) -> tuple[str, ...]:
    """States of dates whose shard stays unless all are scaled anew; by force that of a gone dump is made again."""
    return ("fresh",) if wish.force else ("fresh", "no-dump")


def _if_moved(
    plans: Sequence[DatePlan], seen: Observed, wish: Wish, split: Mapping[str, Ranges]
) -> tuple[dt.date, ...]:
    """Dates that may stay as they are: the statistics are merged over the same dates as before, and none has changed."""
    trains = {plan.date: plan.state for plan in plans if plan.key and _trains(plan.date, split)}
    if trains.keys() != {*(seen.merged or trains)} or not {*trains.values()} <= {"fresh", "no-dump"}:
        return ()
    kept = states_kept(wish)
    return tuple(plan.date for plan in plans if plan.normalise and not plan.measure and plan.state in kept)


def _trains(date: dt.date, split: Mapping[str, Ranges]) -> bool:
    return any(low <= date <= high for low, high in split.get("train", ()))


def _stored_as_wanted(store: StoreConfig) -> Callable[[Entry], bool]:
    """Whether a date is stored in just the formats and parts that it should have, once for all dates that are alike."""
    known = dict[tuple[object, ...], bool]()

    def fits(entry: Entry) -> bool:
        kind = (*entry.parts[0].formats, *[shard.nodes for shard in entry.parts])
        if (same := known.get(kind)) is None:
            same = known[kind] = stored_as(entry, store)
        return same

    return fits


def stored_as(entry: Entry, store: StoreConfig) -> bool:
    """Whether a committed date has just the formats and the parts that it should have."""
    if set(entry.parts[0].formats) != set(store.formats):
        return False
    return [shard.nodes for shard in entry.parts] == store.parts_of(entry.num_nodes)


def _with_formats(
    plan: DatePlan, config: Pipeline, seen: Observed, wish: Wish, fits: Callable[[Entry], bool]
) -> DatePlan:
    """Adds the writing of a committed date in other formats or parts. Its shard stays what it is, and so does its state."""
    asked = wish.dates is None or plan.date in wish.dates
    entry = seen.manifest.dates.get(plan.date) if seen.manifest else None
    if entry is None or not asked or plan.normalise or plan.state not in ("fresh", "no-dump") or fits(entry):
        return plan
    has, wanted = set(entry.parts[0].formats), set(config.store.formats)
    parts, divided = [shard.nodes for shard in entry.parts], config.store.parts_of(entry.num_nodes)
    missing = ", ".join(sorted(wanted - has))
    why = f"to be written as {missing}" if missing else f"no longer as {', '.join(sorted(has - wanted))}"
    if has == wanted:
        why = f"to be written in {counted(len(divided), 'part')}, not {len(parts)}"
        why = "to be divided after other nodes" if len(divided) == len(parts) else why
    reason = why if plan.state == "fresh" else f"{plan.reason}; {why}"
    return replace(plan, reason=reason, store=True)
