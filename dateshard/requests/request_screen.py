"""What a training on a trace shows: what of it was used, each model as it ends, its baselines, a test prediction, a summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dateshard.requests.accuracy.next_request_facts import VALUES
from dateshard.requests.accuracy.response_given_input import ResponseModel
from dateshard.requests.interval_facts import LEAD, LENGTH
from dateshard.requests.next_interval import IntervalForecast
from dateshard.requests.request_history import frame_of
from dateshard.requests.request_predictor import RequestPredictor
from dateshard.requests.request_training import ModelOutcome, RequestOutcome
from dateshard.requests.trace import Trace
from dateshard.requests.trace_dumps import TOKENS
from dateshard.shardstore.commands import by_door, command
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen

RULE = "-" * 30
HEADS = {"gap": "gap (s)", "request_tokens": "request tokens", "response_tokens": "response tokens"}


class ShownTraining:
    """Shows a training as it goes."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def watch(self, outcome: RequestOutcome, ended: ModelOutcome | None) -> None:
        """Shows what was read, and then each model."""
        if not outcome.models and ended is None and not outcome.no_intervals:
            self._data(outcome)
        elif ended is None:
            self.screen.tell(f"[--] intervals: {outcome.no_intervals}. predict_interval answers with the last values")
        else:
            self._model(ended)

    def _data(self, outcome: RequestOutcome) -> None:
        trace, say = outcome.trace, self.screen.tell
        counts = trace.counts
        self._section("Loading data", first=True)
        say(f"data file: {trace.file} ({trace.format})")
        say(f"raw data: {counts.raw:,} records")
        say(f"sampled: {counts.sampled:,} records{' (the newest)' if counts.sampled < counts.raw else ''}")
        say(f"cleaned: {counts.kept:,} records")
        for reason, count in counts.dropped.items():
            say(f"    {count:,} left out: {reason}")
        for sentence in remarks(trace):
            self.screen.say(sentence)
        self._section("Training")
        self.screen.say(f"preset {outcome.preset}; models go to {outcome.model_dir}")

    def _model(self, ended: ModelOutcome) -> None:
        say = self.screen.tell
        name = "intervals" if ended.packed and ended.packed.facts["kind"] == "interval" else ended.model
        if ended.error or ended.packed is None:
            say(f"[FAILED] {name}: {ended.error}")
            return
        say(f"[OK] {name}:")
        say(
            f"    final loss: {ended.loss:.4f}, of the epoch that is kept"
            if ended.loss is not None
            else "    final loss: none"
        )
        say(f"    epochs: {ended.epochs}")
        say(f"    model: {ended.packed.folder}")

    def end(self, outcome: RequestOutcome) -> None:
        """Shows the comparison with the baselines, a test prediction and the summary."""
        self.screen.tell(f"trained: {len(outcome.trained)}/{len(outcome.models)} models")
        if outcome.trained:
            self._compared(outcome)
        if outcome.intervals is not None and outcome.intervals.packed is not None:
            self._intervals(outcome.intervals.packed.facts)
        if outcome.trained:
            self._tried(outcome)
        self._summary(outcome)

    def _section(self, title: str, *, first: bool = False) -> None:
        if first:
            self.screen.tell("Request forecasting")
            self.screen.tell("=" * 40)
        self.screen.tell("")
        self.screen.tell(title)
        self.screen.tell(RULE)

    def _compared(self, outcome: RequestOutcome) -> None:
        """The models beside the baselines on the test requests: median absolute error and R2 of each value."""
        self._section("Test requests, beside baselines")
        rows = comparison({model.model: model.packed.facts for model in outcome.trained if model.packed})
        for line in table(("median absolute error (R2 of the log)", *HEADS.values()), rows):
            self.screen.tell(line)
        facts = next(model.packed.facts for model in outcome.trained if model.packed)
        self.screen.tell(f"{ResponseModel.from_json(facts['response_given_input']).verdict}.")
        for model in outcome.trained:
            if model.packed:
                self.screen.tell(f"{model.model}: {coverage_sentence(model.packed.facts)}")

    def _intervals(self, facts: Mapping[str, Any]) -> None:
        self._section(f"Requests and tokens of a minute, {LEAD:g} s ahead, beside baselines")
        for line in table(("mean absolute error", "requests", "input tokens", "output tokens"), interval_errors(facts)):
            self.screen.tell(line)
        self.screen.tell(inside_sentence(facts))

    def _tried(self, outcome: RequestOutcome) -> None:
        self._section("Test prediction")
        history = frame_of(outcome.trace)
        models = [model.model for model in outcome.trained]
        predictor = RequestPredictor(outcome.model_dir, models)
        for line in prediction_lines(predictor.predict_next_request(history)["predictions"]):
            self.screen.tell(line)
        for line in interval_lines(predictor.predict_interval(history), LENGTH, LEAD):
            self.screen.tell(line)

    def _summary(self, outcome: RequestOutcome) -> None:
        say, all_models = self.screen.tell, outcome.models
        self._section("Summary")
        say(f"trained at: {outcome.began:%Y-%m-%d %H:%M:%S}")
        say(f"data: {outcome.trace.counts.kept:,} records")
        say(f"trained: {len(outcome.trained)}/{len(all_models)} models")
        say(f"success rate: {len(outcome.trained) / len(all_models):.1%}")
        for model in outcome.trained:
            say(f"{model.model}: loss = {model.loss:.4f}" if model.loss is not None else f"{model.model}: no loss")
        if not outcome.trained:
            return
        where = () if outcome.model_dir.as_posix().endswith("data/models") else ("--model-dir", outcome.model_dir)
        shell = command("requests", "predict", "--history", outcome.trace.file, *where)
        self.screen.say(f"Next: {by_door(shell, 'dateshard.RequestPredictor().predict_next_request(history)')}")
        run = next(model.packed.name for model in outcome.trained if model.packed)
        self.screen.say(f"Plots: {command('report', run)}")


