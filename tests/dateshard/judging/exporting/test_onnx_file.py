"""`export-model`: onnxruntime forecasts from raw values what `Predictor` forecasts, and the file beside it says how."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest

from dateshard.documents import document_schema
from dateshard.judging.exporting import onnx_file
from dateshard.judging.predictor import Predictor
from dateshard.settings import load_settings
from dateshard.shardstore.times.instants import parse_instant
from tests.conftest import World
from tests.kit.forecasting import HISTORY, HORIZON, NEW_YORK, drawn, forecasting_world, raw_cells
from tests.kit.untrained import untrained

Command = Callable[..., Any]
NUMBERS = ["volume", "speed"]
RUNS: dict[str, dict[str, Any]] = {
    "mlp": {
        "model": {"name": "mlp", "hidden_units": [4], "revin": "affine", "observed": True},
        "bounds": {"speed": [None, 61]},
    },
    "ridge": {"model": {"name": "ridge"}, "targets": NUMBERS, "inputs": ["kind", *NUMBERS]},
    "spread": {
        "model": {"name": "nlinear", "revin": True},
        "targets": NUMBERS,
        "training": {"loss": "quantile", "quantiles": [0.1, 0.5, 0.9]},
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "dlinear": {"model": {"name": "dlinear"}, "targets": NUMBERS},
    "nlinear": {"model": {"name": "nlinear", "revin": True}, "targets": NUMBERS},
    **{name: {"model": {"name": name, "hidden_units": [4, 4]}} for name in ("stid", "cnn", "lstm", "gru")},
    "same_step": {
        "model": {"name": "gru", "hidden_units": [4], "embedding_width": 0},
        "window": {"history": HISTORY, "horizon": 0},
        "targets": ["speed", "kind"],
        "inputs": ["volume", "rows", "calm"],
    },
}
UNTIL = ("2013-03-09T17:00", "2013-03-10T05:00", "2013-03-11", "2013-03-12T03:00")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return forecasting_world(folder, RUNS)


@pytest.fixture
def here(prepared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(prepared.folder)
    return prepared


@pytest.fixture(scope="module")
def exported() -> dict[str, bytes]:
    """What tests of this file have exported, by the run; making a graph takes seconds."""
    return {}


def windows(world: World, predictor: Predictor) -> dict[str, np.ndarray]:
    """The raw windows before the instants `UNTIL`, of the dumps, and time codes as the file's description says."""
    dataset, history, codes = world.open(), [], []
    for until in UNTIL:
        end = parse_instant(until, NEW_YORK, end=True)
        cells = raw_cells(dataset, "raw/{date}.csv", dt.date(2013, 3, 5), end)[-HISTORY:]
        history.append(cells[..., [dataset.feature_names.index(name) for name in predictor.inputs]])
        hours = [end // 10**9 + 3600 * hour for hour in range(-HISTORY, predictor.horizon)]
        local = [dt.datetime.fromtimestamp(second, ZoneInfo(NEW_YORK)) for second in hours]
        codes.append([at.hour * 8 + at.weekday() for at in local])
    given = np.stack(history)
    return {"history": given, "observed": ~np.isnan(given), "time_codes": np.array(codes, dtype=np.int32)}


def assert_forecasts_alike(world: World, name: str, file: Path) -> None:
    predictor, session = Predictor(name, interval=None), onnxruntime.InferenceSession(file)
    given = windows(world, predictor)
    assert not given["observed"].all()
    hidden = {**given, "history": np.where(given["observed"], given["history"], 777.0)}
    names = [output.name for output in session.get_outputs()]
    together, again = session.run(names, given), session.run(names, hidden)
    for window, until in enumerate(UNTIL):
        alone = session.run(names, {key: array[window : window + 1] for key, array in given.items()})
        expected = predictor.forecast(given["history"][window], until)
        numbers = [place for place, target in enumerate(predictor.targets) if target not in expected.probabilities]
        for place, output in enumerate(names):
            target = output.removeprefix("probability_")
            known = {"value": expected.value[..., numbers], "quantiles": expected.quantiles[..., numbers, :]}
            array = known[output] if output in known else expected.probabilities[target]
            size = np.maximum(np.abs(array), np.abs(array).mean((0, 1)))
            for found in (together[place][window], again[place][window], alone[place][0]):
                assert found.shape == array.shape
                assert (np.abs(found - array) / size).max() < 1e-5, output


@pytest.mark.parametrize("name", RUNS)
def test_onnxruntime_forecasts_from_raw_windows_what_the_predictor_does(
    here: World, ds: Command, tmp_path: Path, exported: dict[str, bytes], name: str
) -> None:
    file = tmp_path / f"{name}.onnx"
    document = ds("export-model", name, "--onnx", str(file), "--json").document
    jsonschema.validate(document, document_schema("export-model"))
    assert json.loads((tmp_path / f"{name}.onnx.json").read_text()) == document
    exported[name] = file.read_bytes()
    assert_forecasts_alike(here, name, file)
    dataset, session = here.open(), onnxruntime.InferenceSession(file)
    tensors = {each["name"]: each["shape"] for each in [*document["inputs"], *document["outputs"]]}
    assert tensors == {each.name: each.shape for each in [*session.get_inputs(), *session.get_outputs()]}
    assert document["nodes"] == list(dataset.nodes.names)
    inputs = RUNS[name].get("inputs", dataset.feature_names)
    assert [each["name"] for each in document["features"]] == inputs
    kind = document["features"][inputs.index("kind")]
    assert kind["categories"] == list(dataset.vocabularies.names["kind"])
    assert document["outputs"][0]["last_axis"] == [n for n in RUNS[name].get("targets", inputs) if n != "kind"]
    assert document["bounds"]["speed"] == RUNS[name].get("bounds", {}).get("speed", [None, None])
    assert document["bounds"]["volume"] == [0, None]
    assert 0 < document["difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_family_is_exported(prepared: World, ds: Command, tmp_path: Path, name: str, here: World) -> None:
    given = [f"trainer.{key}={json.dumps(value)}" for key, value in OTHERS[name].items()]
    untrained(load_settings(["config.yaml"], given).trainer, prepared, name, change=drawn)
    ds("export-model", name, "--onnx", str(tmp_path / "m.onnx"), "-q")
    assert_forecasts_alike(here, name, tmp_path / "m.onnx")


def test_a_graph_that_forecasts_otherwise_is_not_written(
    here: World, ds: Command, tmp_path: Path, exported: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "ridge" not in exported:  # asked for alone
        ds("export-model", "ridge", "--onnx", "ridge.onnx")
        exported["ridge"] = Path("ridge.onnx").read_bytes()
    program = onnx.load_from_string(exported["ridge"])
    delta = next(tensor for tensor in program.graph.initializer if tensor.name == "delta")
    moved = onnx.numpy_helper.to_array(delta) + 0.01
    delta.CopyFrom(onnx.numpy_helper.from_array(moved, delta.name))
    monkeypatch.setattr(onnx_file, "_as_onnx", lambda *_: program.SerializeToString())
    done = ds("export-model", "ridge", "--onnx", str(tmp_path / "m.onnx"), code=1)
    assert "onnxruntime forecasts otherwise than torch" in done.err
    assert not list(tmp_path.glob("*m.onnx*"))


OWN = """
from torch import nn
class Asking(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.steps, self.linear = shape.window.target_steps, nn.Linear(shape.num_inputs, shape.num_outputs)
    def forward(self, history, codes):
        out = self.linear(history[:, -self.steps:])
        return out if out.sum() > 0 else out + 1
def build(shape, config):
    return Asking(shape)
"""


def test_a_model_of_one_s_own_without_a_graph_is_refused_in_a_sentence(
    here: World, ds: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asking_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    given = ['trainer.model={"name": "asking_model:build"}', 'trainer.targets=["speed"]']
    untrained(load_settings(["config.yaml"], given).trainer, here, "asking")
    done = ds("export-model", "asking", "--onnx", str(tmp_path / "m.onnx"), "--trust", code=2)
    assert "torch.onnx.export cannot make a graph of the model 'asking_model:build': " in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_files_that_are_there_are_replaced_by_force_alone(
    here: World, ds: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx.json").write_text("mine")
    done = ds("export-model", "ridge", "--onnx", str(tmp_path / "m.onnx"), code=2)
    assert "m.onnx.json: the file exists. Name another, or give --force" in done.err
    ds("export-model", "ridge", "--onnx", str(tmp_path / "none" / "m.onnx"), code=2)
    monkeypatch.setattr(onnx_file, "_as_onnx", lambda *_: b"content")
    monkeypatch.setattr(onnx_file, "_compare", lambda *_: 0.0)
    shown = ds("export-model", "ridge", "--onnx", str(tmp_path / "m.onnx"), "--force")
    assert (tmp_path / "m.onnx").read_bytes() == b"content"
    assert json.loads((tmp_path / "m.onnx.json").read_text())["file"] == "m.onnx"
    assert f"out  value [batch, {HORIZON}, 3, 2]" in shown.out


def test_a_package_that_is_lacking_is_named_with_the_command_that_installs_it(
    here: World, ds: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = ds("export-model", "ridge", "--onnx", str(tmp_path / "m.onnx"), code=2)
    assert "needs onnxruntime, which is not installed. Run: pip install 'dateshard[onnx]'" in done.err
