"""The tables of an evaluation, of figures that are made up."""

from __future__ import annotations

import io
from typing import Any

import pytest

from dateshard.judging.tables import show
from dateshard.terminal.screen import Screen
from dateshard.trainer.assessment.evaluation import RAW_FIGURES, Evaluation, Row


class Terminal(io.StringIO):
    """A text that says that it is a terminal."""

    def isatty(self) -> bool:
        """Says so."""
        return True


Mape = tuple[float | None, int]
LONG = "departure_delay"


def printed(by_feature: dict[str, Mape], *, terminal: bool) -> str:
    """What is printed of a model with such a MAPE, and number of targets that it leaves out, of each target."""
    raw: dict[str, Any] = {}
    for name, (mape, left) in by_feature.items():
        quantiles = dict.fromkeys(("p50", "p90", "p99"), 12345.678)
        raw[name] = dict.fromkeys(RAW_FIGURES, 1.0) | {
            "error_quantiles": quantiles,
            "mape": mape,
            "mape_left_out": left,
        }
    scaled = dict.fromkeys(RAW_FIGURES, 1.0)
    row = Row(name="dlinear", kind="model", scaled=scaled, raw={"by_feature": raw})
    screen, out = Screen(), Terminal() if terminal else io.StringIO()
    screen.out, screen.terminal = out, terminal
    show(screen, Evaluation(split="test", windows=9, features=list(raw), rows=[row], notes=[]))
    return out.getvalue()


def test_what_mape_leaves_out_stands_beside_it_within_80_columns() -> None:
    figures = {LONG: (0.123, 7_540_215), "delay": (None, 75_402)}
    text = printed(figures, terminal=True)
    assert max(map(len, text.splitlines())) <= 80, text
    head, first, second = (line.split() for line in text.splitlines()[-3:])
    assert head[-4:] == ["MAPE", "%", "left", "out"]
    assert first[-2:] == ["12.3", "7540215"]
    assert second[-2:] == ["-", "all"]
    assert "\t12.3\t7540215\n" in printed(figures, terminal=False)


@pytest.mark.parametrize("mape", [(None, 75_402), (0.123, 0)], ids=["all", "nothing"])
def test_where_mape_leaves_out_all_or_nothing_no_column_says_so(mape: Mape) -> None:
    text = printed({LONG: mape}, terminal=True)
    assert "left out" not in text
    assert "75402" not in text
    assert ("MAPE" in text) == (mape[0] is not None)
