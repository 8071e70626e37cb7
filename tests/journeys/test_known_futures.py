"""Features that are known ahead: what the model sees of them, what it does not see of others, resume and predict."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dateshard.judging.exporting.onnx_file import export_model
from dateshard.judging.prediction import Prediction, PredictRequest, predict_run
from dateshard.judging.predictor import Predictor
from dateshard.pipeline.config import FeatureConfig
from dateshard.pipeline.recent.known_ahead import KnownAhead, unobserved
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, NotThereError, UsageError
from dateshard.shardstore.layouts.feature import Feature
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.setup import make_session
from tests.conftest import World
from tests.kit.untrained import untrained

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(6)]
NODES = ("a", "b")
SPLIT = {"train": f"{DATES[0]}..{DATES[3]}", "validation": str(DATES[4]), "test": str(DATES[5])}
FEATURES: dict[str, Any] = {
    "load": {"scale": "none"},
    "heat": {"scale": "none"},  # drives the load of its own hour, and nobody could guess it from the past
    "kind": {"categorical": True},
}


def world_of(folder: Path, *, known: tuple[str, ...], targets: tuple[str, ...] = ("load",), **trainer: Any) -> World:
    """Loads that follow a random heat at the same hour; `known` are the features that are known ahead."""
    features = {name: {**feature, **({"future": True} if name in known else {})} for name, feature in FEATURES.items()}
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "step": "1h",
            "features": features,
            "split": SPLIT,
        },
        "trainer": {
            "window": {"history": 6, "horizon": 4},
            "targets": list(targets),
            "model": {"name": "mlp", "hidden_units": [16], "dropout_rate": 0.0},
            "training": {"epochs": 12, "batch_size": 8, "learning_rate": 0.01, "seed": 3},
            **trainer,
        },
    }
    world = World(folder, tree)
    for date in DATES:
        dump(world, date)
    return world


def dump(world: World, date: dt.date) -> None:
    random = np.random.default_rng(date.toordinal())
    lines = ["time,node,load,heat,kind"]
    for hour in range(24):
        for node in NODES:
            heat, kind = round(float(random.normal()), 3), str(random.choice(["open", "shut"]))
            load = round(2 * heat + (1.0 if kind == "open" else -1.0), 3)
            lines.append(f"{date}T{hour:02}:00:00,{node},{load},{heat},{kind}")
    world.dump(date).parent.mkdir(parents=True, exist_ok=True)
    world.dump(date).write_text("\n".join(lines) + "\n")


def best_loss(world: World) -> float:
    """The validation loss of a training through the command line."""
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    world.run("train", "-c", config, "--run", "r")
    return float(json.loads(world.run("checkpoints", "info", "r", "best", "--json").stdout)["val_loss"])


def test_what_is_known_ahead_is_used_and_what_is_not_declared_stays_unseen(tmp_path: Path) -> None:
    known = best_loss(world_of(tmp_path / "known", known=("heat", "kind")))
    heat = best_loss(world_of(tmp_path / "heat", known=("heat",)))
    blind = best_loss(world_of(tmp_path / "blind", known=()))
    assert known < 0.3  # of a variance of 5
    assert 0.7 < heat < 2.5  # what the kind decides is missing
    assert blind > 3  # nothing of the past tells


@pytest.mark.parametrize("known", [(), ("heat",)])
@pytest.mark.parametrize("name", ["mlp", "lstm", "dlinear"])
def test_nothing_of_the_horizon_but_what_is_declared_reaches_the_model(
    tmp_path: Path, known: tuple[str, ...], name: str
) -> None:
    """Everything else in the buffers is poisoned: the forecast stays the same, bit by bit."""
    inputs = {"inputs": ["load", "heat"]} if name == "dlinear" else {}
    model = {"name": name} if name == "dlinear" else {"name": name, "hidden_units": [4]}
    world = world_of(tmp_path, known=known, model=model, **inputs)
    assert not world.prepare().failed
    dataset = world.open()
    session = make_session(world.settings.trainer, dataset, tmp_path / "checkpoints")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in session.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    trained = session.model.eval()
    batch = next(iter(session.train.batches(0)))
    (slot,) = {slot for slot in session.train._ring if slot.flat.data_ptr() == batch.history_BHNF.data_ptr()}

    def forecast(given: Batch) -> torch.Tensor:
        future = {} if given.future_BPNF is None else {"future_BPNF": given.future_BPNF}
        with torch.no_grad():
            out: torch.Tensor = trained(given.history_BHNF, given.codes_BW, **future)
        return out

    before = forecast(batch).clone()
    assert (batch.future_BPNF is not None) == bool(known)
    place = dataset.feature_names.index("heat")
    everything = [k for k in range(len(dataset.features)) if not (known and k == place)]
    slot.shaped[:, 6:, :, everything] = float("nan")
    assert torch.equal(forecast(batch), before)
    if known:
        slot.shaped[:, 6:, :, place] += 1.0
        assert not torch.equal(forecast(batch), before)
        assert batch.future_BPNF is not None
        assert batch.future_BPNF.data_ptr() >= slot.flat.data_ptr()  # a view of the same gather
        assert batch.future_BPNF.shape == (8, 4, 2, 1)


def test_to_know_a_feature_ahead_rewrites_no_shard(tmp_path: Path) -> None:
    world = world_of(tmp_path, known=())
    assert not world.prepare().failed
    before = {path: path.read_bytes() for path in (world.store / "shards").rglob("*") if path.is_file()}
    world.tree["pipeline"]["features"]["heat"]["future"] = True
    done = world.run("preprocess", "-c", str(world.config_file()))
    assert "0 shards written" in done.stdout or "no shard" in done.stdout + done.stderr
    dataset = world.open()
    assert [feature.future for feature in dataset.features] == [False, True, False]
    assert before == {path: path.read_bytes() for path in (world.store / "shards").rglob("*") if path.is_file()}
    assert "nothing to do" in world.run("preprocess", "-c", str(world.config_file())).stdout


def test_what_is_known_ahead_is_no_target_and_not_aggregated_from_what_comes(tmp_path: Path) -> None:
    world = world_of(tmp_path, known=("heat",), targets=("load", "heat"))
    assert not world.prepare().failed
    with pytest.raises(UsageError, match="'heat' is known ahead"):
        make_session(world.settings.trainer, world.open(), tmp_path / "checkpoints")
    world.tree["trainer"]["targets"] = None
    world.tree["trainer"]["inputs"] = ["load", "heat"]
    world.tree["pipeline"]["features"].pop("kind")
    assert not world.prepare().failed
    session = make_session(world.settings.trainer, world.open(), tmp_path / "checkpoints")
    assert session.train.wanted.targets == (0,)  # all but what is known


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with a run of weights as drawn, but for a correction that looks at the futures."""
    world = world_of(tmp_path, known=("heat", "kind"))
    assert not world.prepare().failed
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "zeros_", lambda tensor: tensor)
        untrained(world.settings.trainer, world, "r")
    monkeypatch.chdir(tmp_path)
    return world


