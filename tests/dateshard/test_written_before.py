"""Stores, runs and checkpoints of an older version open, are fresh, and go on as they would have.

`tests/golden/written_by_7445cd0.tar.xz` holds dumps of five days, three days and a table, their configurations, and what the
commit of its name made of them, per dataset: `preprocess`, `train --run NAME`, `train --run NAME-cut --max-steps 4`,
`evaluate NAME`; and `forecast.csv` of `predict energy --at 2024-03-05T20:00`.
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dateshard.trainer import checkpoint

WRITTEN = Path(__file__).parent.parent / "golden" / "written_by_7445cd0.tar.xz"
DATASETS = ("energy", "people", "machines")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the older version, at another place than the one where it was written."""
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def newest(run: str) -> checkpoint.Checkpoint:
    saved, _ = checkpoint.newest(Path("data/runs", run, "checkpoints"))
    assert saved is not None
    return saved


@pytest.mark.parametrize("name", DATASETS)
def test_a_store_of_before_is_whole_and_fresh(written: Path, ds: Callable[..., Any], name: str) -> None:
    config = ("-c", f"configs/{name}.yaml")
    before = {path: path.read_bytes() for path in Path("data/shards", name).rglob("*") if path.is_file()}
    assert "nothing changed" in ds("status", *config).out
    assert "Nothing to do." in ds("plan", *config).out
    assert "nothing to do" in ds("preprocess", *config).out
    assert "0 damaged" in ds("verify", "--full", *config).out
    after = {path: path.read_bytes() for path in before}
    assert {path for path in before if before[path] != after[path]} <= {Path("data/shards", name, "dumps.json")}


@pytest.mark.parametrize("name", DATASETS)
def test_a_run_of_before_ends_as_it_would_have(written: Path, ds: Callable[..., Any], name: str) -> None:
    """Close, not equal: other processors round sums of products otherwise."""
    ds("train", "--resume", f"{name}-cut", "--max-steps", "null", "-q")
    whole, continued = newest(name), newest(f"{name}-cut")
    assert whole.name == continued.name
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, actual = load_file(whole.folder / file), load_file(continued.folder / file)
        assert expected.keys() == actual.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(actual[key], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DATASETS)
def test_commands_read_a_run_of_before(written: Path, ds: Callable[..., Any], name: str) -> None:
    assert name in ds("runs").out
    assert "train_loss" in ds("show", name).out
    assert "0 damaged" in ds("checkpoints", "verify", name).out
    assert "loaded strictly" in ds("checkpoints", "load", name).out
    ds("report", name)  # of the evaluation that the older version kept
    assert "Nothing was evaluated" not in Path("data/runs", name, "report.html").read_text()
    [model] = [row for row in ds("evaluate", name, "--json").document["rows"] if row["kind"] == "model"]
    assert model["scaled"]["mse"] is not None


def test_a_model_of_before_forecasts_what_it_did(written: Path, ds: Callable[..., Any]) -> None:
    ds("predict", "energy", "--at", "2024-03-05T20:00", "--out", "now.csv")
    before, now = (csv.DictReader(Path(name).read_text().splitlines()) for name in ("forecast.csv", "now.csv"))
    for row, other in zip(before, now, strict=True):
        assert {
            key: other[key] for key in ("date", "step", "node", "feature", "horizon", "time")
        }.items() <= row.items()
        assert float(other["value"]) == pytest.approx(float(row["value"]), rel=1e-4)
        assert float(other["low"]) < float(other["value"]) < float(other["high"])
