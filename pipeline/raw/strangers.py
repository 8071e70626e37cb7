"""Names that nobody knows, and which of them look like known ones: `7.0` like `7`, ` 7`, `007`, `n7` like `N7`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from dateshard.shardstore.errors import shorten


@dataclass(frozen=True, slots=True)
class Strangers:
    """Unknown names of one date.

    Attributes:
        alike: how many of them look like a known name. example: the first such, and the known one.
        first: the first of all; None where there is none.
    """

    count: int
    alike: int = 0
    example: tuple[str, str] | None = None
    first: str | None = None

    @staticmethod
    def of(names: Collection[str], known: Sequence[str]) -> Strangers:
        """Looks which unknown names differ from a known one in case, blanks, leading zeros, `.0` or Unicode form alone."""
        if not names:
            return NO_STRANGERS
        import polars as pl  # takes 0.3 s, and hardly a date has strangers

        plain = pl.col("name").str.normalize("NFKC").str.to_lowercase().str.strip_chars()
        plain = plain.str.replace_all(r"(^|[^\d.])0+(\d)", "${1}${2}").str.replace(r"^\+?(-?\d+)(\.0*)?$", "${1}")
        tables = (pl.DataFrame({"name": sorted(own)}, schema={"name": pl.String}) for own in (names, known))
        unknown, others = (table.with_columns(plain=plain) for table in tables)
        first = others.unique("plain", keep="first", maintain_order=True)
        pairs = unknown.join(first, on="plain", maintain_order="left").filter(pl.col("name") != pl.col("name_right"))
        example = (pairs["name"][0], pairs["name_right"][0]) if len(pairs) else None
        return Strangers(len(names), len(pairs), example, min(names))

    def hint(self) -> str:
        """Tells `, 30 of which look like known ones: '7.0' like '7'`, and what to do; where none does, which is the first."""
        if self.example is None:
            return "" if self.first is None else f", such as '{shorten(self.first)}'"
        same = len({normalize("NFC", text) for text in self.example}) == 1
        name, known = (shorten(ascii(text)[1:-1] if same else text) for text in self.example)
        looks = (
            "1 of which looks like a known one" if self.alike == 1 else f"{self.alike:,} of which look like known ones"
        )
        return f", {looks}: '{name}' like '{known}'. Name them alike in all dumps"


NO_STRANGERS = Strangers(0)
