"""How a path spells the date of the dumps that it names, refused where it leaves open which date that is."""

from __future__ import annotations

import datetime as dt
import re
from contextlib import suppress

from dateshard.shardstore.errors import UsageError

PLACEHOLDER = re.compile(r"\{date(?::([^}]+))?\}")
SAMPLES = dt.date(2013, 3, 5), dt.date(2024, 11, 30)


def refuse_pattern(pattern: str) -> None:
    """Refuses a path whose date is no date, before anything is looked for.

    Raises:
        UsageError: the date is spelled in two ways, or in one that leaves open which date it is.
    """
    styles = list(dict.fromkeys(match[1] or "%Y-%m-%d" for match in PLACEHOLDER.finditer(pattern)))
    if len(styles) > 1:
        raise UsageError(f"'{pattern}' spells its date in two ways", todo="Use one spelling")
    for style in styles:
        if "/" in style:
            raise UsageError(f"'{{date:{style}}}' reaches over folders", todo="Write it as one name, such as {date}")
        if any(_read_back(date, style) != date for date in SAMPLES):
            raise _no_date(pattern, style)


def _read_back(date: dt.date, style: str) -> dt.date | None:
    with suppress(ValueError):
        return dt.datetime.strptime(date.strftime(style), style).date()
    return None


def _no_date(pattern: str, style: str) -> UsageError:
    """Makes the error of a pattern that leaves parts of a date open, or that nothing can be read by."""
    first = SAMPLES[0]
    others = {"year": first.replace(year=2015), "month": first.replace(month=9), "day": first.replace(day=25)}
    lacking = [unit for unit, other in others.items() if other.strftime(style) == first.strftime(style)]
    if len(lacking) in (0, len(others)):
        todo = "Write %Y, %m and %d, as in {date:%Y%m%d}"
        return UsageError(f"'{{date:{style}}}' is not a pattern of a date", todo=todo)
    return UsageError(
        f"'{{date:{style}}}' has no {' and no '.join(lacking)}, and a dump holds one date",
        todo="Files of many dates each are named without {date}, as one table that is divided by the times of its rows: "
        f"write {PLACEHOLDER.sub('*', pattern)}",
    )
