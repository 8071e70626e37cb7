"""Mutated raw files: an account of all rows, or one sentence that names the file. `bench/raw_fuzz.py` plays more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dateshard.pipeline.raw import decode, formats
from dateshard.pipeline.raw.formats import text
from tests.kit.raw_kinds import KINDS
from tests.kit.raw_mutants import Tally, rounds


def told(tallies: dict[str, Tally]) -> str:
    return "\n".join(wrong for tally in tallies.values() for wrong in tally.wrong)


def judged(tallies: dict[str, Tally], count: int) -> None:
    """Nothing is left out, and the mutants were neither all refused nor all harmless."""
    assert sum(tally.mutants for tally in tallies.values()) == count
    assert set(tallies) == set(KINDS)
    for tally in tallies.values():
        assert tally.refused + tally.same + tally.changed == tally.mutants
    texts = [tally for name, tally in tallies.items() if KINDS[name].rows]
    assert all(min(tally.refused, tally.changed) > 0 for tally in texts)
    assert sum(tally.rejected for tally in texts) > count // 200


def test_a_mutated_file_is_counted_row_by_row_or_refused_in_one_sentence(tmp_path: Path) -> None:
    tallies = rounds(tmp_path, 11, range(2000))
    assert told(tallies) == ""
    judged(tallies, 2000)


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
def test_fifty_thousand_mutated_files_are_counted_or_refused(tmp_path: Path) -> None:
    tallies = rounds(tmp_path, 12, range(50_000))
    assert told(tallies) == ""
    judged(tallies, 50_000)


def test_a_page_checksum_lets_no_changed_value_pass(tmp_path: Path) -> None:
    tally = rounds(tmp_path, 13, range(1500))["parquet typed"]
    assert (tally.wrong, tally.changed) == ([], 0)
    assert tally.refused > 50


def without_its_first_row(block: formats.RowBlock) -> formats.RowBlock:
    fewer = replace(block, frame=block.frame[1:], row_R=block.row_R[1:], bad={n: t[1:] for n, t in block.bad.items()})
    if isinstance(fewer, formats.ListedRowBlock):
        return replace(fewer, places={n: replace(p, place_R=p.place_R[1:]) for n, p in fewer.places.items()})
    return replace(fewer, texts=fewer.texts[1:]) if isinstance(fewer, formats.RaggedRowBlock) else fewer


@pytest.mark.parametrize("broken", ["rows", "error", "blocks"])
def test_the_fuzz_sees_a_reader_that_loses_rows_raises_or_depends_on_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    accept, whole = decode._accept, text.BLOCK_BYTES

    def instead(piece, timed, *rest):  # type: ignore[no-untyped-def]
        if broken == "error" and piece.bad:
            raise ValueError("two\nlines")
        if broken == "rows" or (broken == "blocks" and whole != text.BLOCK_BYTES):
            piece = without_its_first_row(piece)
            timed = tuple(part[1:] for part in timed)
        return accept(piece, timed, *rest)

    monkeypatch.setattr(decode, "_accept", instead)
    assert len(told(rounds(tmp_path, 14, range(300))).splitlines()) > 5
