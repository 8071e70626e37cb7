"""The length of a grid's step as a configuration spells it: one that divides a day."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.calendar import parse_step


def _divides_a_day(step: Any) -> Any:
    try:
        length = parse_step(step)
    except UsageError as error:
        raise ValueError(f"{error.what}. {error.todo}") from None
    if parse_step("1d") % length:
        raise ValueError(f"a step of {step} does not divide a day's 24 hours: choose one that does, as 5m, 1h or 6h")
    return step


DayStep = Annotated[str | int, BeforeValidator(_divides_a_day)]
