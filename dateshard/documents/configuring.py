"""What config, doctor and any command that fails print with `--json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict


class ConfigDocument(TypedDict):
    """What a configuration resolves to."""

    settings: Annotated[dict[str, Any], Field(description="as `dateshard schema` says")]
    origins: Annotated[
        dict[str, str], Field(description="of each dotted key: default, file:line:column, environment NAME, override")
    ]


class ConfigFault(TypedDict):
    """A fault of a configuration."""

    place: Annotated[str, Field(description="file:line:column, environment NAME or override; may be empty")]
    key: Annotated[str, Field(description="dotted; empty where the file cannot be read")]
    message: str


class ConfigCheckDocument(TypedDict):
    """All that is wrong with a configuration."""

    ok: bool
    faults: list[ConfigFault]


class DoctorRow(TypedDict):
    """One thing that was looked at."""

    name: str
    level: Literal["ok", "warn", "fail"]
    value: Annotated[str, Field(description="what was found")]
    todo: Annotated[str, Field(description="what to do about it; empty where all is well")]


class DoctorDocument(TypedDict):
    """Whether this installation and this machine do."""

    ok: Annotated[bool, Field(description="nothing fails (exit 0)")]
    checks: list[DoctorRow]


class ErrorFacts(TypedDict):
    """What went wrong."""

    kind: Annotated[
        str, Field(description="usage, store, damaged, not there, disk full, dump, busy, interrupted, error")
    ]
    message: Annotated[str, Field(description="what, where, what to do next")]
    exit_code: int


class ErrorDocument(TypedDict):
    """What stands on stdout where a command with --json fails before it has anything to print."""

    error: ErrorFacts
