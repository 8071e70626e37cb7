"""What became of the rows of a dump."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of a dump's rows: read = accepted + the sum of rejected.

    Attributes:
        rejected: {reason: rows} that are left out.
        changed: {reason: values} that were made missing or moved to a bound in rows that stay.
    """

    read: int
    accepted: int
    rejected: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
