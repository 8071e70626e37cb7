"""How a replayed step looks: its figures, and the windows and rows behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from dateshard.documents.replay import ReplayDocument, TracedCell, TracedRow
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen

SHOWN_WINDOWS, SHOWN_ROWS = 5, 3


def show_replay(screen: Screen, document: ReplayDocument) -> None:
    """The step's figures with all their digits, whether they are those that were logged, and the windows if asked for."""
    first, last = document["batches"]
    epoch = f"epoch {document['epoch']}, {'batch' if first == last else 'batches'} {first:,}"
    epoch += f"{'' if first == last else f' to {last:,}'} of {document['num_batches']:,}"
    origin = document["from_checkpoint"] or "the run's first batch"
    screen.tell(f"{document['run']}, step {document['step']:,}: {epoch}, {counted(document['windows'], 'window')}")
    for note in document["notes"]:
        screen.tell(f"note: {note}")
    losses = document["losses"].items() if len(document["losses"]) > 1 else ()
    screen.table(
        [
            ["loss", _exact(document["loss"])],
            *([f"loss {name}", _exact(loss)] for name, loss in losses),
            ["gradient norm", _exact(document["gradient_norm"])],
            ["learning rate", _exact(document["learning_rate"])],
            ["weights", "not changed: skipped" if document["skipped"] else "changed"],
            ["taken again", f"{counted(document['steps_taken'], 'step')} from {origin}"],
        ]
    )
    _show_comparison(screen, document)
    if document["trace"] is not None:
        _show_trace(screen, document)


def _show_comparison(screen: Screen, document: ReplayDocument) -> None:
    if document["equal"] is None:
        screen.tell("metrics.jsonl has no row of this step, so nothing is compared")
    elif document["equal"]:
        screen.tell("equal to its row of metrics.jsonl, to the last bit")
    else:
        screen.tell("NOT what metrics.jsonl says of this step:")
        rows = [[row["key"], str(row["logged"]), str(row["replayed"])] for row in document["differences"]]
        screen.table([["", "logged", "replayed"], *rows])


def _show_trace(screen: Screen, document: ReplayDocument) -> None:
    for window in (document["trace"] or [])[:SHOWN_WINDOWS]:
        place = f"window of {window['anchor']}" if window["anchor"] else "row"
        screen.tell(f"{place}, batch {window['batch']:,}: loss {_short(window['loss'])}")
        screen.table([_cell(cell) for cell in window["cells"]], indent="    ", wrap=True)
    if document["windows"] > SHOWN_WINDOWS:
        all_of_them = command("replay", document["run"], "--step", document["step"], "--trace", "--json")
        screen.say(f"the {SHOWN_WINDOWS} with the greatest loss of {document['windows']:,}; all: {all_of_them}")


def _cell(cell: TracedCell) -> list[str]:
    where = f"{cell['feature']} of {cell['node']}" + (f" at {cell['time']}" if cell["time"] else "")
    value = cell["value"] if isinstance(cell["value"], str) else _short(cell["value"])
    rows, count = cell["rows"], cell["num_rows"] or 0
    if rows is None:
        return [where, f"value {value}", f"loss {_short(cell['loss'])}", "rows not known"]
    more = [f"and {count - SHOWN_ROWS:,} more"] if count > SHOWN_ROWS else []
    text = ", ".join([*_places(rows[:SHOWN_ROWS]), *more])
    return [where, f"value {value}", f"loss {_short(cell['loss'])}", text or "no row"]


def _places(rows: Sequence[TracedRow]) -> Iterator[str]:
    """Yields `raw/2024-03-05.csv row 7 (61.5)`, and of further rows of a file only their numbers."""
    for before, row in pairwise([None, *rows]):
        assert row is not None, "only the first has none before it"
        file = "" if before and before["file"] == row["file"] else f"{row['file']} row "
        value = "" if row["value"] is None else f" ({row['value']})"
        yield f"{file}{row['row']}{value}"


def _exact(value: float | None) -> str:
    return "-" if value is None else repr(value)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"
