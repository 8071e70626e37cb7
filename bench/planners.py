"""The predictors of NVIDIA Dynamo's planner beside ours, judged by replica-hours at matched misses.

    python -m venv /tmp/planners && /tmp/planners/bin/pip install statsmodels pmdarima filterpy prophet
    python bench/planners.py --planners /tmp/planners/bin/python [--rows-a-day 20000] [--model-dir DIR]

An invented trace of known truth; the last 15 % are replayed, dials are chosen on the 15 % before. The forecasters run in an
environment of their own (`--planners`), which reads the work of each interval and writes a forecast of each: ARIMA (pmdarima's
auto_arima on the last day before what is forecast, then its state follows the values), a Kalman filter (filterpy: level and
trend, tuned on what came before) and Prophet (fitted anew every hour on the last week; the planner does so at every decision).
Each forecasts `lead` intervals ahead from what was known then. One thread; the dial of each is a factor.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
FITTED = 720  # intervals that ARIMA's orders are chosen on
WEEK = 7 * 86_400  # seconds that Prophet is fitted on
NAMES = ("ARIMA", "Kalman", "Prophet")
Floats = NDArray[np.float64]


def arima(work_K: Floats, first: int, lead: int) -> Floats:
    import warnings

    import pmdarima
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    warnings.simplefilter("ignore")
    chosen = pmdarima.auto_arima(work_K[first - FITTED : first], max_p=3, max_q=3, seasonal=False)
    spoken = SARIMAX(work_K[first - FITTED : first], order=chosen.order, trend="c" if chosen.with_intercept else None)
    fitted = spoken.fit(disp=False)
    print(f"ARIMA{chosen.order}", file=sys.stderr)
    whole = fitted.apply(work_K[first - FITTED :])
    state = whole.filter_results.filtered_state  # [states, K]: after each value
    design, transition = spoken.ssm["design"][:, :], spoken.ssm["transition"][:, :]
    intercept = np.asarray(spoken.ssm["state_intercept"]).reshape(-1, 1)
    offset = float(np.asarray(spoken.ssm["obs_intercept"]).ravel()[0])
    ahead = state[:, FITTED - lead - 1 : len(work_K) - first + FITTED - lead - 1]
    for _ in range(lead + 1):
        ahead = transition @ ahead + intercept
    return np.maximum(0.0, (design @ ahead)[0] + offset)


def kalman(work_K: Floats, first: int, lead: int) -> Floats:
    from filterpy.kalman import KalmanFilter

    noise = float(np.var(np.diff(work_K[:first]))) / 2
    best = None
    for share in (1e-4, 1e-3, 1e-2, 1e-1):
        level = KalmanFilter(dim_x=2, dim_z=1)
        level.x, level.F, level.H = (
            np.array([[work_K[0]], [0.0]]),
            np.array([[1.0, 1.0], [0.0, 1.0]]),
            np.array([[1.0, 0.0]]),
        )
        level.R, level.Q, level.P = (
            np.array([[noise]]),
            np.diag([share * noise, share * noise * 1e-4]),
            np.eye(2) * noise,
        )
        known = np.empty((len(work_K), 2))
        for place, value in enumerate(work_K):
            level.predict()
            level.update(value)
            known[place] = level.x[:, 0]
        ahead = np.maximum(0.0, known[:, 0] + (lead + 1) * known[:, 1])
        missed = float(np.abs(ahead[first // 2 : first - lead - 1] - work_K[first // 2 + lead + 1 : first]).mean())
        if best is None or missed < best[0]:
            best = missed, ahead
    assert best is not None
    return best[1][first - lead - 1 : len(work_K) - lead - 1]


def prophet(work_K: Floats, first: int, lead: int, seconds: int) -> Floats:
    """Fitted anew every hour on the last week that is known."""
    import logging

    import pandas
    from prophet import Prophet

    logging.getLogger("cmdstanpy").setLevel(logging.ERROR)
    times = pandas.Timestamp("2001-01-01") + pandas.to_timedelta(np.arange(len(work_K)) * seconds, unit="s")
    every = 5  # at a minute each fifth interval is enough for the rhythm of the day
    hour, week, answers = 3600 // seconds, WEEK // seconds, []
    for place in range(first, len(work_K), hour):
        known = slice(max(0, place - lead - week), place - lead, every)
        model = Prophet(weekly_seasonality=False, yearly_seasonality=False, uncertainty_samples=0)
        model.fit(pandas.DataFrame({"ds": times[known], "y": work_K[known]}))
        answers.append(model.predict(pandas.DataFrame({"ds": times[place : place + hour]}))["yhat"].to_numpy())
    return np.maximum(0.0, np.concatenate(answers))


def forecast(folder: Path) -> None:
    """In the planners' environment: reads work.npz, writes one forecast a name and part."""
    given = np.load(folder / "work.npz")
    lead, seconds = int(given["lead"]), int(given["interval"])
    for first, end in given["parts"].tolist():
        forecast_from(folder, given["work"][:end], first, lead, seconds)


