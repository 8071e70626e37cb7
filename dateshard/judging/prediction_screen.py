"""A prediction as people and programs see it: a headline, a few rows on a terminal, the document of --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from dateshard.documents.prediction import (
    CoverageDocument,
    GroupDocument,
    IntervalDocument,
    PredictDocument,
    VerdictDocument,
)
from dateshard.judging.forecast_table import as_rows
from dateshard.judging.prediction import Prediction
from dateshard.judging.sentences import TIMES, in_percent, in_times
from dateshard.judging.verdict import Verdict
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.shardstore.times.instants import spell
from dateshard.terminal.screen import Screen, seconds
from dateshard.trainer.assessment.coverage import Coverage, worst
from dateshard.trainer.assessment.intervals import Intervals

SHOWN_ROWS = 12
SHOWN_FEATURES = 3
MISMATCH = 0.02  # between coverage and level, from which on it is told


def document(made: Prediction) -> PredictDocument:
    """What --json prints."""
    return cast(PredictDocument, {**_facts(made), "forecasts": as_rows(made.frame)})


def _facts(made: Prediction) -> dict[str, Any]:
    """The document without its rows."""
    manifest, history, state = made.dataset.manifest, made.forecast.history, made.saved.state
    zone = manifest.timezone
    return {
        "run": made.run,
        "model": made.forecaster.config.model.name,
        "checkpoint": made.saved.name,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "dataset": manifest.dataset,
        "generation": made.dataset.generation,
        "timezone": zone,
        "step_seconds": manifest.step / 1e9 if manifest.step else None,
        "first_forecast": made.first,
        "history": {
            "source": _source(made),
            "begin": _spell(history.begin, zone),
            "end": _spell(history.end, zone),
            "steps": history.num_steps,
            "dates": [*map(str, history.dates)],
            "last_record": _spell(history.last, zone),
            "observed": history.observed,
            "rows": history.rows if made.from_dumps else None,
            "silent_nodes": history.silent_nodes,
            "unknown_nodes": list(history.unknown_nodes),
            "unknown_categories": {name: unseen.count for name, unseen in history.unknown_categories.items()},
        },
        "interval": None if made.intervals is None else _interval(made.intervals),
        "errors": {} if made.intervals is None else dict(made.intervals.errors),
        "verdict": _verdict(made.verdict),
        "notes": made.notes,
        "seconds": made.seconds,
    }


def _source(made: Prediction) -> str:
    """What the history was read from: a run may be trained on dates straight from their dumps."""
    dates, published = set(made.forecast.history.dates), made.dataset.published.dates.keys()
    if made.from_dumps or (dates and not dates & published):
        return "dumps"
    return "shards" if dates <= published else "shards and dumps"


def _spell(instant: int | None, zone_name: str) -> str | None:
    return None if instant is None else spell(instant, zone_name)


def _interval(intervals: Intervals) -> IntervalDocument:
    coverage: CoverageDocument | None = None
    if (measured := intervals.coverage) is not None:
        coverage = {
            "split": measured.split,
            "windows": measured.windows,
            "of": measured.of,
            "targets": measured.targets,
            "inside": measured.inside,
            "share": measured.share,
            "by_feature": dict(measured.by_feature),
            "by_node": measured.by_node,
            "by_hour": measured.by_hour,
            "by_month": measured.by_month,
            "worst": [cast(GroupDocument, asdict(group)) for group in worst(measured, intervals.level)],
        }
    return {
        "level": intervals.level,
        "windows": intervals.windows,
        "of": intervals.of,
        "own_nodes": intervals.own_nodes,
        "adapts": intervals.now.local is not None,
        "coverage": coverage,
    }


def _verdict(verdict: Verdict | None) -> VerdictDocument | None:
    if verdict is None:
        return None
    beats = None if verdict.outcome is None else verdict.outcome == "beats"
    outcome = {"outcome": verdict.outcome, "beats_baselines": beats}
    return cast(VerdictDocument, {"split": verdict.split, "best_baseline": verdict.best_baseline, **outcome})


def headline(screen: Screen, made: Prediction) -> None:
    """Which weights, which history, which instants, how sure; then the notes."""
    facts = _facts(made)
    history = facts["history"]
    place = f"epoch {facts['epoch']} batch {facts['batch']}"
    screen.say(f"run {made.run}, {made.which} checkpoint ({place}), generation {facts['generation']}")
    for line in [*_seen(made, history), _forecast(made)]:
        screen.say(line)
    for line in [*_sure(made), _judged(made)]:
        screen.say(line)
    for note in made.notes:
        screen.explain(note)
    parts = ", ".join(f"{name} {seconds(spent)}" for name, spent in made.seconds.items() if name != "all")
    screen.say(f"took       {seconds(made.seconds['all'])} ({parts})")


def _seen(made: Prediction, history: Mapping[str, Any]) -> list[str]:
    """What the model saw."""
    source = history["source"]
    if history["begin"] is None:
        return [
            f"history    {counted(history['steps'], 'row')} of {source}, {100 * history['observed']:.1f} % of the cells observed"
        ]
    kind = "step" if made.dataset.manifest.step else "record"
    return [
        f"history    {history['begin']} to {history['end']}",
        f"           {counted(history['steps'], kind)}, {counted(len(history['dates']), 'date')} of {source}, "
        f"{100 * history['observed']:.1f} % of the cells observed",
    ]


def _forecast(made: Prediction) -> str:
    """What is forecast."""
    count, zone = made.forecast.num_steps, made.dataset.manifest.timezone
    if made.dataset.manifest.step:
        return f"forecast   {made.first}, {counted(count, 'step')} in {zone}"
    if not made.forecaster.window.horizon:
        return f"forecast   {counted(count, 'row' if made.first is None else 'record')}"
    horizon = made.forecaster.window.horizon
    following = "the next record" if horizon == 1 else f"the next {counted(horizon, 'record')}"
    pieces = f" of each of {counted(count // horizon, 'cut')}" if made.dataset.manifest.cut else ""
    return f"forecast   {following}{pieces}"


def _sure(made: Prediction) -> list[str]:
    intervals, numbers = made.intervals, made.forecaster.numbers
    if made.level is None or not numbers:
        return []
    if intervals is None:
        return ["interval   none: the run has no validation window, so low and high stay empty"]
    windows = counted(intervals.of, "validation window")
    windows = f"{intervals.windows:,} of {windows}" if intervals.windows < intervals.of else windows
    lines = [f"interval   {100 * intervals.level:g} % by the errors on {windows}"]
    if made.frame["low"].null_count() == made.frame.height:
        lines[0] = f"interval   none: {windows}: too few for {100 * intervals.level:g} %"
    elif (coverage := intervals.coverage) is not None and coverage.share is not None:
        lines += ["           corrected by the errors on the test windows"] if intervals.now.local is not None else []
        lines += _covered(coverage, coverage.share, intervals.level)
    else:
        lines.append("           no test window: its coverage was not measured")
    mine = intervals.errors.get("model")
    others = {name: error for name, error in intervals.errors.items() if name != "model" and error > 0}
    if mine is not None and others:
        beside = [beside_baseline(mine / error, name) for name, error in sorted(others.items())]
        lines.append(f"validation squared error {', '.join(beside)}")
    return lines


def beside_baseline(ratio: float, name: str) -> str:
    """Writes a ratio of squared errors: `93.3 % less than mean`, `40.0 % MORE than mean`, `340 TIMES that of mean`."""
    if ratio >= TIMES:
        return f"{in_times(ratio)} TIMES that of {name}"
    return f"{in_percent(abs(1 - ratio))} % {'less' if ratio < 1 else 'MORE'} than {name}"


def _judged(made: Prediction) -> str:
    """Whether the model is worth asking, as far as an evaluation told."""
    verdict = made.verdict
    if verdict is None or verdict.outcome is None:
        return f"baselines  not compared yet: {command('evaluate', made.run)}"
    rivals = dict.fromkeys(comparison["baseline"] for comparison in verdict.document["comparisons"])
    if verdict.outcome == "beats":
        if len(rivals) == 1:
            return f"baselines  {verdict.best_baseline} is beaten on the {verdict.split} windows, no other was tried"
        return f"baselines  all {len(rivals)} beaten on the {verdict.split} windows (the best of them: {verdict.best_baseline})"
    said = "no clear winner" if verdict.outcome == "unclear" else "NOT all beaten"
    return f"baselines  {said} on the {verdict.split} windows (the best baseline: {verdict.best_baseline})"


def _covered(coverage: Coverage, share: float, level: float) -> list[str]:
    """Tells what share of the test targets the intervals cover, by target where there are a few.

    Also whether it is less or more than was promised, and the worst node, hour and month."""
    tested = counted(coverage.windows, "test window")
    lines = [f"           holds {100 * share:.1f} % of the true values of {tested}"]
    known = {name: covered for name, covered in coverage.by_feature.items() if covered is not None}
    if 1 < len(known) <= SHOWN_FEATURES:
        lines.append("           " + ", ".join(f"{name} {100 * covered:.1f} %" for name, covered in known.items()))
    if abs(share - level) > MISMATCH:
        much = "less than promised" if share < level else "more than promised"
        lines.append(f"           {much}: the test dates are unlike the validation dates")
    for group in worst(coverage, level):
        where = f"{group.name}:00" if group.kind == "hour" else group.name
        its = f"{100 * group.share:.1f} % of {group.target}"
        lines.append(f"           farthest from {100 * level:g} %: {group.kind} {where}, with {its}")
    return lines


def rows(screen: Screen, made: Prediction) -> None:
    """The first rows, as columns; where the others are."""
    named = [name for name in ("time", "node", "cut", "row", "feature", "horizon") if name in made.frame.columns]
    seconds = "" if made.dataset.manifest.step else ":%S"
    lines = [[*named, "value", "low", "high"]]
    for row in made.frame.head(SHOWN_ROWS).to_dicts():
        line = [f"{row[name]:%Y-%m-%d %H:%M{seconds}}" if name == "time" else _text(row[name]) for name in named]
        line += ["-" if row[name] is None else f"{row[name]:.6g}" for name in ("value", "low", "high")]
        if row.get("category") is not None:
            line[len(named)] = f"{row['category']} ({row['probability']:.2f})"
        lines.append(line)
    screen.table(
        lines, right=[place for place, name in enumerate(lines[0]) if name not in ("time", "node", "cut", "feature")]
    )
    if (more := made.frame.height - SHOWN_ROWS) > 0:
        screen.say(f"  {counted(more, 'more row')}: --out FILE.csv or FILE.parquet, --json, or a pipe")


def _text(value: object) -> str:
    return "-" if value is None else str(value)
