"""requests serve-metrics: a real process and a real HTTP client on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dateshard.requests.trace import Trace, read_trace
from dateshard.service.fleet.fleet_load import Service
from dateshard.service.fleet.live_load import LiveLoad, Told
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.trained_trace import TrainedTrace
from tests.kit.zygote import Forked

HEAD = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
SERVICE = Service(capacity=1.0, interval=60, cold_start=180)


def steady(path: Path, every: int = 5, count: int = 900) -> Path:
    """A request of 100 and 20 tokens every few seconds."""
    path.write_text(HEAD + "".join(f"{every * k},ChatGPT,100,20,120,API log\n" for k in range(count)))
    return path


@contextmanager
def listening(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server of its own, which ends by SIGTERM and writes no traceback."""
    out, err = folder / "server.out", folder / "server.err"
    words = ["requests", "serve-metrics", "--port", "0", *options]
    process = Forked(words, folder, None, (out, err))
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (line := re.search(r"listening on (http:\S+):", out.read_text())):
            assert process.poll() is None, err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield line[1]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in err.read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    steady(folder / "warm.csv")
    with listening(folder, "--warm-up", "warm.csv") as url:
        yield url


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def post(url: str, body: object) -> int:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_client_reads_one_number_and_gauges_that_follow_what_is_posted(address: str) -> None:
    before = json.loads(get(f"{address}/load"))
    assert (
        0 <= before["value"] <= 12 * (10 + 20) / 60 + 1e-9
    )  # of the warm-up; some of it is older than a minute by now
    assert "no complete model" in before["fallback"]
    assert post(f"{address}/requests", [{"input_tokens": 1000, "output_tokens": 5900}] * 10) == 202
    assert json.loads(get(f"{address}/load"))["value"] - before["value"] == pytest.approx(1000, abs=6.1)
    text = get(f"{address}/metrics")
    gauges = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(gauges['dateshard_forecast_output_tokens{quantile="0.9"}']) >= 59_000
    assert gauges["dateshard_requests_received_total"] == "10"
    assert gauges["dateshard_forecast_fallback"] == "1"
    parser = pytest.importorskip("prometheus_client.parser")
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert [sample.labels["quantile"] for sample in families["dateshard_forecast_requests"].samples] == [
        "0.1",
        "0.5",
        "0.9",
    ]


def test_a_trained_model_forecasts_over_http_what_the_predictor_does(trained: TrainedTrace, tmp_path: Path) -> None:
    predictor, frame, last = trained.predictor(), trained.frame, float(trained.frame["Timestamp"].max())  # type: ignore[arg-type]
    warm = ("--warm-up", str(trained.path), "--model-dir", str(trained.models))
    began = time.monotonic()
    with listening(tmp_path, *warm, "--level", "0.5") as url:
        answer, text = json.loads(get(f"{url}/load")), get(f"{url}/metrics")
        assert post(f"{url}/requests", [{"input_tokens": 900, "output_tokens": 900}] * 200) == 202
        busier = json.loads(get(f"{url}/load"))
    passed = range(int(time.monotonic() - began) + 2)  # its clock goes on from the end of the trace
    ahead = [predictor.predict_interval(frame, 60, 180, (0.5,), now=last + seconds) for seconds in passed]
    work = [(0.1 * each.input_tokens[0.5] + each.output_tokens[0.5]) / 60 for each in ahead]
    assert (answer["level"], answer["fallback"]) == (0.5, None)
    assert 0.98 * min(work) <= answer["value"] <= 1.02 * max(work)
    assert busier["value"] > 2 * answer["value"]
    gauges = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert gauges["dateshard_forecast_fallback"] == "0"
    counts = [float(gauges[f'dateshard_forecast_requests{{quantile="{level}"}}']) for level in (0.1, 0.5, 0.9)]
    assert counts == sorted(counts)
    assert counts[0] < counts[2], "a forecast has a spread, last values have none"


@pytest.mark.parametrize(
    "body",
    [
        [{"input_tokens": 0, "output_tokens": 5}],
        [{"input_tokens": 5, "output_tokens": 10**9}],
        [{"input_tokens": 5}],
        [{"input_tokens": 5, "output_tokens": 5, "time": 3}],
        {"input_tokens": 5, "output_tokens": 5},
    ],
)
def test_what_is_no_request_is_refused_and_counts_nothing(address: str, body: object) -> None:
    before = re.findall(r"received_total (\d+)", get(f"{address}/metrics"))
    assert post(f"{address}/requests", body) == 422
    assert re.findall(r"received_total (\d+)", get(f"{address}/metrics")) == before


def test_the_clock_of_a_trace_goes_on_from_its_end_and_the_old_is_forgotten(tmp_path: Path) -> None:
    trace, wall = read_trace(steady(tmp_path / "t.csv")), [10**18]
    load = LiveLoad(SERVICE, None, "no model", trace, lambda: wall[0])
    assert load.now == trace.time_R[-1]
    assert load.forecast().count[0.5] == 12
    wall[0] += 60 * 10**9
    assert load.forecast().count[0.5] == 0
    load.tell(
        [Told(time=wall[0] - 10**9, input_tokens=7, output_tokens=3), Told(time=None, input_tokens=1, output_tokens=1)]
    )
    assert load.forecast().input_tokens[0.5] == 8
    wall[0] += 7200 * 10**9
    load.tell([Told(time=None, input_tokens=9, output_tokens=1)])
    assert len(load.rows_R3) == 2, "the last one before tells that nothing came since"
    assert load.received == 3


def test_after_an_idle_hour_the_forecast_is_that_of_a_model_and_not_the_last_values(trained: TrainedTrace) -> None:
    trace, wall = read_trace(trained.path), [10**18]
    load = LiveLoad(SERVICE, trained.predictor().intervals, "", trace, lambda: wall[0])
    busy = load.forecast()
    wall[0] += 5 * 3600 * 10**9
    load.tell([Told(time=None, input_tokens=9, output_tokens=1)])
    idle = load.forecast()
    assert (busy.fallback, idle.fallback) == (None, None)
    assert busy != idle


def test_nothing_came_yet_is_a_load_of_zero_and_is_said() -> None:
    load = LiveLoad(SERVICE, None)
    forecast = load.forecast((0.9,))
    assert load.work(forecast, 0.9) == 0
    assert forecast.fallback == "no request came yet"


def test_requests_told_out_of_order_give_the_same_answer_as_in_order(tmp_path: Path) -> None:
    trace: Trace = read_trace(steady(tmp_path / "t.csv"))
    came = [Told(time=int(10**18 - k * 10**9), input_tokens=k + 1, output_tokens=2) for k in range(50)]
    loads = [LiveLoad(SERVICE, None, "", trace, lambda: 10**18) for _ in range(2)]
    loads[0].tell(came)
    for place in np.random.default_rng(0).permutation(len(came)).tolist():
        loads[1].tell([came[place]])
    assert loads[0].forecast() == loads[1].forecast()