def remarks(trace: Trace) -> list[str]:
    """Sentences on what of a trace a person should know: its origin, unsorted and tied times, holes."""
    counts, said = trace.counts, list[str]()
    if trace.scale.origin is not None:
        said.append(f"times count from midnight of {trace.scale.origin}, a date by convention: the trace names none")
    if counts.unsorted:
        said.append(f"{counted(counts.unsorted, 'row')} came before an earlier one: sorted by time")
    if counts.tied * 10 > counts.kept:
        said.append(
            f"{counts.tied / counts.kept:.0%} of the records have the time of the one before: order of the file"
        )
    sample = trace.sample
    starts = sample.hole_starts()
    if len(starts):
        hours = [(sample.time_R[at] - sample.time_R[at - 1]) / 3.6e12 for at in starts.tolist()]
        said.append(
            f"{counted(len(starts), 'hole')} without a record, the longest {max(hours):.1f} h: no window crosses it"
        )
    return said


def comparison(facts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of the table of models and baselines: the median absolute error of each value, with R2."""
    first = next(iter(facts.values()))
    rows = []
    for name, each in first["baselines"].items():
        rows.append((name, *(_with_r2(each[value]["median_absolute_error"], each[value]["r2"]) for value in VALUES)))
    for name, of_model in facts.items():
        errors, r2 = of_model["median_absolute_error"], of_model["r2"]
        rows.append((name, *(_with_r2(errors[value], r2[value]) for value in VALUES)))
    return rows


def interval_errors(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table of the model of minutes and its baselines: the mean absolute error of each sum."""
    return [(name, *(_figure(error[what]) for what in error)) for name, error in facts["error"].items()]


def inside_sentence(facts: Mapping[str, Any]) -> str:
    """How many test minutes lay between the outer quantiles, without and with those that equal the lower one."""
    inside = facts["coverage"]["inside"]
    above = facts["coverage"].get("above", inside)  # older models have none
    named = dict(zip(TOKENS, ("requests", "input tokens", "output tokens"), strict=True))
    alike = max(inside[name] - above[name] for name in TOKENS) < 0.005
    shares = [
        f"{words} {inside[name]:.1%}" if alike else f"{words} {above[name]:.1%} to {inside[name]:.1%}"
        for name, words in named.items()
    ]
    said = f"between the 10 % and 90 % quantiles of {facts['test']:,} test minutes: {', '.join(shares)}"
    return said if alike else f"{said} (without and with those that equal the lower one; 80 % should lie in that range)"


def coverage_sentence(facts: Mapping[str, Any]) -> str:
    """How many test values lay inside the intervals, beside plain split conformal ones."""
    named = {"gap": "timestamp"}
    each = ", ".join(
        f"{named.get(value, value)} {facts['coverage'][value]:.1%} (split conformal {facts['plain_coverage'][value]:.1%})"
        for value in VALUES
        if facts["coverage"][value] is not None and facts["plain_coverage"][value] is not None
    )
    return f"inside the {facts['level']:.0%} intervals of {facts['test']:,} test requests: {each}"


def prediction_lines(predictions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A prediction as lines, with the keys of the notes."""
    lines = ["next request:"]
    for name, prediction in predictions.items():
        lines.append(f"  {name}:")
        if "error" in prediction:
            lines.append(f"    error: {prediction['error']}")
            continue
        for value in ("timestamp", "request_tokens", "response_tokens"):
            ends, shown = prediction["interval"][value], prediction[value]
            lines.append(f"    {value}: {_written(shown)}  ({_written(ends['low'])} to {_written(ends['high'])})")
        lines.append(
            f"    confidence: {prediction['confidence']:.3f} of {prediction['calibration']:,} held-out requests' values lay "
            f"inside intervals at {prediction['interval']['timestamp']['level']:g}"
        )
    return lines


def interval_lines(forecast: IntervalForecast, length: float, lead: float) -> list[str]:
    """The forecast of an interval as lines."""
    lines = [f"the {length:g} s that begin {lead:g} s after the last request:"]
    if forecast.fallback is not None:
        lines.append(f"  fallback: {forecast.fallback}")
    for name in ("count", "mean_input", "mean_output", "input_tokens", "output_tokens"):
        quantiles = getattr(forecast, name)
        lines.append(f"  {name}: " + ", ".join(f"{level:g}: {value:,.1f}" for level, value in quantiles.items()))
    return lines


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table as aligned lines: names to the left, figures to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = []
    for name, *figures in (head, *rows):
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return lines


def _with_r2(error: float | None, r2: float | None) -> str:
    return "-" if error is None else f"{_figure(error)} ({'-' if r2 is None else f'{r2:.3f}'})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _written(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
