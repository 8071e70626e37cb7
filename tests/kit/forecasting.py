"""A world with every kind of feature and runs of chosen models, for tests of what is forecast; and its raw cells."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dateshard.pipeline.arrays import positions
from dateshard.pipeline.generation_settings import settings_of, table_of
from dateshard.pipeline.recent.raw_files import raw_files
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.layouts.category_codes import recode
from dateshard.shardstore.layouts.grid import on_nodes
from dateshard.shardstore.times.calendar import instants
from tests.conftest import World, build_world
from tests.kit.untrained import untrained

NEW_YORK = "America/New_York"
HISTORY, HORIZON = 30, 6
FEATURES: dict[str, Any] = {
    "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 3},
    "volume": {"column": "vehicles", "aggregate": "sum", "fill": "zero", "transform": "log1p", "scale_per": "node"},
    "rows": {"aggregate": "count", "scale": "minmax"},
    "kind": {"categorical": True, "fill": "forward"},
    "calm": {"column": "vehicles", "aggregate": "min", "fill": "mean", "scale": "robust", "clip": [-2, 2]},
}


def with_kinds(world: World) -> None:
    """A column of texts beside the others; two categories come on the last dates alone."""
    for date in world.rows:
        lines = world.dump(date).read_text().splitlines()
        late = "tram" if date > dt.date(2013, 3, 9) else "car"
        kinds = ["bus" if line.endswith(("1.0", "3.0")) else late for line in lines[1:]]
        rows = [f"{line},{kind}" for line, kind in zip(lines[1:], kinds, strict=True)]
        world.dump(date).write_text("\n".join([f"{lines[0]},kind", *rows]) + "\n")


def drawn(model: nn.Module) -> None:
    """Weights that are no zeros, also of what is solved in closed form."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and name != "penalty":
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.1)
            if name == "normalisation":
                tensor.copy_(torch.arange(len(tensor)) % 2)


def forecasting_world(folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> World:
    """Eight dates around a change of the clock, and a run of drawn weights for each of `runs` (trainer settings)."""
    split = {"train": "..2013-03-10", "validation": "2013-03-11", "test": "2013-03-12"}
    world = build_world(folder, 8, first="2013-03-05", zone=NEW_YORK, missing=0.5, split=split)
    world.tree["trainer"]["window"] = {"history": HISTORY, "horizon": HORIZON}
    world.tree["pipeline"]["features"] = FEATURES
    with_kinds(world)
    world.config_file()
    world.prepare()
    for name, trainer in runs.items():
        given = [f"trainer.{key}={json.dumps(value)}" for key, value in trainer.items()]
        untrained(load_settings([str(folder / "config.yaml")], given).trainer, world, name, change=drawn)
    return world


def raw_cells(dataset: Dataset, dumps: str, first: dt.date, end: int) -> np.ndarray:
    """The aggregated raw steps [L, N, F] from a date's midnight to an instant, as decoding makes them of the dumps."""
    cells, at, config = [], [], settings_of(dataset)
    with raw_files((dumps,), config) as raw:
        for day in (day for day in dataset.days if day.date >= first and day.start < end):
            staged = raw.stage(day.date, table_of(dataset, config))
            values = staged.values_TNF
            for place, feature in enumerate(dataset.features):
                if feature.categorical:
                    frozen = dataset.vocabularies.names[feature.name]
                    values[..., place], _ = recode(values[..., place], staged.vocabularies[str(place)], frozen)
            cells.append(on_nodes(values, positions(staged.nodes, dataset.nodes), len(dataset.nodes.names)))
            at.append(instants(staged.day))
    return np.concatenate(cells)[np.concatenate(at) < end]
