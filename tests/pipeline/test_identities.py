"""Stores that were prepared before stay fresh: settings that existed keep their identity, whatever keys come beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dateshard.pipeline.config import Pipeline

CONFIGS = Path(__file__).parents[2] / "configs"
SOURCE: dict[str, Any] = {"path": "raw/{date}.csv", "time": "time", "node": "node"}
EVERYTHING: dict[str, Any] = {
    **SOURCE,
    "csv": {"separator": ";", "decimal": ",", "encoding": "latin-1", "missing": ["", "NA"], "final_newline": False},
    "time": ["day", "clock"],
    "ambiguous": "latest",
    "timezone": "Europe/Berlin",
    "duplicates": "keep",
    "faults": {"bad_time": "drop", "bad_number": "null"},
    "max_bad_fraction": 0.1,
}
FEATURES: dict[str, Any] = {
    "speed": {"range": [0, None], "outside": "null", "fill": "forward"},
    "kind": {"categorical": True},
    "rows": {"aggregate": "count"},
}
WIDE = {"path": "raw/{date}.csv", "time": "t", "time_format": "s", "time_origin": "2020-01-01", "wide": {"value": "v"}}


def identity(source: dict[str, Any], features: dict[str, Any] = FEATURES, step: str = "5m") -> str:
    config = Pipeline.model_validate({"source": source, "step": step, "features": features})
    return config.measure_identity(None)


@pytest.mark.parametrize(
    ("source", "before"),
    [
        (SOURCE, "6432e6d33d556f53"),
        (EVERYTHING, "4121e2f485169cec"),
        (SOURCE | {"time_format": "%d.%m.%Y %H:%M:%S"}, "521c2cd5ffa62410"),
        (SOURCE | {"time_format": "%Y-%m-%dT%H:%M:%S%.f%z"}, "6a20f5d13a2d11eb"),
        (SOURCE | {"time": ["day", "clock"], "time_format": "%d/%m/%YT%H.%M.%S"}, "1312e2aa4d0fdad0"),
    ],
)
def test_settings_of_long_dumps_keep_the_identity_that_they_had(source: dict[str, Any], before: str) -> None:
    assert identity(source) == before


def test_settings_of_wide_dumps_and_of_the_examples_keep_the_identity_that_they_had() -> None:
    assert identity(WIDE, {"v": {}}) == "ab536a8ebd7e4eed"
    for name, before in (("flights", "ac550ddf5eeee4c3"), ("traffic", "552a21c4dcdb3c59")):
        tree = YAML(typ="safe", pure=True).load(CONFIGS / f"{name}.yaml")
        assert Pipeline.model_validate(tree["pipeline"]).measure_identity(("a", "b")) == before