def ask(**more: Any) -> Prediction:
    return predict_run(PredictRequest(run="r", interval=None, **more))


def by_hand(forecaster: Forecaster, dataset: Dataset, at: int) -> np.ndarray:
    values = np.concatenate([np.asarray(dataset.map(day.date)) for day in dataset.days])
    codes = np.concatenate([dataset.codes(day) for day in dataset.days])
    scaled, _ = forecaster.of_window(
        values[at - 6 : at].copy(), codes[at - 6 : at + 4], None, values[at : at + 4, :, 1:]
    )
    assert scaled is not None
    return scaled.ravel()


def test_predict_knows_what_dumps_or_shards_hold_of_what_comes(asked: World, tmp_path: Path) -> None:
    dataset, history = asked.open(), str(tmp_path / "raw" / "{date}.csv")
    noon = f"{DATES[5]}T12:00"
    of_shards = ask(at=noon)
    of_history = ask(history=(history,), until=noon)
    ahead = tmp_path / "ahead"
    ahead.mkdir()
    lines = asked.dump(DATES[5]).read_text().splitlines()
    kept = [",".join(row.split(",")[:2] + row.split(",")[3:]) for row in lines if "load" in row or "T1" in row]
    (ahead / f"{DATES[5]}.csv").write_text("\n".join(kept) + "\n")  # without the load, and a part of the date
    known = [line for line in lines if "load" in line or int(line[11:13]) < 12]
    (tmp_path / f"until-{DATES[5]}.csv").write_text("\n".join(known) + "\n")
    of_future = ask(history=(str(tmp_path / f"until-{DATES[5]}.csv"),), future=(str(ahead / "{date}.csv"),), until=noon)
    wanted = by_hand(of_shards.forecaster, dataset, 5 * 24 + 12)
    np.testing.assert_allclose(of_shards.frame["value"], wanted, rtol=1e-5, atol=1e-5)
    assert of_history.frame.equals(of_shards.frame)
    assert of_future.frame.equals(of_shards.frame)
    changed = [row.replace(row.split(",")[2], "9.0", 1) if "T13" in row else row for row in kept]
    (ahead / f"{DATES[5]}.csv").write_text("\n".join(changed) + "\n")
    other = ask(history=(str(tmp_path / f"until-{DATES[5]}.csv"),), future=(str(ahead / "{date}.csv"),), until=noon)
    assert not other.frame["value"].equals(of_shards.frame["value"])


