"""The page of a training run: its sections in order. What an evaluation found stands in `judged_page`."""

from __future__ import annotations

import datetime as dt
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dateshard import __version__
from dateshard.bookkeeping.run_history import RunHistory, Series
from dateshard.insight.insight_screen import percent
from dateshard.reports import charts
from dateshard.reports.charts import short
from dateshard.reports.curves import Line, Steps, keys, over_steps
from dateshard.reports.html import card, folded, page, pair, paragraph, section, table, tiles
from dateshard.reports.judged_page import judged_sections, judged_sentences, judged_tiles
from dateshard.reports.run import RunFacts, told_standing
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import seconds, size

MOST_ROWS, MOST_HEADS = 15, 8


def run_report(facts: RunFacts, more: Sequence[tuple[str, str, list[str]]] = ()) -> str:
    """The whole page.

    Args:
        more: sections, as (name, heading, parts), of what the run became.
    """
    sections = [
        ("training", "Training", _training(facts)),
        *more,
        *judged_sections(facts),
        ("run", "The run", _run(facts)),
    ]
    there = [(name, heading, parts) for name, heading, parts in sections if parts]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in there)
    body = [_head(facts, links), *(section(name, heading, parts) for name, heading, parts in there)]
    data = facts.record.bound.data if facts.record else None
    name, generation = (data.name, data.generation) if data else ("?", "?")
    foot = f"Made of run {facts.run.name}, trained on generation {generation} of {name}. Hours are local."
    if facts.verdict is not None:
        foot += f" Judged: {facts.verdict.checkpoint}, in {seconds(facts.verdict.seconds)}."
    foot += f" Page of dateshard {__version__}."
    return page(f"{facts.run.name}: the run", [*body, f"<footer>{paragraph(foot)}</footer>"])


def _head(facts: RunFacts, links: str) -> str:
    course, data = facts.history, facts.record.bound.data if facts.record else None
    dataset, generation = (data.name, data.generation) if data else ("?", "?")
    model = facts.config.get("model", {}).get("name", "a model")
    when = f", begun {facts.created}" if facts.created else ""
    lead = f"{model} on {dataset}{when}: {told_standing(facts.run, facts.newest)}"
    rows = [*_best_tile(course), *judged_tiles(facts.verdict), *_cost_tiles(facts)]
    kicker = paragraph(f"Training report · generation {generation}", "kicker")
    said = "".join(
        f'<p class="verdict{"" if good else " alarm"}">{escape(words)}</p>'
        for words, good in judged_sentences(facts.verdict)
    )
    if facts.verdict is None:
        said = paragraph(f"Nothing was evaluated yet: {facts.unjudged or 'there is no evaluation'}.", "verdict alarm")
    head = f"{kicker}<h1>{escape(facts.run.name)}</h1>{paragraph(lead, 'lead')}"
    return f"<header>{head}{tiles(rows)}{said}<nav>{links}</nav></header>"


def _best_tile(course: RunHistory) -> list[tuple[str, str, bool]]:
    if course.best is None:
        return [("–", "no epoch is whole yet", True)]
    kind = "validation" if course.best.validated else "training"
    return [(f"{course.best.loss:.4f}", f"best {kind} loss, epoch {course.best.epoch}", False)]


def _cost_tiles(facts: RunFacts) -> list[tuple[str, str, bool]]:
    course, rows = facts.history, list[tuple[str, str, bool]]()
    if (rate := _mean(course, "windows_per_second")) is not None:
        rows.append((f"{rate:,.0f}", "windows/s in training", False))
    if (wait := _mean(course, "data_wait")) is not None:
        rows.append((percent(wait), "of it waiting for data", wait > 0.2))
    if course.seconds:
        rows.append((seconds(course.seconds), f"for {counted(course.whole_epochs, 'epoch')}", False))
    if course.peak_bytes:
        rows.append((size(course.peak_bytes), "of memory at most", False))
    if facts.verdict is not None and facts.verdict.parameters:
        rows.append((f"{facts.verdict.parameters:,}", "parameters", False))
    skipped = course.skipped
    if skipped:
        rows.append((f"{skipped:,}", "steps skipped", True))
    return rows


