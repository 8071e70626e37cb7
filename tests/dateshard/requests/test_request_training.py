"""One command from the file of a trace to trained models: what it shows, what it measures, and what it refuses."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import dateshard
from dateshard.documents import document_schema
from dateshard.pipeline.synthetic.request_load import Workload
from dateshard.pipeline.synthetic.request_rows import write_burstgpt
from dateshard.pipeline.synthetic.request_truth import truth_of
from dateshard.places import data_in
from dateshard.requests import request_training
from dateshard.requests.accuracy.next_request_facts import refuse_leak
from dateshard.requests.request_settings import records_settings
from dateshard.requests.request_training import RequestOutcome, RequestTraining, train_requests
from dateshard.requests.trace import read_trace
from dateshard.requests.trace_dumps import name_of
from dateshard.shardstore.errors import DateshardError
from dateshard.trainer import loop
from dateshard.training.train import run_training
from tests.kit.traces import busy_hours, drifting_tokens, write_trace
from tests.kit.trained_trace import QUICK, TrainedTrace

QUICKER = ("trainer.training.epochs=4", "trainer.training.learning_rate=0.004")  # enough for a leak to be learned


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def one_date(path: Path, count: int, **tokens: Any) -> Path:
    times = busy_hours(count, num_dates=1)
    return write_trace(path, times, drifting_tokens(count, **tokens), drifting_tokens(count, **tokens | {"seed": 9}))


def trained_on(path: Path, *overrides: str, **asked: Any) -> RequestOutcome:
    whole = RequestTraining(data_path=str(path), overrides=(*QUICK, *overrides), **asked)
    return train_requests(whole, lambda *_: None)


def facts_of(outcome: RequestOutcome) -> Any:
    assert outcome.models[0].packed is not None, outcome.models[0].error
    return outcome.models[0].packed.facts


def test_the_command_prints_what_the_notes_print(trained: TrainedTrace) -> None:
    facts = (
        r"raw data: 1,200 records",
        r"sampled: 1,100 records \(the newest\)",
        r"cleaned: 1,089 records",
        r"11 left out: failed \(no output tokens\)",
        r"2 holes without a record",
        r"\[OK\] lstm:\n    final loss: \d\.\d{4}, of the epoch that is kept\n"
        r"    epochs: 2\n    model: \S+/cpu_lstm_\d{8}_\d{6}\n",
        r"\[OK\] dlinear:",
        r"\[OK\] intervals:",
        r"trained: 2/2 models",
        r"\nlast  .*\nrunning mean .*\nEWMA ",
        r"next request:\n  dlinear:\n    timestamp: \d+\.\d\d  \(",
        r"    confidence: 0\.\d{3} of \d+ held-out",
        r"success rate: 100.0%",
        r"requests predict --history \S+trace.csv",
    )
    for fact in facts:
        assert re.search(fact, trained.said), (fact, trained.said)
    names = sorted(path.name for path in trained.models.iterdir())
    assert [re.sub(r"\d{8}_\d{6}", "STAMP", name) for name in names] == [
        f"cpu_{model}_STAMP{suffix}" for model in ("dlinear", "lstm", "minutes") for suffix in ("", ".pth")
    ]


def test_predict_reads_the_file_of_a_trace(ds: Callable[..., Any], trained: TrainedTrace) -> None:
    asked = ("requests", "predict", "--history", str(trained.path), "--model-dir", str(trained.models))
    answer = ds(*asked, "--request-tokens", "50", "--json").document
    jsonschema.validate(answer, document_schema("requests predict"))
    assert set(answer["predictions"]) == {"dlinear", "lstm"}
    assert answer["predictions"] == trained.predictor().predict_next_request(trained.frame)["predictions"]
    assert answer["response_given_input"]["request_tokens"] == 50
    assert set(answer["interval"]["count"]) == {"0.1", "0.5", "0.9"}
    assert "count: 0.1: " in ds(*asked, "--length", "120").out
    assert "levels: write them" in ds(*asked, "--levels", "x", code=2).err
    early = ds(*asked, "--rows", "100", "--models", "lstm", "--json").document["predictions"]
    assert set(early) == {"lstm"}
    assert early["lstm"]["timestamp"] < answer["predictions"]["lstm"]["timestamp"]


def test_a_model_that_fails_does_not_keep_the_others_from_training(ds: Callable[..., Any], tmp_path: Path) -> None:
    path = one_date(tmp_path / "trace.csv", 600)
    options = ("--data-path", str(path), "--models", "lstm", "--models", "dlinear")
    said = ds("requests", "train", *options, *QUICK, "trainer.model.observed=true", code=1).out
    assert "[FAILED] dlinear: dlinear reads each target's own values" in said
    assert "trained: 1/2 models" in said
    assert "success rate: 50.0%" in said


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--models", "lstn"), 2, "there is no model 'lstn'"),
        (("--interval", "90"), 2, "90 is not a share"),
        (("--preset", "tpu"), 2, "there is no preset 'tpu'"),
        (("--columns", "time=a"), 2, "'input' is wrong"),
        (("trainer.window.history=400",), 65, "are too few: with a history of 400 records its"),
        (("trainer.training.epoch=2",), 2, "did you mean 'epochs'"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(
    ds: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    path = one_date(tmp_path / "trace.csv", 300)
    done = ds("requests", "train", "--data-path", str(path), *options, code=code)
    assert words in done.err
    assert not Path("data/models").exists()


def test_intervals_keep_their_level_on_a_drifting_trace_where_plain_ones_miss_it(tmp_path: Path) -> None:
    path = one_date(tmp_path / "drift.csv", 8000, spread=0.4, drift=1.6)
    facts = facts_of(trained_on(path, models=("dlinear",)))
    for value in ("request_tokens", "response_tokens"):
        assert 0.88 <= facts["coverage"][value] <= 0.92
        assert facts["plain_coverage"][value] < 0.88, "plain split conformal intervals miss"
        assert facts["winkler"][value] < facts["plain_winkler"][value]


def test_a_column_that_tells_the_next_request_is_caught(tmp_path: Path) -> None:
    """Without sessions nobody can explain anything of the next tokens: a model that does is refused."""
    workload = Workload(rows_a_day=1500.0, num_dates=1, in_session=0.0, bursts_a_day=0.0)
    truth = truth_of(workload)
    assert max(truth.next_input, truth.next_output) < 0.001
    bound = truth.next_gap + 0.05
    honest, leaking = tmp_path / "honest.csv", tmp_path / "leaking.csv"
    with open(honest, "wb") as file:
        write_burstgpt(workload, file)
    trace = read_trace(honest)
    times = (trace.time_R - trace.scale.start) / 1e9
    write_trace(leaking, times, np.roll(trace.output_R, -1), trace.output_R)
    outcome = trained_on(honest, *QUICKER, models=("gru",), most_r2=bound)
    facts = facts_of(outcome)
    assert max(*facts["r2"].values(), *facts["r2_raw"].values()) <= bound
    refused = trained_on(leaking, *QUICKER, models=("gru",), most_r2=bound).models[0]
    assert re.search(r"explains \d\d\.\d% of the variance of response_tokens", refused.error)
    assert refused.packed is None


@pytest.mark.parametrize(("logs", "raw", "words"), [(0.4, 0.0, "the logarithm of gap"), (0.0, 0.4, "gap")])
def test_a_leak_is_seen_in_the_values_or_in_their_logarithms(logs: float, raw: float, words: str) -> None:
    facts = {"r2": {"gap": logs, "request_tokens": None}, "r2_raw": {"gap": raw, "request_tokens": None}}
    with pytest.raises(DateshardError, match=f"explains 40.0% of the variance of {words} on held-out requests"):
        refuse_leak(facts, 0.1)
    refuse_leak(facts, 0.5)
    refuse_leak(facts, None)


def test_the_same_records_are_prepared_once(trained: TrainedTrace) -> None:
    sample = read_trace(trained.path).sample
    assert name_of(sample) == name_of(read_trace(trained.path, sample_size=10**6).sample)
    assert name_of(sample) != name_of(read_trace(trained.path, sample_size=900).sample)


def test_a_trace_of_few_requests_a_day_is_divided_by_dates(tmp_path: Path) -> None:
    """A history is longer than a date there: windows must cross midnight, so nothing cuts the records."""
    for per_date, cut in ((15, None), (300, "part")):
        times = busy_hours(per_date, num_dates=40)
        tokens = drifting_tokens(len(times))
        trace = read_trace(write_trace(tmp_path / "trace.csv", times, tokens, tokens))
        settings = records_settings(trace, "name", tmp_path, "cpu", (), QUICK)
        assert settings.preparing().source.cut == cut


def test_a_simple_trainer_that_shows_nothing_keeps_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = dateshard.SimpleTrainer(models=["lstn"])
    assert not trainer.run_simple_training("trace.csv", progress=False)
    assert "there is no model 'lstn'" in trainer.error
    assert capsys.readouterr().out == ""


def test_a_training_that_is_stopped_leaves_no_model_and_says_so(
    ds: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[Any]()

    def stopping(settings: Any, request: Any, *, watch: Any, should_stop: Any) -> Any:
        def watching(event: Any) -> None:
            watch(event)
            if isinstance(event, loop.Stepped) and not sent:
                sent.append(event)
                signal.raise_signal(signal.SIGTERM)

        return run_training(settings, request, watch=watching, should_stop=should_stop)

    monkeypatch.setattr(request_training, "run_training", stopping)
    path = one_date(tmp_path / "trace.csv", 600)
    done = ds("requests", "train", "--data-path", str(path), *QUICK, code=143)
    assert "stopped: models that are [OK] stay; the same command trains all of them anew" in done.out
    with data_in(Path("data")), pytest.raises(DateshardError, match="no complete model"):
        dateshard.RequestPredictor()