def forecast_from(folder: Path, work_K: Floats, first: int, lead: int, seconds: int) -> None:
    """Forecasts the intervals from `first` on, by each predictor."""
    makers = {
        "ARIMA": lambda: arima(work_K, first, lead),
        "Kalman": lambda: kalman(work_K, first, lead),
        "Prophet": lambda: prophet(work_K, first, lead, seconds),
    }
    for name, make in makers.items():
        before = time.process_time()
        np.save(folder / f"{name}-{first}.npy", make())
        print(f"{name}: {time.process_time() - before:.1f} CPU s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planners", help="python of an environment with statsmodels, pmdarima, filterpy, prophet")
    parser.add_argument("--rows-a-day", type=float, default=20_000)
    parser.add_argument("--capacity", type=float, default=0.0)
    parser.add_argument("--model-dir", help="a trained model of minutes of this very trace, as init's example has it")
    parser.add_argument("--forecast", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.forecast:
        forecast(asked.forecast)
        return
    from dateshard.pipeline.synthetic.request_load import Workload
    from dateshard.pipeline.synthetic.request_rows import write_burstgpt
    from dateshard.requests.trace import read_trace
    from dateshard.service.fleet.fleet_judgement import OURS, judged, verdict
    from dateshard.service.fleet.fleet_load import Service, load_of
    from dateshard.service.fleet.fleet_screen import remarks, rows_of, terms
    from dateshard.service.fleet.load_forecasts import BASELINES, filled
    from dateshard.service.fleet.trained_load import intervals_of

    service = Service(capacity=asked.capacity)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open(folder / "requests.csv", "wb") as file:
            write_burstgpt(Workload(rows_a_day=asked.rows_a_day), file)
        trace = read_trace(folder / "requests.csv")
        load = load_of(trace, service)
        parts = [(load.tuning, load.first), (load.first, len(load.seen_K))]
        np.savez(folder / "work.npz", work=filled(load), parts=parts, lead=service.lead, interval=service.interval)
        threads = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run([asked.planners, __file__, "--forecast", str(folder)], check=True, env=threads)
        made = {each: {first: np.load(folder / f"{each}-{first}.npy") for first, _ in parts} for each in NAMES}
    predictors = dict(BASELINES) | {each: lambda load, lead, of=of: of[load.first] for each, of in made.items()}
    intervals, why = intervals_of(Path(asked.model_dir)) if asked.model_dir else (None, "")
    judgement = judged(trace, service, intervals or why, predictors=predictors)
    for sentence in [*terms(judgement, chosen_capacity=not asked.capacity), *remarks(judgement)]:
        print(sentence)
    heads, *rows = rows_of(judgement)
    heads.append("below constant, 95 %")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, *cells in rows:
        saved = judgement.saving(name) if name in predictors or name == OURS else None
        ends = "{:.1%} to {:.1%}".format(*saved) if saved else ""
        print("| " + " | ".join([name, *cells, ends]) + " |")
    print(f"\n{verdict(judgement)}")


if __name__ == "__main__":
    main()
