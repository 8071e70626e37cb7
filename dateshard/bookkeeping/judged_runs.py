"""Several runs evaluated on the same split: their figures beside each other, and how far they lie apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dateshard.bookkeeping.listing import compare
from dateshard.bookkeeping.runs_screen import table_width
from dateshard.documents.runs import FigureSummary, JudgedRun, JudgedRunsDocument
from dateshard.judging.judge import evaluate_run, verdict_on
from dateshard.judging.spread import spread_of
from dateshard.shardstore.errors import UsageError, counted
from dateshard.terminal.screen import Screen, columns, number
from dateshard.trainer.runs.run_folder import TrainingRun

SCALED, RAW = ("mse", "mae", "r2"), ("mae", "rmse")
Document = Mapping[str, Any]


def judge_runs(
    runs: Sequence[TrainingRun], which: str, split: str, baselines: Sequence[str] | None
) -> JudgedRunsDocument:
    """Evaluates a checkpoint of each of the runs; what lies beside a run of its best one is taken as it is.

    Raises:
        UsageError: a run that is named twice, or runs that forecast different targets.
    """
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"'{twice}' is named twice", todo="Name each run once")
    judged = [_document(run, which, split, baselines) for run in runs]
    targets = [(document["features"], document["categorical"]) for document in judged]
    if other := next((name for name, of in zip(names, targets, strict=True) if of != targets[0]), None):
        raise UsageError(f"'{other}' forecasts other targets than '{names[0]}'", todo="Evaluate them one by one")
    best = Counter(document["best_baseline"] for document in judged).most_common(1)[0][0]
    rows = [_row(run, which, document) for run, document in zip(runs, judged, strict=True)]
    outcomes = [row["outcome"] for row in rows]
    return {
        "split": split,
        "runs": rows,
        "summary": list(_summary(judged, rows, best)),
        "beats": outcomes.count("beats"),
        "loses": outcomes.count("loses"),
        "unclear": outcomes.count("unclear"),
        "notes": compare(names)["notes"] if len(names) > 1 else [],
    }


def judge_where_it_goes(runs: Sequence[TrainingRun]) -> JudgedRunsDocument | None:
    """Judges the best checkpoints on the test split, else on validation; None where neither has a window."""
    for split in ("test", "validation"):
        with suppress(UsageError):  # no window, or nothing of it was observed
            return judge_runs(runs, "best", split, None)
    return None


def _document(run: TrainingRun, which: str, split: str, baselines: Sequence[str] | None) -> Document:
    if which == "best" and baselines is None:
        return verdict_on(run, split)[0].document
    return evaluate_run(run, which, split, baselines)[0].to_json()


def _row(run: TrainingRun, which: str, document: Document) -> JudgedRun:
    record = run.facts_or_recovered()
    model = next(row for row in document["rows"] if row["kind"] == "model")
    return {
        "run": run.name,
        "seed": record.config.get("training", {}).get("seed") if record else None,
        "model": record.model if record else model["name"],
        "checkpoint": which,
        "generation": record.bound.data.generation if record else 0,
        "windows": document["windows"],
        "figures": _figures(model, document),
        "best_baseline": document["best_baseline"],
        "outcome": document["outcome"],
    }


def _figures(row: Document, document: Document) -> dict[str, float | None]:
    """The figures of one predictor, by name; none of what it does not forecast."""
    figures: dict[str, float | None] = {}
    if document["features"]:
        figures |= {f"scaled {name}": row["scaled"][name] for name in SCALED}
    for feature in document["features"]:
        figures |= {f"{feature} {name}": row["raw"]["by_feature"].get(feature, {}).get(name) for name in RAW}
    for target in document["categorical"]:
        figures[f"{target} accuracy"] = row["classes"].get(target, {}).get("accuracy")
    return figures


def _summary(judged: Sequence[Document], rows: Sequence[JudgedRun], baseline: str | None) -> list[FigureSummary]:
    of_baseline = [
        _figures(row, document) for document in judged for row in document["rows"] if row["name"] == baseline
    ]
    return [
        {
            "figure": name,
            "model": spread_of([row["figures"][name] for row in rows]),
            "baseline": baseline,
            "of_baseline": spread_of([figures[name] for figures in of_baseline]) if of_baseline else None,
        }
        for name in rows[0]["figures"]
    ]


def show_judged(screen: Screen, document: JudgedRunsDocument) -> None:
    """Prints a row a run, then mean, standard deviation and the best baseline; and how many beat their baselines.

    A terminal shows as many figures as stand side by side."""
    runs, count = document["runs"], len(document["summary"])
    windows = sorted({row["windows"] for row in runs})
    screen.tell(f"{document['split']}: {' or '.join(f'{count:,}' for count in windows)} windows; features in raw units")
    shown = count
    while screen.terminal and shown > 1 and table_width(_lines(document, shown, terminal=True)) > columns():
        shown -= 1
    screen.table(_lines(document, shown, terminal=screen.terminal), right=range(1, shown + 2))
    if shown < count:
        screen.tell(f"{counted(count - shown, 'more figure')}: see --json")
    words = (("beats", "beat every baseline"), ("loses", "lose to the best one"), ("unclear", "without a clear winner"))
    outcomes = ", ".join(f"{document[key]} {words}" for key, words in words if document[key])  # type: ignore[literal-required]
    if outcomes:
        screen.explain(f"Of {counted(len(runs), 'run')}: {outcomes}.")
    for note in document["notes"]:
        screen.explain(f"note: {note}")


def _lines(document: JudgedRunsDocument, shown: int, *, terminal: bool) -> list[list[str]]:
    """The cells of the first so many figures; on a terminal what a figure is of stands above it."""
    runs, summary = document["runs"], document["summary"][:shown]
    names = [row["figure"] for row in summary]
    lines = [["run", "seed", *names, ""]]
    if terminal:
        above, below = zip(*(name.rsplit(" ", 1) for name in names), strict=True)
        lines = [["", "", *above, ""], ["run", "seed", *below, ""]]
    for row in runs:
        figures = [number(row["figures"][name]) for name in names]
        lines.append([row["run"], "-" if row["seed"] is None else str(row["seed"]), *figures, row["outcome"] or "-"])
    if len(runs) > 1:
        lines.append(["mean", "", *(number(row["model"]["mean"]) for row in summary), ""])
        lines.append(["standard deviation", "", *(number(row["model"]["deviation"]) for row in summary), ""])
    if (baseline := summary[0]["baseline"]) is not None:
        means = [row["of_baseline"]["mean"] if row["of_baseline"] else None for row in summary]
        lines.append([baseline, "", *map(number, means), "baseline"])
    return lines
