"""The commands of `requests` for those who scale a fleet: judge predictors, and serve their forecast to an autoscaler."""

from __future__ import annotations

import click

from dateshard.cli.options import emit, json_option, quiet_option


@click.command()
@click.option("--data-path", required=True, metavar="FILE", help="a trace: BurstGPT, Azure, Mooncake, or see --columns")
@click.option("--columns", multiple=True, metavar="time=T,input=I,output=O", help="the file's columns, if not known")
@click.option("--time-unit", metavar="s|ms|us|ns", help="unit of times that are numbers")
@click.option("--model-dir", type=click.Path(), metavar="DIR", help="where models lie (default: data/models)")
@click.option("--no-model", is_flag=True, help="only the baselines")
@click.option("--capacity", type=float, metavar="WORK", help="weighed tokens that a replica does in a second")
@click.option("--input-weight", type=float, default=0.1, metavar="W", help="work of an input token (default: 0.1)")
@click.option("--output-weight", type=float, default=1.0, metavar="W", help="work of an output token (default: 1)")
@click.option(
    "--cold-start", type=float, default=180.0, metavar="SECONDS", help="until a replica serves (default: 180)"
)
@click.option("--objective", type=float, default=10.0, metavar="SECONDS", help="a request may wait (default: 10)")
@click.option("--misses", type=float, default=0.01, metavar="SHARE", help="of requests that may wait longer (0.01)")
@click.option("--length", type=int, default=60, metavar="SECONDS", help="between decisions (default: 60)")
@click.option("--fewest", type=int, default=1, metavar="N", help="replicas that always run (default: 1)")
@click.option("--plot", type=click.Path(), metavar="FILE.html", help="write a page with a curve of each predictor")
@json_option
@quiet_option
def judge(
    data_path: str,
    columns: tuple[str, ...],
    time_unit: str | None,
    model_dir: str | None,
    no_model: bool,
    capacity: float | None,
    input_weight: float,
    output_weight: float,
    cold_start: float,
    objective: float,
    misses: float,
    length: int,
    fewest: int,
    plot: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say how many replica-hours each predictor would have cost on a trace's last part, and what it would have missed.

    The dial of each predictor is chosen on the part before.
    """
    from pathlib import Path

    from dateshard.reports.page_files import refuse_no_page
    from dateshard.requests.request_training import split_columns
    from dateshard.requests.trace import read_trace
    from dateshard.service.fleet.fleet_document import document_of
    from dateshard.service.fleet.fleet_judgement import judged
    from dateshard.service.fleet.fleet_load import Service
    from dateshard.service.fleet.fleet_page import write_curves
    from dateshard.service.fleet.fleet_screen import show
    from dateshard.service.fleet.trained_load import intervals_of
    from dateshard.terminal.screen import Screen

    if capacity is not None and not capacity > 0:
        raise click.BadParameter(f"{capacity:g} is no capacity: give a number above 0.", param_hint="--capacity")
    if plot:
        refuse_no_page(Path(plot), "--plot")
    screen = Screen(as_json=as_json, quiet=quiet)
    service = Service(
        capacity=capacity or 0.0,
        input_weight=input_weight,
        output_weight=output_weight,
        cold_start=cold_start,
        objective=objective,
        interval=length,
        fewest=fewest,
    )
    intervals, why = (None, "") if no_model else intervals_of(Path(model_dir) if model_dir else None)
    trace = read_trace(data_path, None, split_columns(columns), time_unit)
    judgement = judged(trace, service, intervals or why, misses)
    if plot:
        write_curves(Path(plot), judgement, chosen_capacity=capacity is None)
        screen.say(f"wrote {plot}")
    if as_json:
        emit(document_of(judgement, data_path, plot, capacity_given=capacity is not None))
        return
    show(judgement, screen, chosen_capacity=capacity is None)


@click.command()
@click.option("--model-dir", type=click.Path(), metavar="DIR", help="where models lie (default: data/models)")
@click.option("--warm-up", metavar="FILE", help="a trace that came before")
@click.option("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
@click.option("--port", type=click.IntRange(0, 65535), default=9105, help="port (default: 9105; 0: any free one)")
@click.option("--level", type=float, default=0.9, metavar="SHARE", help="quantile that /load answers with (0.9)")
@click.option("--input-weight", type=float, default=0.1, metavar="W", help="work of an input token (default: 0.1)")
@click.option("--output-weight", type=float, default=1.0, metavar="W", help="work of an output token (default: 1)")
@click.option("--length", type=int, default=60, metavar="SECONDS", help="of the interval (default: 60)")
@click.option("--lead", type=float, default=180.0, metavar="SECONDS", help="until the interval begins (default: 180)")
def serve_metrics(
    model_dir: str | None,
    warm_up: str | None,
    host: str,
    port: int,
    level: float,
    input_weight: float,
    output_weight: float,
    length: int,
    lead: float,
) -> None:
    """Serve the forecast of the load ahead over HTTP: one number for KEDA, gauges for Prometheus."""
    from pathlib import Path

    from dateshard.requests.next_interval import refuse_interval
    from dateshard.requests.trace import read_trace
    from dateshard.service.api_client import address_of
    from dateshard.service.fleet.fleet_load import Service, refuse_service
    from dateshard.service.fleet.live_load import LiveLoad
    from dateshard.service.fleet.trained_load import intervals_of
    from dateshard.shardstore.errors import UsageError
    from dateshard.terminal.screen import Screen

    try:
        import uvicorn

        from dateshard.service.fleet.load_service import app_of
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise UsageError(f"{error.name} is not installed", todo="Install dateshard[service]") from None
    service = Service(
        capacity=1.0, input_weight=input_weight, output_weight=output_weight, cold_start=lead, interval=length
    )
    refuse_service(service)
    intervals, why = intervals_of(Path(model_dir) if model_dir else None)
    refuse_interval(length, lead, (level,), intervals.reach_seconds if intervals else None)
    warm = read_trace(warm_up) if warm_up else None
    screen, load = Screen(works=True), LiveLoad(service, intervals, why, warm)
    if why:
        screen.tell(f"without a trained model the last values are served: {why}")
    config = uvicorn.Config(app_of(load, level), host=host, port=port, log_level="warning")
    listening = config.bind_socket()
    listening.listen()  # who reads the next line may connect
    address = address_of(host, listening.getsockname()[1])
    screen.tell(f"listening on {address}: POST /requests, GET /load, GET /metrics")
    uvicorn.Server(config).run(sockets=[listening])
