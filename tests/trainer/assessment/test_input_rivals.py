"""The rivals at horizon 0 against scikit-learn: ridge and logistic regression of a step's inputs."""

from __future__ import annotations

import datetime as dt
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
from dateshard.trainer.assessment.input_rivals import fit_logistic, fit_ridge
from dateshard.trainer.config import Trainer
from dateshard.trainer.setup import choose_columns, class_counts
from tests.conftest import World

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