def _mean(course: RunHistory, name: str) -> float | None:
    """Averages a figure over the epochs, or, before one is whole, over the steps."""
    for series_by_name in (course.epochs, course.steps):
        if name in series_by_name and series_by_name[name].known:
            return float(np.nanmean(series_by_name[name].mean_K))
    return None


def _training(facts: RunFacts) -> list[str]:
    course = facts.history
    if not course.num_rows:
        return [card([paragraph("metrics.jsonl has no row yet.", "note")])]
    if not course.steps["loss"].known and course.last_step == 0:
        return [card([paragraph("This model is solved in one pass: there are no steps to draw.", "note")])]
    steps = _steps(course)
    return [card([_losses(course, steps), *_components(course, steps), *_rest(course, steps)])]


def _steps(course: RunHistory) -> Steps:
    ends = course.epochs["step"].mean_K.tolist()
    count = len(ends)
    exact = course.last_epoch <= count  # a point an epoch
    numbers = [k + 1 if exact else round((k + 1) * course.last_epoch / count) for k in range(count)]
    whole = [(step, number) for step, number in zip(ends, numbers, strict=True) if math.isfinite(step)]
    best = (course.best.step, f"best: epoch {course.best.epoch}, {course.best.loss:.4f}") if course.best else None
    return Steps(course.last_step, tuple(whole), best, tuple(course.resumes))


def _losses(course: RunHistory, steps: Steps) -> str:
    lines = [
        Line(name="steps", css="a thin", series=course.steps["loss"], band=True),
        Line(name="training, mean of the epoch", css="a", series=course.epochs["train_loss"], dots=True),
        Line(name="validation", css="b", series=course.epochs["val_loss"], dots=True),
    ]
    lines = [line for line in lines if line.series.known]
    if not lines:
        return paragraph("No loss is a number yet.", "note")
    named = keys([(line.name, line.css) for line in lines])
    each = (
        "; each point of the steps stands for some of them, the band for their least and greatest"
        if lines[0].band
        else ""
    )
    drawn = over_steps(steps, lines, "Loss over the steps of the training", wide=True)
    return charts.figure(
        drawn, f"<b>Loss</b>, what training minimises, of scaled values. {named}{each}.{_events(course)}"
    )


def _events(course: RunHistory) -> str:
    if not course.resumes:
        return ""
    times = counted(len(course.resumes), "time")
    return f" Continued {times} (dotted)."


def _components(course: RunHistory, steps: Steps) -> list[str]:
    """A chart of each named loss, where there are several."""
    if len(course.heads) < 2:
        return []
    drawn = []
    for head in course.heads[:MOST_HEADS]:
        lines = [
            Line(name="steps", css="a thin", series=course.steps[f"losses.{head}"], band=True),
            Line(name="training", css="a", series=course.epochs[f"train.{head}"], dots=True),
            Line(name="validation", css="b", series=course.epochs[f"validation.{head}"], dots=True),
        ]
        lines = [line for line in lines if line.series.known]
        if lines:
            chart = over_steps(steps, lines, f"Loss {head} over the steps of the training")
            drawn.append(
                charts.figure(chart, f"<b>{escape(head)}</b>, one of the named losses, scaled values, unweighted.")
            )
    left = len(course.heads) - MOST_HEADS
    more = [paragraph(f"{counted(left, 'more loss', 'more losses')} not drawn.", "note")] if left > 0 else []
    return [pair(*drawn), *more]


def _rest(course: RunHistory, steps: Steps) -> Iterator[str]:
    """Learning rate, throughput, waiting, memory: two beside each other."""
    drawn = []
    for name, heading, words, factor, unit in (
        ("learning_rate", "Learning rate", "of each step.", 1.0, ""),
        ("windows_per_second", "Throughput", "windows a second, saving included.", 1.0, ""),
        ("data_wait", "Waiting for data", "share of the time of a step.", 100.0, " %"),
        ("memory_bytes", "Memory", "private memory of the process, in MB.", 1e-6, ""),
    ):
        series = _scaled(course.steps[name] if course.steps[name].known else course.epochs[name], factor)
        if series.known:
            chart = over_steps(
                steps,
                [Line(name=heading.lower(), css="a", series=series, band=True)],
                f"{heading} over the steps",
                unit=unit,
            )
            drawn.append(charts.figure(chart, f"<b>{heading}</b>, {words}"))
    yield pair(*drawn)
    if course.steps["loss"].known and not course.steps["windows_per_second"].known:
        yield paragraph("This run is older than the figures of throughput, waiting and memory.", "note")


