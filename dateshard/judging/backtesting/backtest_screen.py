"""A backtest on a screen: what it will do, how it goes on, its table, and what all origins say together."""

from __future__ import annotations

from collections.abc import Iterator

from dateshard.documents.backtesting import BacktestCost, BacktestDocument, OriginRow, Spread
from dateshard.judging.backtesting.backtest_file import is_judged
from dateshard.judging.backtesting.backtest_plan import BacktestPlan, Origin
from dateshard.judging.backtesting.backtest_scores import NUMBERS
from dateshard.pipeline.progress_events import DateFailed, Event
from dateshard.preparing.preprocess import follow
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen, number, seconds, size
from dateshard.trainer import loop
from dateshard.trainer.runs.start import Started
from dateshard.training.run_log import RunLog
from dateshard.training.train import TrainingEvent
from dateshard.training.view import View

OUTCOMES = (
    ("beats", "where the model beats every baseline"),
    ("loses", "where it loses"),
    ("unclear", "without a clear winner"),
)


class OriginsOnScreen:
    """Shows one origin after the other: its preprocess, its training, its figures."""

    def __init__(self, screen: Screen, plan: BacktestPlan, again: str) -> None:
        self.screen, self.plan, self.again = screen, plan, again
        self.view: View | None = None

    def begin(self, origin: Origin) -> None:
        """Says which dates are trained and tested on."""
        place = f"origin {origin.number} of {len(self.plan.origins)}"
        spans = "  ".join(f"{name} {_span(origin, name)} ({count})" for name, count in origin.dates.items())
        self.screen.say(f"{place}: {spans}")

    def prepare(self, events: Iterator[Event]) -> None:
        """Shows a preprocess as the command does; a quiet command only tells which dates failed."""
        if self.screen.quiet:
            for event in events:
                if isinstance(event, DateFailed):
                    self.screen.tell(f"failed  {event.date}  {event.error}")
            return
        follow(self.screen, self.plan.settings.dataset, events, self.again, brief=True)

    def train(self, event: TrainingEvent) -> None:
        """Shows an event of a training, and writes the same lines to the run's log."""
        if isinstance(event, Started):
            self.screen.log = RunLog(event.run.folder).write
            going_on = f"continuing {event.run.name} exactly at {event.continued}" if event.continued else ""
            for line in filter(None, [going_on, *(f"note: {note}" for note in event.notes)]):
                self.screen.say(line)
            for warning in event.warnings:
                self.screen.tell(f"warning: {warning}")
            self.view = View(event, self.screen)
        elif isinstance(event, loop.Ended):
            self.close()
        elif self.view is not None:
            self.view.show(event)

    def judged(self, row: OriginRow) -> None:
        """Says how the model did."""
        rival = f"best baseline {row['best_baseline']} {number(row['baseline_score'])}" if row["best_baseline"] else ""
        parts = [f"model {number(row['score'])}", rival, row["outcome"] or ""]
        self.screen.say(f"origin {row['origin']} is judged: {', '.join(filter(None, parts))}")

    def close(self) -> None:
        """Takes the live line away, also after an error."""
        if self.view is not None:
            self.view.close()
        self.view, self.screen.log = None, None


def _span(origin: Origin, name: str) -> str:
    return ", ".join(f"{low}..{high}" for low, high in origin.split[name])


def show_cost(screen: Screen, plan: BacktestPlan, cost: BacktestCost) -> None:
    """Says what is left to do, and what it costs."""
    for origin in reversed(plan.origins):
        spans = "  ".join(f"{name} {_span(origin, name)} ({count})" for name, count in origin.dates.items())
        screen.tell(f"origin {origin.number}: {spans}")
    left = f"{cost['generations']} of {counted(len(plan.origins), 'origin')} left"
    screen.tell(f"{left}: {counted(cost['generations'], 'generation')} in {plan.folder}, and as many trainings")
    read = f"{counted(cost['measure'], 'date')} to measure ({size(cost['read_bytes'])} of dumps)"
    if not cost["measure"]:
        read = "no dump is read again: what was measured is merged anew"
    written = f"at most {size(cost['written_bytes'])} to write" if cost["written_bytes"] is not None else ""
    time = f"about {seconds(cost['seconds'])} to prepare" if cost["seconds"] else ""
    scaled = f"{counted(cost['dates'], 'date')} to scale"
    screen.tell(", ".join(filter(None, [read, scaled, written, f"{size(cost['free_bytes'])} free", time])))


def show_table(screen: Screen, document: BacktestDocument) -> None:
    """Prints a row an origin, the oldest first, and all of them together."""
    score = NUMBERS.get(document["measure"], "accuracy")
    heads = ["tested on", "trained", score, "baseline", score, "gain", ""]
    rows = [_cells(screen, document, row) for row in document["origins"]]
    screen.table([heads, *rows], right=(1, 2, 4, 5), wrap=True)
    for sentence in sentences_of(document):
        screen.explain(sentence)


def _cells(screen: Screen, document: BacktestDocument, row: OriginRow) -> list[str]:
    """One origin: on a terminal the number of training dates, in a pipe which ones."""
    tested, trained = (", ".join("..".join(ends) for ends in row["split"][name]) for name in ("test", "train"))
    return [
        tested,
        f"{row['dates']['train']:,}" if screen.terminal else trained,
        number(row["score"]),
        row["best_baseline"] or "-",
        number(row["baseline_score"]),
        "-" if row["gain"] is None else f"{100 * row['gain']:+.1f} {unit_of_gain(document)}",
        row["outcome"] or ("-" if is_judged(row) else "not judged yet"),
    ]


def unit_of_gain(document: BacktestDocument) -> str:
    """The unit of a gain in hundredths: a share of squared error, or points of accuracy."""
    return "%" if document["measure"] in NUMBERS else "points"


def sentences_of(document: BacktestDocument) -> list[str]:
    """What all judged origins say together."""
    summary = document["summary"]
    if summary is None:
        return []
    of = f"{NUMBERS[document['measure']]} (scaled)" if document["measure"] in NUMBERS else document["measure"]
    unit = unit_of_gain(document)
    parts = [
        f"{of}: {_mean(summary['score'], 1, 4)}; best baseline: {_mean(summary['baseline_score'], 1, 4)}.",
        f"Gain over the best baseline in {unit}: {_mean(summary['gain'], 100, 1)}." if _known(summary["gain"]) else "",
    ]
    outcomes = ", ".join(f"{summary[name]} {words}" for name, words in OUTCOMES)  # type: ignore[literal-required]
    parts.append(f"{counted(summary['judged'], 'origin')}: {outcomes}.")
    if lacking := len(document["origins"]) - summary["judged"]:
        parts.append(f"{counted(lacking, 'origin')} not judged yet.")
    return list(filter(None, parts))


def _known(spread: Spread) -> bool:
    return spread["mean"] is not None


def _mean(spread: Spread, factor: float, digits: int) -> str:
    """Writes `mean 0.8211, standard deviation 0.0312, 0.7900 to 0.8500`."""
    mean, deviation, low, high = (
        None if value is None else factor * value
        for value in (spread["mean"], spread["deviation"], spread["lowest"], spread["highest"])
    )
    if mean is None:
        return "-"
    wide = f", standard deviation {number(deviation, digits)}" if deviation is not None else ""
    return f"mean {number(mean, digits)}{wide}, {number(low, digits)} to {number(high, digits)}"


def show_end(screen: Screen, document: BacktestDocument) -> None:
    """Says where the page and the runs are."""
    screen.tell(f"page: {document['page']}")
    screen.say(f"its runs: DATESHARD_DATA={document['folder']} {command('runs')}")
