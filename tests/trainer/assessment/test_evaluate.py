"""The evaluation: baselines and a model against plain numpy on the same windows, in scaled and in raw units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.assessment.baselines import within_reach
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.assessment.evaluation import Row

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-07", "validation": "2024-03-08", "test": "2024-03-09..2024-03-10"}
NAMES = ["repeat", "mean", "seasonal:24", "seasonal:4"]


def table(world: Any, names: list[str], split: str = "test", **changes: Any) -> dict[str, Row]:
    config = world.settings.trainer.model_copy(update=changes)
    result = evaluate(config, world.open(), split=split, baselines=names, model=None)
    return {row.name: row for row in result.rows}


def forecast_of(name: str, steps: np.ndarray, seen: np.ndarray, window: Any, mean_NF: np.ndarray) -> np.ndarray:
    """A baseline's forecast [P, N, F] from what the segment's own steps observed, as far back as it looks."""
    forecast = np.broadcast_to(mean_NF, (window.horizon, *mean_NF.shape)).copy()
    if name == "mean":
        return forecast
    season = int(name.partition(":")[2] or 1)
    for place in np.ndindex(forecast.shape):
        step, *cell = place
        back = place_of(step, seen[(slice(None), *cell)], window, season)
        if back is not None:
            forecast[place] = steps[(back, *cell)]
    return forecast


def place_of(step: int, seen: np.ndarray, window: Any, season: int) -> int | None:
    """The step whose observed value stands for a target step: of its phase the newest, else the nearest to it."""
    first, wanted = window.anchor - max(season, window.history), window.anchor + step % season - season
    phase = [back for back in range(wanted, first - 1, -season) if seen[back]]
    known = [back for back in range(first, window.anchor) if seen[back]]
    return phase[0] if phase else min(known, key=lambda back: (abs(back - wanted), back), default=None)


def observed_steps(plain: Any) -> list[np.ndarray]:
    return [np.array([step["observed"] for step in steps]) for steps in plain.segments]


def node_means(plain: Any) -> np.ndarray:
    """[N, F]: of what was observed in the training data."""
    training = [step for steps in plain.segments for step in steps if plain.member(step["date"], "train")]
    raw, seen = (np.array([step[key] for step in training]) for key in ("raw", "observed"))
    return np.nanmean(np.where(seen, raw, np.nan), axis=0)


def figures(error: np.ndarray, target: np.ndarray) -> dict[str, float]:
    mse = float((error**2).mean())
    spread = float(((target - target.mean()) ** 2).mean())
    return {
        "count": len(error),
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(abs(error).mean()),
        "bias": float(error.mean()),
        "r2": 1 - mse / spread,
    }


def raw_steps(world: Any, plain: Any) -> list[np.ndarray]:
    """Raw values of every step as a model sees them: an unknown one is the training mean."""
    mean = np.array([moment[0] for moment in plain.moments])
    raw = [np.array([step["raw"] for step in steps]) for steps in plain.segments]
    return [np.where(np.isnan(values), mean, values) for values in raw]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["test", "validation"])
def test_baselines_are_what_plain_numpy_makes_of_the_same_windows(
    make_world: Make, plain: Make, name: str, split: str
) -> None:
    """seasonal:24 looks further back than the history of 12; its windows are the very same. A third of the records is
    missing, and so are some cells, two of a phase and the last of a history among them."""
    world = make_world(10, split=SPLIT, missing=0.6, window={"history": 12, "horizon": 6})
    world.prepare()
    row, written = table(world, NAMES, split)[name], plain(world)
    windows = written.windows(split, 12, 6)
    mean, spread = (np.array([moment[k] for moment in written.moments]) for k in range(2))
    steps, known, means = raw_steps(world, written), observed_steps(written), node_means(written)
    forecast = np.array([forecast_of(name, steps[w.segment], known[w.segment], w, means) for w in windows])
    target = np.array([steps[w.segment][w.anchor : w.anchor + 6] for w in windows])
    seen = np.array([w.observed[12:] for w in windows])
    error = forecast - target
    for index, feature in enumerate(("speed", "volume")):
        chosen = seen[..., index]
        expected = figures(error[..., index][chosen], target[..., index][chosen])
        close(row.raw["by_feature"][feature], expected)
        scaled = figures(error[..., index][chosen] / spread[index], target[..., index][chosen] / spread[index])
        close(row.scaled["by_feature"][feature], scaled)
    close(row.scaled, figures((error / spread)[seen], ((target - mean) / spread)[seen]))
    for step in range(6):
        chosen = seen[:, step]
        expected = figures((error / spread)[:, step][chosen], ((target - mean) / spread)[:, step][chosen])
        close(row.scaled["by_horizon"][step], expected)


def close(found: dict[str, Any], expected: dict[str, float]) -> None:
    """Shards are float32: 1e-6 of the scale is what may be left."""
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5, abs=2e-6), key


def test_the_raw_error_of_an_offset_of_thousands_is_not_lost(make_world: Make, plain: Make) -> None:
    world = make_world(6, split={"train": "2024-03-01..2024-03-05", "test": "2024-03-06"})
    for date, rows in world.rows.items():
        world.rows[date] = [(i, node, None if speed is None else speed / 60 + 5e5, v) for i, node, speed, v in rows]
        world.write(date)
    world.prepare()
    row, written = table(world, ["repeat"])["repeat"], plain(world)
    steps, windows = raw_steps(world, written), written.windows("test", 12, 6)
    known, means = observed_steps(written)[0], node_means(written)
    error = np.array(
        [forecast_of("repeat", steps[0], known, w, means) - steps[0][w.anchor : w.anchor + 6] for w in windows]
    )
    target = np.array([steps[0][w.anchor : w.anchor + 6] for w in windows])
    seen = np.array([w.observed[12:] for w in windows])[..., 0]
    expected = figures(error[..., 0][seen], target[..., 0][seen])
    found = row.raw["by_feature"]["speed"]
    assert found["mae"] == pytest.approx(expected["mae"], rel=1e-5)
    assert found["r2"] == pytest.approx(expected["r2"], rel=1e-5)


def test_figures_of_features_scaled_per_node_are_right_too(make_world: Make) -> None:
    """Nodes of very different level: R2 is that of all targets together, in both units."""
    world = make_world(6, missing=0.0, split={"train": "2024-03-01..2024-03-05", "test": "2024-03-06"})
    world.tree["pipeline"]["features"]["speed"]["scale_per"] = "node"
    for date, rows in world.rows.items():
        level = {"n0": 0.0, "n1": 500.0, "n2": -300.0}
        world.rows[date] = [(i, node, 1.0 if speed is None else speed + level[node], v) for i, node, speed, v in rows]
        world.write(date)
    world.prepare()
    row, dataset = table(world, ["repeat"])["repeat"], world.open()
    values = np.concatenate([np.asarray(dataset.map(day.date)) for day in dataset.days]).astype(float)
    for units, steps in (("scaled", values), ("raw", dataset.scale.undo(values))):
        speeds = steps[..., 0]
        anchors = range(5 * 24, 6 * 24 - 5)
        error = np.array([speeds[a - 1] - speeds[a : a + 6] for a in anchors]).ravel()
        target = np.array([speeds[a : a + 6] for a in anchors]).ravel()
        expected = figures(error, target)
        reported = (row.scaled if units == "scaled" else row.raw)["by_feature"]["speed"]
        close(reported, expected)
        assert reported["r2"] == pytest.approx(expected["r2"], rel=1e-5)


@pytest.mark.parametrize("name", ["dlinear", "mlp"])
def test_a_model_is_evaluated_on_its_own_history_however_far_a_baseline_looks_back(
    make_world: Make, session_of: Make, name: str
) -> None:
    world = make_world(10, split=SPLIT, model={"name": name, "hidden_units": [8]}, inputs=["volume", "speed"])
    world.prepare()
    session = session_of(world)
    config, dataset = world.settings.trainer, world.open()

    def row(baselines: list[str]) -> Row:
        result = evaluate(config, dataset, split="test", baselines=baselines, model=("mine", session.model))
        assert result.windows == 43
        return next(row for row in result.rows if row.kind == "model")

    alone, beside = row([]), row(["seasonal:24", "repeat"])
    assert alone.scaled["mse"] == pytest.approx(beside.scaled["mse"], rel=1e-6)
    assert alone.raw["by_feature"]["speed"]["mae"] == pytest.approx(beside.raw["by_feature"]["speed"]["mae"], rel=1e-6)


def test_validation_while_training_and_evaluation_afterwards_agree(make_world: Make, session_of: Make) -> None:
    from dateshard.trainer.loop import validate

    world = make_world(10, split=SPLIT)
    world.prepare()
    session = session_of(world)
    report = validate(session, lambda: False)
    result = evaluate(session.config, world.open(), split="validation", baselines=[], model=("m", session.model))
    assert report is not None
    assert result.rows[0].scaled["mse"] == pytest.approx(report["mse"], rel=1e-12)
    assert result.rows[0].scaled["mae"] == pytest.approx(report["mae"], rel=1e-12)


def test_a_model_that_asks_for_no_codes_is_given_none(make_world: Make, session_of: Make) -> None:
    """As in training: one that looks whether there are any would else forecast otherwise than it was trained."""

    class Codeless(torch.nn.Module):
        uses_codes = False

        def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> dict[str, torch.Tensor]:
            assert codes is None
            return {"mse": history[:, -1:].expand(-1, 6, -1, -1)}

    world = make_world(10, split=SPLIT)
    world.prepare()
    config, model = session_of(world).config, ("m", Codeless())
    result = evaluate(config, world.open(), split="validation", baselines=["repeat"], model=model)
    repeat, own = result.rows
    assert own.scaled == repeat.scaled


@pytest.mark.parametrize("losses", [{"all": ["volume", "speed"]}, {"late": ["volume"], "early": ["speed"]}])
def test_a_ridge_is_the_same_whatever_the_order_of_its_losses(
    make_world: Make, session_of: Make, losses: dict[str, list[str]]
) -> None:
    """Its outputs are in the order of `trainer.targets`, its losses in another one."""
    from dateshard.trainer.loop import train

    world = make_world(10, split=SPLIT, model={"name": "ridge"})
    world.tree["trainer"]["training"]["losses"] = {k: {"loss": "mse", "targets": v} for k, v in losses.items()}
    world.prepare()
    session = session_of(world)
    list(train(session, lambda: False))
    model = ("m", session.model)
    result = evaluate(session.config, world.open(), split="validation", baselines=["ridge"], model=model)
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["ridge", "ridge:last", "m"]
    ridge, trained = rows["ridge"], rows["m"]
    for name, figures in ridge.scaled["by_feature"].items():
        assert trained.scaled["by_feature"][name] == pytest.approx(figures, rel=1e-9), name
    told = {
        who: {n.removeprefix(f"{who}: ") for n in result.notes if n.startswith(f"{who}: ")} for who in ("m", "ridge")
    }
    assert told["m"] <= told["ridge"]
    assert told["m"]


@pytest.mark.parametrize("policy", ["blocks", "mapped"])
def test_the_size_of_a_batch_does_not_change_a_figure(make_world: Make, session_of: Make, policy: str) -> None:
    """43 windows in batches of 1, 7 (a last one of 1), 43 and 1000."""
    world = make_world(10, split=SPLIT)
    world.prepare()
    session = session_of(world)
    tables = []
    for size in (1, 7, 43, 1000):
        training = session.config.training.model_copy(update={"batch_size": size})
        loading = session.config.loading.model_copy(update={"policy": policy})
        config = session.config.model_copy(update={"training": training, "loading": loading})
        names = ["repeat", "mean", "seasonal:24", "ridge"]
        tables.append(evaluate(config, world.open(), split="test", baselines=names, model=("m", session.model)))
    for other in tables[1:]:
        assert other.windows == tables[0].windows == 43
        for row, first in zip(other.rows, tables[0].rows, strict=True):
            tight = row.name in ("repeat", "mean", "seasonal:24")
            for unit in ("scaled", "raw"):
                left, right = getattr(row, unit), getattr(first, unit)
                assert left["count"] == right["count"]
                for figure in ("mse", "mae", "r2"):
                    assert left[figure] == pytest.approx(right[figure], rel=1e-12 if tight else 1e-6), row.name


def test_a_baseline_that_looks_further_back_than_the_data_is_refused(make_world: Make) -> None:
    world = make_world(10, split=SPLIT)
    world.prepare()
    with pytest.raises(UsageError, match="48 steps back"):
        table(world, ["seasonal:48"], "train")
    assert table(world, ["seasonal:48"], "test")["seasonal:48"].scaled["count"]


def test_baselines_that_look_further_back_than_a_split_are_told_apart(make_world: Make) -> None:
    world = make_world(10, split=SPLIT)
    world.prepare()
    config = world.settings.trainer  # 12 steps of history are before every window
    names = ["seasonal:48", "repeat", "ridge:48", "seasonal:4", "seasonal:12", "seasonal:13"]
    kept, notes = within_reach(config, world.open(), "train", names)
    assert kept == ["repeat", "seasonal:4", "seasonal:12"]
    assert [note.split(" left out: ")[0] for note in notes] == ["seasonal:48", "ridge:48", "seasonal:13"]
    assert within_reach(config, world.open(), "test", names) == (names, [])
    assert set(table(world, kept, "train")) == set(kept)  # what is kept is never refused


@pytest.mark.parametrize("name", ["seasonal:0", "seasonal:", "naive"])
def test_an_unknown_baseline_is_named(make_world: Make, name: str) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-03", "test": "2024-03-04"})
    world.prepare()
    with pytest.raises(UsageError, match=name):
        table(world, [name])
    world.tree["trainer"]["window"]["horizon"] = 0  # where those that forecast are left out
    with pytest.raises(UsageError, match=name):
        table(world, [name])


def test_a_split_without_windows_is_refused(make_world: Make) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-04"})
    world.prepare()
    with pytest.raises(UsageError, match="'test' has no window"):
        table(world, ["repeat"])


def test_the_verdict_compares_the_model_with_every_baseline(make_world: Make, session_of: Make) -> None:
    """On all numbers together, on the dates of the split; it says what the figures of the table say."""
    split = {"train": "2024-03-01..2024-03-03", "test": "2024-03-04..2024-03-10"}
    world = make_world(10, split=split)
    world.prepare()
    session = session_of(world)
    untrained = evaluate(
        session.config, world.open(), split="test", baselines=["mean", "repeat"], model=("m", session.model)
    )
    rows = {row.name: row.scaled for row in untrained.rows}
    assert [one.baseline for one in untrained.comparisons] == ["mean", "repeat"]
    for one in untrained.comparisons:
        assert one.dates == 7
        assert one.gain == pytest.approx(1 - rows["m"]["mse"] / rows[one.baseline]["mse"])
        assert one.agrees == ((rows["m"]["mae"] < rows[one.baseline]["mae"]) == (one.gain > 0))
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.gain < one.high
    assert untrained.outcome is not None
    assert untrained.to_json()["outcome"] == untrained.outcome
    assert evaluate(session.config, world.open(), split="test", baselines=["mean"], model=None).beats_baselines is None