def _scaled(series: Series, factor: float) -> Series:
    return Series(series.x_K, *(values * factor for values in (series.mean_K, series.low_K, series.high_K)))


def _run(facts: RunFacts) -> list[str]:
    return [card([*_notes(facts), _checkpoints(facts), _environment(facts), _settings(facts)])]


def _notes(facts: RunFacts) -> Iterator[str]:
    """What a person should know, a line each."""
    notes = list[str]()
    if facts.history.skipped:
        noun = counted(facts.history.skipped, "step")
        notes.append(f"{noun} had no finite loss or gradient and changed no weight.")
    notes += [f"Passed over: {reason}" for reason in facts.passed[:MOST_ROWS]]
    notes += [
        f"Its end was written down: {path.name}"
        for path in sorted(facts.run.folder.glob("post_mortem_step_*.json"))[:5]
    ]
    notes += [f"metrics.custom: {error}" for error in facts.history.custom_errors]
    if facts.record and facts.record.made_again_from is not None:
        notes.append(f"run.json was damaged; what stands here is told by {facts.record.made_again_from}.")
    if facts.dataset is None:
        notes.append("The data that the run was trained on are gone, or were made anew: maps and names are left out.")
    if facts.verdict is not None:
        notes += [str(note) for note in facts.verdict.document["notes"]]
        if (model := facts.verdict.row()) is not None and model.get("by_step") is None:
            again = shlex.join(["dateshard", "evaluate", facts.run.name, "--split", facts.verdict.split, "--report"])
            notes.append(
                "The evaluation is older than the charts of the whole period, of residuals and of each target by "
                f"step; they come with: {again}"
            )
    if notes:
        yield f"<h3>Notes</h3><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _checkpoints(facts: RunFacts) -> str:
    saved, best = facts.checkpoints, facts.verdict.checkpoint if facts.verdict else None
    rows = []
    shown = [each for k, each in enumerate(saved) if k >= len(saved) - MOST_ROWS or each.name == best]
    for each in reversed(shown):
        state = each.state
        mark = " · ".join(word for word, on in (("judged", each.name == best), ("latest", each is saved[-1])) if on)
        loss = state.val_loss if state.validated else None
        rows.append(
            [
                each.name,
                f"{state.epoch + 1}",
                f"{state.batch:,}",
                "–" if loss is None else f"{loss:.4f}",
                size(each.num_bytes),
                _saved_at(each.folder / "manifest.json"),
                mark,
            ]
        )
    total = size(sum(each.num_bytes for each in saved))
    more = f", {len(rows)} of {len(saved):,}" if len(saved) > len(rows) else ""
    caption = f"Checkpoints{more}; {total} together"
    heads = ("name", "epoch", "batch", "val loss", "size", "saved", "")
    return table(caption, heads, rows, numbers=(1, 2, 3, 4))


def _saved_at(path: Any) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M:%S}"
    except OSError:  # cleaned away meanwhile
        return ""


def _environment(facts: RunFacts) -> str:
    record = facts.record
    rows = [[key, str(value)] for key, value in ((record and record.environment) or {}).items()]
    rows += [[f"data: {key}", str(value)] for key, value in record.bound.data.to_json().items()] if record else []
    if record and (order := record.bound.order):
        rows.append(["order", ", ".join(f"{key} {json.dumps(value)}" for key, value in order.items())])
    return table("Environment and data", ("what", ""), rows)


def _settings(facts: RunFacts) -> str:
    rows = [[key, value] for key, value in _flat(facts.config)]
    return (
        folded(f"All {len(rows)} settings of the run", [table("trainer", ("setting", "value"), rows)]) if rows else ""
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{key}", "–" if value is None else short(value) if isinstance(value, float) else text
