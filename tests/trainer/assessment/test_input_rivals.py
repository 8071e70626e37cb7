"""The rivals at horizon 0 against scikit-learn: ridge and logistic regression of a step's inputs."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.assessment import input_rivals
from dateshard.trainer.assessment.baselines import order_to_judge
from dateshard.trainer.assessment.input_rivals import WindowDesign, fit_logistic, fit_ridge, fit_window_ridge
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import Batch, BatchForm
from dateshard.trainer.setup import choose_columns, class_counts, make_reader, window_of
from tests.conftest import World
from tests.kit.events import FIRST, event_world, make_records

FEATURES: dict[str, Any] = {"a": {}, "b": {}, "kind": {"categorical": True}, "y": {}, "class": {"categorical": True}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder, generator = tmp_path_factory.mktemp("table"), np.random.default_rng(4)
    lines = ["a,b,kind,y,class"]
    for _ in range(900):
        a, b = generator.normal(3, 2), generator.normal(-1, 0.5)
        kind = generator.choice(["p", "q", "r"])
        y = 2 * a - b + {"p": 0, "q": 3, "r": -2}[str(kind)] + generator.normal(0, 0.5)
        label = "high" if y > 8 else "low" if y < 4 else "middle"
        lines.append(f"{a:.4f},{b:.4f},{kind},{y:.4f},{label}")
    (folder / "raw.csv").write_text("\n".join(lines) + "\n")
    tree = {
        "dataset": "t",
        "pipeline": {"layout": "table", "source": {"path": str(folder / "raw.csv")}, "features": FEATURES},
    }
    world = World(folder, tree)
    assert not world.prepare().failed
    return world.open()


def rows(dataset: Dataset, split: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[R, F] of a split, by the names of its buckets."""
    (day,) = dataset.days
    cuts = dataset.cuts(day)
    chosen = np.array([name in dataset.manifest.split_cuts[split] for name in cuts.names])
    return np.asarray(dataset.arrays(day.date)["values"])[np.repeat(chosen, np.diff([*cuts.starts, day.num_steps])), 0]


