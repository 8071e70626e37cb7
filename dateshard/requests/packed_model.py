"""A trained model with all that it needs to forecast: a folder below `data/models` that depends on no run and no dataset.

    cpu_lstm_20250926_143000/
      checkpoint_epoch_9_batch_410/   the weights, as `checkpoints copy` writes them: hashed, no pickle
      held_out.safetensors            forecasts of held-out data beside what came, which intervals are made of
      model.json                      what goes in, how it is scaled, what was measured of it; written last, with its own hash
    cpu_lstm_20250926_143000.pth      the same weights for torch

A folder without `model.json` is not complete, and nobody takes it.

Legend: B windows, H history, W window steps, P target steps, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as arrays_as_bytes
from torch import nn

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.errors import DamagedError, NotThereError, Where
from dateshard.shardstore.identity import expected_form, hash_bytes, seal_readable, unseal_readable
from dateshard.shardstore.layouts.encode import encode
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.transform import Floats, untransform
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment.forecaster import Forecast, Forecaster, of_model
from dateshard.trainer.bounds import points_within
from dateshard.trainer.checkpoint import Checkpoint, pth, saving
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.shape import Shape
from dateshard.trainer.optimization.count_likelihood import CountScale
from dateshard.trainer.optimization.objective import Head, Target, make_heads
from dateshard.trainer.setup import shape_of

FILE, HELD_OUT, VERSION = "model.json", "held_out.safetensors", 1
NANOSECONDS, DAY = 10**9, 86_400 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """A model, its encoder, and what was measured of it.

    Attributes:
        facts: what was measured and where it came from, in JSON.
        held_out: arrays of forecasts beside what came.
        code_length: nanoseconds of what time codes count.
    """

    folder: Path
    facts: Mapping[str, Any]
    held_out: Mapping[str, NDArray[Any]]
    features: tuple[Feature, ...]
    scale: Scale
    window: Window
    code_length: int
    heads: tuple[Head, ...]
    forecast: Forecast

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def encoded(self, values_HF: Floats) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Encodes raw values, NaN where nothing was observed, as the pipeline does for a shard: [H, 1, F]."""
        return encode(values_HF[:, None, :], self.features, self.scale)

    @torch.no_grad()
    def scaled(self, values_BHF: NDArray[np.float32], codes_BW: NDArray[np.int32]) -> NDArray[np.float32]:
        """Forecasts windows of encoded values: [B, P, F] scaled."""
        history = torch.from_numpy(values_BHF[:, :, None, :])
        codes = torch.from_numpy(codes_BW)
        batch = Batch(history_BHNF=history, target_BPNF=history[:, :0], observed_BPNF=None, codes_BW=codes)
        points = points_within(self.forecast(batch), self.heads, None)
        return torch.cat([points[head.name] for head in self.heads], dim=-1)[:, :, 0].numpy()

    def raw(self, scaled: NDArray[Any]) -> Floats:
        """Turns [..., F] scaled values into raw ones, never below 0."""
        values = untransform(
            self.scale.undo(scaled[..., None, :])[..., 0, :], [feature.transform for feature in self.features]
        )
        return np.maximum(values, 0.0)

    def codes(self, time_T: NDArray[np.int64]) -> NDArray[np.int32]:
        """Time codes of instants in UTC, as `record_codes` and `time_codes` give them."""
        day_T, within_T = np.divmod(time_T, DAY)
        codes_T: NDArray[np.int32] = (within_T // self.code_length * 8 + (day_T + 3) % 7).astype(np.int32)
        return codes_T  # 1970 began on a Thursday


def pack(
    folder: Path,
    forecaster: Forecaster,
    saved: Checkpoint,
    facts: Mapping[str, Any],
    held_out: Mapping[str, NDArray[Any]],
) -> Path:
    """Writes a model's folder and its .pth; the folder is complete with its last file.

    Raises:
        DiskFullError: an incomplete folder may stay, which nobody takes.
    """
    dataset = forecaster.dataset
    folder.mkdir(parents=True, exist_ok=True)
    copied = saving.copy(saved, folder)
    pth.export(saved, folder.with_name(f"{folder.name}.pth"))
    arrays = arrays_as_bytes({name: np.ascontiguousarray(array) for name, array in held_out.items()})
    replace_file(folder / HELD_OUT, arrays)
    shape = shape_of(dataset, forecaster.columns, forecaster.heads, forecaster.window)
    content = {
        "version": VERSION,
        "checkpoint": copied.name,
        "trainer": forecaster.config.model_dump(mode="json"),
        "features": [feature.to_json() for feature in dataset.features],
        "scale": {field.name: getattr(dataset.scale, field.name).tolist() for field in fields(Scale)},
        "code_length": dataset.code_length,
        "steps_per_day": shape.steps_per_day,
        "held_out": hash_bytes(arrays),
        "facts": dict(facts),
    }
    replace_file(folder / FILE, seal_readable(json.loads(json.dumps(content))))
    return folder


def unpack(folder: Path) -> PackedModel:
    """Loads a packed model; every byte is verified before it is used.

    Raises:
        NotThereError: the folder is not complete. DamagedError: naming the file.
    """
    content = read_content(folder)
    with expected_form(str(folder / FILE)):
        features = tuple(Feature.from_json(each) for each in content["features"])
        scale = Scale(**{name: np.array(values) for name, values in content["scale"].items()})
        trainer = Trainer.model_validate(content["trainer"])
        window = Window(trainer.window.steps, trainer.window.horizon)
        heads = make_heads(trainer.training, targets_of(features, scale))
        steps_per_day = int(content["steps_per_day"])
        saved = checkpoint.inspect(folder / str(content["checkpoint"]))
    model = build(_shape(features, heads, window, steps_per_day), trainer.model)
    groups = checkpoint.read_files(saved)
    checkpoint.refuse_unfit(saved, groups, "model", model.state_dict())
    model.load_state_dict(groups["model"], strict=True)
    return PackedModel(
        folder=folder,
        facts=content["facts"],
        held_out=_held_out(folder / HELD_OUT, content["held_out"]),
        features=features,
        scale=scale,
        window=window,
        code_length=int(content["code_length"]),
        heads=tuple(heads),
        forecast=_forecast_of(model, heads, len(features), window),
    )


def _held_out(path: Path, digest: str) -> dict[str, NDArray[Any]]:
    data = path.read_bytes() if path.is_file() else b""
    if hash_bytes(data) != digest:
        raise DamagedError("size or hash is not what was saved", where=Where(file=str(path)), todo="Train again")
    return parse_arrays(data)


def read_content(folder: Path) -> dict[str, Any]:
    """What `model.json` says; the weights are not read.

    Raises:
        NotThereError: it is not there. DamagedError: it is not what was written.
    """
    path = folder / FILE
    try:
        return unseal_readable(path.read_bytes(), str(path))
    except FileNotFoundError:
        todo = to_run("requests", "train", "--data-path", "FILE")
        raise NotThereError("no complete model of requests", where=Where(file=str(folder)), todo=todo) from None


def _forecast_of(model: nn.Module, heads: tuple[Head, ...] | list[Head], num_inputs: int, window: Window) -> Forecast:
    return of_model(model, heads, range(num_inputs), window)


def targets_of(features: tuple[Feature, ...], scale: Scale) -> list[Target]:
    """All features as targets, with their scales."""
    targets = []
    for place, feature in enumerate(features):
        pivot, delta, spread = (
            torch.from_numpy(array[:, place].copy()) for array in (scale.pivot_NF, scale.delta_NF, scale.spread_NF)
        )
        targets.append(Target(feature.name, scale=CountScale(pivot, delta, spread, feature.transform == "log1p")))
    return targets


def _shape(features: tuple[Feature, ...], heads: tuple[Head, ...] | list[Head], window: Window, steps: int) -> Shape:
    """The face of the data that the model was built for: one node, all features in and out."""
    count = len(features)
    of_target = {place: head for head in heads for place in head.targets}
    channels = tuple(
        (len(of_target[place].channels) // len(of_target[place].targets), of_target[place].values_a_target)
        for place in range(count)
    )
    return Shape(
        window=window,
        num_nodes=1,
        num_inputs=count,
        num_outputs=sum(number for number, _ in channels),
        targets_in_inputs=tuple(range(count)),
        steps_per_day=steps,
        input_codes=(0,) * count,
        target_codes=(0,) * count,
        target_channels=channels,
        heads={head.name: head.channels for head in heads},
    )
