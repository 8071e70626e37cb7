"""What a preprocess is asked for: its dates by name, by their state and by their split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dateshard.preparing.selectors import plain_dates, select_dates
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.errors import UsageError

if TYPE_CHECKING:
    from dateshard.pipeline.planning.plan import Wish
    from dateshard.pipeline.planning.preview import Survey
    from dateshard.settings import Settings
    from dateshard.shardstore.errors import DumpError

STATES = "failed,stale,missing,measured"


def no_dump(settings: Settings, surveyed: Survey) -> Callable[[str], DumpError]:
    """Makes the error of a selector that names no date, neither of dumps nor of shards."""
    from dateshard.shardstore.errors import DumpError, Where

    where, todo = Where(file=settings.preparing().source.path), "Check the dates, or pipeline.source.path"
    if surveyed.seen.to_cut:
        todo = f"{surveyed.seen.to_cut.why}. {to_run('preprocess', config=True)}"
    return lambda what: DumpError(what, where=where, todo=todo)


def refuse_unknown_dates(settings: Settings, surveyed: Survey, wish: Wish) -> None:
    """What preprocess refuses too: dates without a dump and a shard. One that is still to be cut out is not known yet.

    Raises:
        DumpError: names them.
    """
    from dateshard.pipeline.planning.plan import refuse_unknown

    if not surveyed.seen.to_cut:
        refuse_unknown(surveyed.plan, wish, surveyed.seen, settings.preparing().source.path)


def wish_of(
    settings: Settings,
    selectors: Sequence[str],
    *,
    only: str,
    exclude: Sequence[str],
    force: bool,
    refit: bool,
    resplit: bool,
) -> Wish:
    """Selectors -> a wish. States and splits are looked up in the plan of everything."""
    from dateshard.pipeline.planning.plan import Wish
    from dateshard.pipeline.planning.preview import survey
    from dateshard.places import shards_folder
    from dateshard.shardstore.errors import DumpError

    wish = Wish(None, force, refit, resplit)
    if not (selectors or only or exclude):
        return wish
    named = [] if only or exclude else plain_dates(selectors)
    if named:  # no need to look twice at a store of thousands
        return Wish(frozenset(named), force, refit, resplit)
    surveyed = survey(settings.preparing(), shards_folder(settings.dataset), Wish())
    if surveyed.seen.to_cut:  # its new dates would be passed over in silence
        todo = f"Name single dates, or run: {command('preprocess', config=True)}"
        raise DumpError(f"{surveyed.seen.to_cut.why}. Which dates are meant is not known before", todo=todo)
    everything = surveyed.plan
    known = [p.date for p in everything.dates if p.state != "excluded"]  # those are taken by their name alone
    selected = select_dates(selectors, known, dict(everything.split), no_dump(settings, surveyed))
    chosen = set(known if selected is None else selected)
    refuse_unknown_dates(settings, surveyed, Wish(frozenset(chosen)))
    chosen -= set(select_dates(exclude, known, dict(everything.split)) or ())
    if only:
        wanted = {state.strip() for state in only.split(",")}
        if unknown := wanted - set(STATES.split(",")):
            raise UsageError(f"--only {', '.join(sorted(unknown))}: the states are {STATES}")
        chosen &= {p.date for p in everything.dates if p.state.split("(")[0] in wanted}
    return Wish(frozenset(chosen), force, refit, resplit)