def design(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([values[:, :2], np.eye(4)[values[:, 2].astype(int)]], axis=1).astype(np.float64)


def batch_of(values: np.ndarray[Any, Any]) -> Any:
    return SimpleNamespace(history_BHNF=torch.from_numpy(values.copy())[:, None, None])


@pytest.mark.parametrize("penalty", [0.01, 10.0])
def test_ridge_of_the_inputs_is_that_of_scikit_learn(dataset: Dataset, penalty: float) -> None:
    train, test = rows(dataset, "train"), rows(dataset, "test")
    forecast, chosen = fit_ridge(dataset, (0, 1, 2), (3,), [penalty])
    assert chosen == [penalty]
    oracle = SklearnRidge(alpha=penalty * len(train)).fit(design(train), train[:, 3].astype(np.float64))
    assert np.allclose(forecast(batch_of(test))[:, 0, 0, 0], oracle.predict(design(test)), atol=1e-4)


def test_the_penalty_is_the_one_with_the_least_error_on_validation(dataset: Dataset) -> None:
    held, penalties = rows(dataset, "validation"), [100.0, 1e-4, 3.0]
    _, (chosen,) = fit_ridge(dataset, (0, 1, 2), (3,), penalties)
    errors = {}
    for penalty in penalties:
        forecast, _ = fit_ridge(dataset, (0, 1, 2), (3,), [penalty])
        errors[penalty] = float(((forecast(batch_of(held))[:, 0, 0, 0].numpy() - held[:, 3]) ** 2).mean())
    assert chosen == min(errors, key=errors.__getitem__)


def test_logistic_regression_is_that_of_scikit_learn(dataset: Dataset) -> None:
    train, test = rows(dataset, "train"), rows(dataset, "test")
    guess = fit_logistic(dataset, (0, 1, 2), 4)
    logits = guess(batch_of(test))[:, 0, 0]
    assert torch.isinf(logits[:, 0]).all()
    oracle = LogisticRegression(max_iter=5000, tol=1e-9).fit(design(train), train[:, 4].astype(int))
    shares = torch.softmax(logits, dim=-1)[:, 1:].numpy()
    assert np.allclose(shares, oracle.predict_proba(design(test)), atol=2e-3)


def test_unobserved_targets_do_not_count(tmp_path: Path) -> None:
    lines = ["a,y", *(f"{k},{2 * k if k % 3 else ''}" for k in range(300))]
    (tmp_path / "raw.csv").write_text("\n".join(lines) + "\n")
    raw = {"scale": "none"}
    tree = {
        "dataset": "t",
        "pipeline": {
            "layout": "table",
            "source": {"path": str(tmp_path / "raw.csv")},
            "features": {"a": raw, "y": raw},
        },
    }
    world = World(tmp_path, tree)
    assert not world.prepare().failed
    forecast, _ = fit_ridge(world.open(), (0,), (1,), [1e-9])
    values = np.array([[10.0, 0.0], [50.0, 0.0]], dtype=np.float32)
    assert np.allclose(forecast(batch_of(values))[:, 0, 0, 0], [20.0, 100.0], atol=1e-2)
    assert world.open().days[0].date == dt.date(1970, 1, 1)


def test_classes_are_counted_over_training_rows_alone(dataset: Dataset) -> None:
    counts = class_counts(dataset, 4, 3)
    assert list(counts) == np.bincount(rows(dataset, "train")[:, 4].astype(int), minlength=4).tolist()
    assert sum(counts) < dataset.days[0].num_steps


def test_a_model_without_an_input_is_refused(dataset: Dataset) -> None:
    window = {"history": 1, "horizon": 0}
    config = Trainer.model_validate({"window": window, "targets": list(FEATURES)})
    with pytest.raises(UsageError, match="no feature is left as an input"):
        choose_columns(config, dataset)
    alone = Trainer.model_validate({"window": window, "targets": ["y"]})
    assert [dataset.feature_names[place] for place in choose_columns(alone, dataset).inputs] == [
        "a",
        "b",
        "kind",
        "class",
    ]


def event_batches(
    tmp_path: Path, *, target: str, horizon: int, history: Any
) -> tuple[Trainer, Dataset, dict[str, list[Batch]]]:
    """Windows of records whose target depends on their inputs, by split, and the trainer that they are of."""
    dates = [FIRST + dt.timedelta(days=k) for k in range(4)]
    records = {date: make_records(date, 120, ("a", "b"), 9) for date in dates}
    features = {
        "value": {"scale": "zscore"},
        "gap": {"aggregate": "gap"},
        "soon": {"column": "value", "aggregate": "mean", "ahead": "30m"},
    }
    window = {"history": history, "horizon": horizon} | ({"most": 5} if isinstance(history, str) else {})
    split = {"train": f"{dates[0]}..{dates[1]}", "validation": str(dates[2]), "test": str(dates[3])}
    world = event_world(
        tmp_path,
        records,
        cut=True,
        features=features,
        split=split,
        window=window,
        inputs=["value", "gap"],
        targets=[target],
    )
    assert not world.prepare().failed
    config, dataset = world.settings.trainer, world.open()
    columns, window_ = choose_columns(config, dataset), window_of(config)
    wanted = BatchForm(window=window_, inputs=(0, 1, 2), targets=columns.targets, known=True)
    return (
        config,
        dataset,
        {
            name: [
                batch.copy()
                for batch in make_reader(
                    config, dataset, order_to_judge(config, dataset, window_, name), wanted
                ).batches(0)
            ]
            for name in ("train", "validation", "test")
        },
    )


def plain(
    batches: list[Batch], records: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """[B, K] inputs of the last records with whether each is there, [B, P] targets, [B, P] observed."""
    rows, targets, seen = [], [], []
    for batch in batches:
        known = torch.ones_like(batch.history_BHNF, dtype=torch.bool) if batch.known_BHNF is None else batch.known_BHNF
        for number in range(batch.size):
            row = list[float]()
            for step in range(batch.history_BHNF.shape[1])[-records:]:
                there = bool(known[number, step].any())
                row += [*(batch.history_BHNF[number, step, 0, :2].double().numpy() * there), float(there)]
            rows.append(row)
            targets.append(batch.target_BPNF[number, :, 0, 0].numpy())
            observed = batch.observed_BPNF
            seen.append(np.ones(len(targets[-1]), bool) if observed is None else observed[number, :, 0, 0].numpy())
    return np.array(rows), np.array(targets, dtype=np.float64), np.array(seen)


@pytest.mark.parametrize(
    ("target", "horizon", "history"), [("value", 2, "45m"), ("soon", 1, 4), ("soon", 1, "2h"), ("value", 1, "5m")]
)
def test_ridge_of_a_windows_inputs_is_that_of_scikit_learn(
    tmp_path: Path, target: str, horizon: int, history: Any
) -> None:
    config, dataset, batches = event_batches(tmp_path, target=target, horizon=horizon, history=history)
    window, columns = window_of(config), choose_columns(config, dataset)
    design = WindowDesign.of(dataset, columns.inputs, window, horizon)
    assert design.records == window.history
    of = {"train": batches["train"], "held": batches["validation"]}
    forecast, penalties = fit_window_ridge(design, lambda split: iter(of[split]), [0.01, 3.0])
    x, y, seen = plain(batches["train"], window.history)
    held, held_y, held_seen = plain(batches["validation"], window.history)
    test, _, _ = plain(batches["test"], window.history)
    ours = torch.cat([forecast(batch) for batch in batches["test"]])[:, :, 0, 0].numpy()
    level = float(y[seen].mean())
    of["held"] = [replace(batch, target_BPNF=torch.full_like(batch.target_BPNF, level)) for batch in of["held"]]
    assert (
        fit_window_ridge(design, lambda split: iter(of[split]), [0.01, 1e6])[1] == [1e6] * horizon
    )  # a constant is best
    for step in range(horizon):
        rows, held_rows = seen[:, step], held_seen[:, step]
        oracles = [
            SklearnRidge(alpha=penalty * rows.sum(), solver="cholesky").fit(x[rows], y[rows, step])
            for penalty in (0.01, 3.0)
        ]
        errors = [((o.predict(held[held_rows]) - held_y[held_rows, step]) ** 2).mean() for o in oracles]
        best = int(np.argmin(errors))
        assert penalties[step] == (0.01, 3.0)[best]
        assert np.allclose(ours[:, step], oracles[best].predict(test), atol=2e-4)


def test_the_last_records_stay_where_equations_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_rivals, "EQUATION_BYTES", 8 * 10**2)  # of ten columns: three records of three
    config, dataset, batches = event_batches(tmp_path, target="soon", horizon=1, history=4)
    design = WindowDesign.of(dataset, choose_columns(config, dataset).inputs, window_of(config), 1)
    assert design.records == 3
    x, _, _ = plain(batches["test"], 3)
    ours = torch.cat([design.columns(batch) for batch in batches["test"]])[:, 0].numpy()
    assert np.array_equal(ours[:, :-1], x)
    assert (ours[:, -1] == 1).all()