def test_a_predictor_and_a_graph_refuse_a_model_that_looks_ahead(asked: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known ahead, and the model looks at heat, kind.*predict r --future"):
        Predictor("r", interval=None)
    with pytest.raises(UsageError, match="a graph takes nothing that is known ahead"):
        export_model("r", "best", tmp_path / "r.onnx")


def test_what_is_missing_of_what_comes_is_named(asked: World, tmp_path: Path) -> None:
    over = str(DATES[5] + dt.timedelta(days=1))
    with pytest.raises(
        NotThereError,
        match=rf"knows heat, kind of the steps that it forecasts, and nothing holds {over}",
    ):
        ask(at="latest")
    with pytest.raises(DumpError, match=rf"nothing holds {over}"):
        ask(history=(str(tmp_path / "raw" / "{date}.csv"),), until=str(DATES[5]))
    (tmp_path / f"{over}.csv").write_text(f"time,node,heat,kind\n{over}T00:00:00,a,1.5,open\n{over}T01:00:00,a,1.5,\n")
    made = ask(at="latest", future=(f"{over}.csv",))
    heat = "heat, known ahead, has no value in 2 of 4 steps. They are filled with the middle of the scale"
    kind = "kind, known ahead, has no value in 3 of 4 steps. They are filled with no category (code 0)"
    assert {f"{heat}.", f"{kind}."} <= {*made.notes}
    sure = predict_run(PredictRequest(run="r", at="latest", future=(f"{over}.csv",), interval=0.5)).notes
    assert f"{heat}, and low and high, measured where it was known, do not hold." in sure
    document = json.loads(asked.run("predict", "r", "--future", f"{over}.csv", "--interval", "none", "--json").stdout)
    assert [row["value"] for row in document["forecasts"]] == made.frame["value"].to_list()
    assert pl.Series(made.frame["date"]).unique().to_list() == [dt.date.fromisoformat(over)]


def test_an_evaluation_knows_what_is_known_ahead_as_training_did(tmp_path: Path) -> None:
    """Its table, and the table of all forecasts that it writes, are those of the validation of the very same weights."""
    world = world_of(tmp_path, known=("heat", "kind"))
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    world.run("train", "-c", config, "--run", "r", "--epochs", "2")
    words = ("evaluate", "r", "--split", "validation", "--baselines", "repeat", "--forecasts", "w.parquet", "--json")
    document = json.loads(world.run(*words).stdout)
    mine = next(row["scaled"]["mse"] for row in document["rows"] if row["kind"] == "model")
    frame = pl.read_parquet(world.folder / "w.parquet")
    losses = [json.loads(line) for line in (world.folder / "data/runs/r/metrics.jsonl").read_text().splitlines()]
    assert mine == pytest.approx(min(line["val_loss"] for line in losses if "val_loss" in line), rel=1e-5)
    assert ((frame["truth"] - frame["forecast"]) ** 2).mean() == pytest.approx(mine, rel=1e-4)  # scale: none


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"fill": "zero"}, "0"),
        ({"fill": "mean"}, "the training mean"),
        (
            {"fill": "forward", "fill_limit": 3},
            "the last value before them on their date (where there is none, the middle of "
            "the scale), after 3 in a row with the middle of the scale",
        ),
    ],
)
def test_a_note_says_by_what_a_missing_future_is_filled(feature: dict[str, Any], words: str) -> None:
    seen = np.array([[[True], [False]], [[True], [True]]])
    heat = FeatureConfig(**feature).model_dump(exclude={"column", "range", "outside", "ahead"})
    (note,) = unobserved(
        [Feature(name="heat", **heat)], KnownAhead(np.zeros((2, 2, 1), np.float32), seen), intervals=False
    )
    assert note == f"heat, known ahead, lacks 25.0 % of its cells. They are filled with {words}."
