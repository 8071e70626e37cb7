"""The commands for traces of LLM requests: from a file to trained models, and predictions of what comes next."""

from __future__ import annotations

from typing import Any

import click

from dateshard.cli.options import config_option, emit, json_option, preset_option, quiet_option
from dateshard.cli.request_serving import judge, serve_metrics


class SeveralWords(click.Command):
    """A command whose option `--models` takes several words: `--models lstm dlinear`, or `--models lstm --models dlinear`."""

    several = ("--models",)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeats the option before each of its words; a word with = is none of them."""
        spread, option = list[str](), ""
        for word in args:
            if word.startswith("-"):
                option = word if word in self.several else ""
                if not option:
                    spread.append(word)
            elif option and "=" not in word:
                spread += [option, word]
            else:
                option = ""
                spread.append(word)
        return super().parse_args(ctx, spread)


@click.group()
def requests() -> None:
    """Forecast LLM request traces: the next request, and the load of an interval some minutes ahead."""


requests.add_command(judge)
requests.add_command(serve_metrics)


@requests.command(cls=SeveralWords)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--data-path",
    metavar="FILE",
    help="a trace: BurstGPT, Azure, Mooncake, or see --columns (default: dataset/BurstGPT_1_cleaned.csv)",
)
@click.option(
    "--sample-size",
    type=int,
    metavar="N",
    help="train on the newest N consecutive records (default: 50,000 on a processor, 200,000 on a GPU)",
)
@click.option(
    "--models",
    multiple=True,
    default=("lstm", "dlinear"),
    metavar="NAME...",
    help="which models: lstm, dlinear, gru, cnn, nlinear (default: lstm dlinear)",
)
@preset_option
@click.option("--model-dir", type=click.Path(), metavar="DIR", help="where models go (default: data/models)")
@click.option(
    "--columns",
    multiple=True,
    metavar="time=T,input=I,output=O",
    help="the file's columns of time, input tokens and output tokens, if its header is not a known one",
)
@click.option("--time-unit", metavar="s|ms|us|ns", help="unit of times that are numbers (default: that of the format)")
@click.option("--interval", "level", type=float, default=0.9, metavar="SHARE", help="of the intervals (default: 0.9)")
@click.option(
    "--most-r2",
    type=float,
    metavar="R2",
    help="refuse a model that explains more of the variance of a held-out value, or of its logarithm: "
    "some column then tells what is to be forecast",
)
@config_option
@quiet_option
def train(
    settings: tuple[str, ...],
    data_path: str | None,
    sample_size: int | None,
    models: tuple[str, ...],
    preset: str | None,
    model_dir: str | None,
    columns: tuple[str, ...],
    time_unit: str | None,
    level: float,
    most_r2: float | None,
    files: tuple[str, ...],
    quiet: bool,
) -> int:
    """Train models of the next request and of the minutes ahead on a trace: one command from file to prediction.

    KEY=VALUE and -c change the settings of configs/requests.yaml, as trainer.training.epochs=5.
    """
    from pathlib import Path

    from dateshard.requests.request_screen import ShownTraining
    from dateshard.requests.request_training import DATA_PATH, RequestTraining, split_columns, train_requests
    from dateshard.terminal.screen import Screen

    if not 0 < level < 1:
        raise click.BadParameter(f"{level:g} is not a share: write it as 0.9.", param_hint="--interval")
    screen = Screen(quiet=quiet, works=True)
    asked = RequestTraining(
        data_path=data_path or DATA_PATH,
        sample_size=sample_size,
        models=models,
        preset=preset or "auto",
        model_dir=Path(model_dir) if model_dir else None,
        columns=split_columns(columns),
        unit=time_unit,
        configs=files,
        overrides=settings,
        level=level,
        most_r2=most_r2,
    )
    shown = ShownTraining(screen)
    try:
        outcome = train_requests(asked, shown.watch, progress=screen.terminal and not quiet)
    except KeyboardInterrupt as stopped:
        screen.tell("stopped: models that are [OK] stay; the same command trains all of them anew")
        return int(stopped.args[0]) if stopped.args else 130
    shown.end(outcome)
    return 0 if len(outcome.trained) == len(outcome.models) else 1


@requests.command(cls=SeveralWords)
@click.option("--history", required=True, metavar="FILE", help="a trace whose last records are the history")
@click.option("--rows", type=int, metavar="N", help="of the file only the first N rows")
@click.option("--model-dir", type=click.Path(), metavar="DIR", help="where the models lie (default: data/models)")
@click.option(
    "--models", multiple=True, metavar="NAME...", help="only these (default: the newest of each that is there)"
)
@click.option("--request-tokens", type=int, metavar="N", help="input tokens of the next request, if they are known")
@click.option("--length", type=float, default=60.0, metavar="SECONDS", help="of the interval (default: 60)")
@click.option("--lead", type=float, default=180.0, metavar="SECONDS", help="until the interval begins (default: 180)")
@click.option("--levels", default="0.1,0.5,0.9", metavar="LIST", help="of the quantiles (default: 0.1,0.5,0.9)")
@json_option
def predict(
    history: str,
    rows: int | None,
    model_dir: str | None,
    models: tuple[str, ...],
    request_tokens: int | None,
    length: float,
    lead: float,
    levels: str,
    as_json: bool,
) -> None:
    """Predict the request that comes after a trace, and the requests and tokens of an interval ahead."""
    from dataclasses import asdict

    from dateshard.requests.request_predictor import RequestPredictor
    from dateshard.requests.request_screen import interval_lines, prediction_lines
    from dateshard.terminal.screen import Screen

    predictor = RequestPredictor(model_dir, models or None)
    frame = predictor.read(history, rows)
    answer = predictor.predict_next_request(frame, request_tokens)
    interval = predictor.predict_interval(frame, length, lead, _levels(levels))
    if as_json:
        emit(_plain({**answer, "interval": {"length": length, "lead": lead, **asdict(interval)}}))
        return
    screen = Screen()
    response = answer.get("response_given_input", {})
    for line in [*prediction_lines(answer["predictions"]), *interval_lines(interval, length, lead)]:
        screen.tell(line)
    if "response_tokens" in response:
        ends = response["interval"]
        screen.tell(f"of a request with {request_tokens} input tokens: {response['response_tokens']} response tokens")
        screen.tell(f"  ({ends['low']} to {ends['high']} at {ends['level']:g}); {response['verdict']}")


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' are no levels: write them as 0.1,0.5,0.9.", param_hint="--levels") from None


def _plain(value: Any) -> Any:
    """A tree as JSON has it: levels of quantiles and instants become texts."""
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else key: _plain(inner) for key, inner in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else value
