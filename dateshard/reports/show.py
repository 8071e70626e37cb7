"""A run in the terminal: its loss curves of letters, its figures, and where its page lies.

Nothing is evaluated: what stands here was found before. In a pipe there is a line an epoch and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dateshard.bookkeeping.run_history import RunHistory, Series, history
from dateshard.documents.reporting import ShowDocument, ShownEpoch, ShownVerdict
from dateshard.judging.verdict import Verdict, kept
from dateshard.places import runs_folder
from dateshard.reports.charts import short
from dateshard.reports.curves import powers
from dateshard.reports.page_files import page_of
from dateshard.reports.run import SPLITS, told_standing
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.terminal.screen import Screen, columns, number, rounded
from dateshard.trainer.runs.run_folder import TrainingRun, newest
from dateshard.trainer.runs.start import locate

ROWS, WIDEST, LEFT = 12, 110, 9
LOGARITHMIC = 20.0
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille letter: [row][column]
BRAILLE = 0x2800


def run_to_show(name: str | None) -> TrainingRun:
    """The run of that name; without one, or with `latest`, the newest of all.

    Raises:
        NotThereError: there is none.
    """
    if name and name != "latest":
        return locate(name, runs_folder())[0]
    return newest(runs_folder())


def shown_run(run: TrainingRun) -> ShowDocument:
    """What `show --json` prints."""
    course, record, verdict = history(run), run.facts_or_recovered(), _verdict(run)
    page = page_of(run.folder)
    windows = verdict.shown if verdict else []
    return {
        "run": run.name,
        "model": record.model if record else "?",
        "standing": told_standing(run),
        "best_loss": course.best.loss if course.best else None,
        "best_epoch": course.best.epoch if course.best else None,
        "epochs": _epochs(course),
        "steps": course.last_step,
        "verdict": _headline(verdict) if verdict else None,
        "windows": [{key: window[key] for key in ("kind", "begins", "node", "error")} for window in windows],
        "report": str(page) if page.exists() else None,
    }


def _verdict(run: TrainingRun) -> Verdict | None:
    return next((verdict for split in SPLITS if (verdict := kept(run, split, older=True)) is not None), None)


def _headline(verdict: Verdict) -> ShownVerdict:
    headline = verdict.headline()
    return {key: headline[key] for key in ShownVerdict.__annotations__}  # type: ignore[return-value]


def _epochs(course: RunHistory) -> list[ShownEpoch]:
    parts = {
        key: course.epochs[key].mean_K.tolist()
        for key in ("train_loss", "val_loss", "learning_rate", "windows_per_second")
    }
    ends = course.epochs["step"].high_K.tolist()
    count = len(ends)
    rows: list[ShownEpoch] = []
    for k, step in enumerate(ends):
        if math.isfinite(step):
            figures = {key: None if math.isnan(values[k]) else values[k] for key, values in parts.items()}
            epoch = k + 1 if course.last_epoch <= count else round((k + 1) * course.last_epoch / count)
            rows.append({"epoch": epoch, "step": int(step), **figures})  # type: ignore[typeddict-item]
    return rows


def show_run(screen: Screen, run: TrainingRun, document: ShowDocument, more: Sequence[str] = ()) -> None:
    """Shows curves and figures on a terminal, and further lines; else a table of the epochs."""
    if not screen.terminal:
        _table(screen, document["epochs"])
        return
    screen.tell(f"{run.name}  {document['model']}: {document['standing']}")
    if document["best_epoch"] is not None:
        screen.tell(f"best loss {number(document['best_loss'])} in epoch {document['best_epoch']}")
    for line in _chart(screen, history(run), min(columns(), WIDEST)):
        screen.draw(line)
    _found(screen, document)
    for said in more:
        screen.tell(said)
    if document["report"]:
        screen.tell(f"its page: {document['report']}  ({command('show', run.name, '--open')})")
    else:
        screen.tell(f"no page yet. {to_run('report', run.name)}")


def _table(screen: Screen, rows: Sequence[ShownEpoch]) -> None:
    heads = ("epoch", "step", "train_loss", "val_loss", "learning_rate", "windows_per_second")
    lines = [[rounded(row[key]) for key in heads] for row in rows]  # type: ignore[literal-required]
    screen.table([heads, *lines])


def _found(screen: Screen, document: ShowDocument) -> None:
    """The last evaluation in two lines, and the windows that the page draws."""
    verdict = document["verdict"]
    if verdict is None:
        screen.tell(f"not evaluated yet. {to_run('evaluate', document['run'])}")
        return
    words = {
        "beats": "beats every baseline",
        "loses": "does NOT beat the best baseline",
        "unclear": "no clear winner",
        None: "no verdict",
    }
    figures = [f"MSE {number(verdict['mse'])}"] if verdict["mse"] is not None else []
    figures += [f"{name} {100 * share:.1f} % right" for name, share in verdict["accuracy"].items() if share is not None]
    if verdict["best_baseline_mse"] is not None:
        figures.append(f"{verdict['best_baseline']} {number(verdict['best_baseline_mse'])}")
    screen.explain(f"{verdict['split']}: {', '.join(figures)}: {words[verdict['outcome']]}")
    rows = [[w["kind"], w["begins"][:16].replace("T", " "), w["node"], _error(w["error"])] for w in document["windows"]]
    screen.table([["window", "begins", "node", "error"], *rows] if rows else [], right=(3,))


def _error(value: float | None) -> str:
    return "-" if value is None else short(value)


def _letters(screen: Screen) -> bool:
    """Whether the terminal can show braille."""
    return (getattr(screen.out, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def _chart(screen: Screen, course: RunHistory, wide: int) -> list[str]:
    """Loss over the steps: dots for training, `o` for each validation, `*` for the best."""
    braille = _letters(screen)
    lines = [
        course.steps["loss"] if course.steps["loss"].known else course.epochs["train_loss"],
        course.epochs["val_loss"],
    ]
    seen = np.concatenate([curve.mean_K[np.isfinite(curve.mean_K)] for curve in lines])
    inner = wide - LEFT - 1
    if course.num_rows and not course.last_step:
        return ["solved in one pass: there are no steps to draw"]
    if not len(seen) or inner < 20:
        return ["no loss is a number yet"] if not len(seen) else []
    place = _places(float(seen.min()), float(seen.max()))
    grid = _dots(lines[0], course.last_step, inner, place)
    letters = [[_letter(cell, braille) for cell in row] for row in grid.tolist()]
    marks = [("o", x, y) for x, y in _points(lines[1], course.last_step, inner, place)]
    if course.best is not None:
        series = Series(
            *(np.asarray([value], dtype=np.float64) for value in (course.best.step, *[course.best.loss] * 3))
        )
        marks += [("*", x, y) for x, y in _points(series, course.last_step, inner, place)]
    for mark, x, y in marks:
        letters[int(y) // 4][int(x) // 2] = screen.paint(mark, "1;33" if mark == "*" else "33")
    low, high = float(seen.min()), float(seen.max())
    heads = {0: short(high), ROWS - 1: short(low)}
    body = [f"{heads.get(k, ''):>{LEFT - 1}} {''.join(row).rstrip()}" for k, row in enumerate(letters)]
    end = f"step {course.last_step:,}"
    foot = f"{'':{LEFT}}{'1':<{max(inner - len(end), 1)}}{end}"
    dot = "⠒" if braille else "."
    legend = f"{dot} training  o validation  * best"
    return [*body, foot, " " * min(LEFT, max(wide - len(legend), 0)) + legend]


def _places(low: float, high: float) -> _Place:
    """Where a loss stands: 0 at the top; powers where they differ much."""
    bottom = ROWS * 4 - 1.0
    if low > 0 and high / low > LOGARITHMIC:
        axis = powers(low, high, 0.0, bottom)
        return _Place(low, high, axis.place)
    return _Place(low, high, None)


class _Place:
    """A loss -> its dot's row."""

    def __init__(self, low: float, high: float, axis: object) -> None:
        self.low, self.high, self.axis = low, high, axis

    def of(self, values: Floats) -> Floats:
        """Rows of dots, rounded."""
        bottom = ROWS * 4 - 1
        if callable(self.axis):
            return np.rint([self.axis(value) for value in values.tolist()])
        width = (self.high - self.low) or 1.0
        return np.rint((self.high - values) / width * bottom)


def _points(series: Series, last: int, inner: int, place: _Place) -> list[tuple[float, float]]:
    """Returns (column, row) in dots of the points that have a value."""
    known = np.isfinite(series.mean_K)
    xs = np.rint(series.x_K[known] / max(last, 1) * (inner * 2 - 1))
    ys = np.clip(place.of(series.mean_K[known]), 0, ROWS * 4 - 1)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _dots(series: Series, last: int, inner: int, place: _Place) -> Integers:
    """Returns [ROWS, inner] bits of braille letters, neighbouring points joined."""
    grid = np.zeros((ROWS, inner), dtype=np.int64)
    before: tuple[float, float] | None = None
    for x, y in _points(series, last, inner, place):
        x0, y0 = before or (x, y)
        for k in range(int(max(abs(x - x0), abs(y - y0))) + 1):
            share = k / max(abs(x - x0), abs(y - y0), 1)
            column, row = round(x0 + (x - x0) * share), round(y0 + (y - y0) * share)
            grid[row // 4, column // 2] |= DOTS[row % 4][column % 2]
        before = (x, y)

    return grid


def _letter(bits: int, braille: bool) -> str:
    return " " if not bits else chr(BRAILLE + bits) if braille else "."
