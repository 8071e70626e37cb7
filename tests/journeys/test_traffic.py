"""The generated city: from `init` to shards and an evaluation, against the truth that it was made from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dateshard.examples import contents
from dateshard.pipeline.synthetic import City, expected, whole_date
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.scaling.transform import untransform
from tests.kit.limits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
CONFIG = ("-c", "configs/traffic.yaml")
SIZE = ("--example", "traffic", "--dates", "12", "--sensors", "5")
CITY = City(num_sensors=5)


def run(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DATESHARD")}
    command = (sys.executable, "-m", "dateshard", *words)
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, env=kept, timeout=PATIENCE_SECONDS)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's configuration, twelve dumps and their prepared store."""
    folder = tmp_path_factory.mktemp("city")
    assert "13 files, 13 written now" in run(folder, "init", *SIZE).stdout
    told = json.loads(run(folder, "preprocess", *CONFIG, "--json").stdout)
    rows = sum(len(whole_date(CITY, date)) for date in CITY.dates(12))
    assert (told["dates"], told["measured"], told["written"]) == (12, 12, 12)
    assert told["rows"] | {"read": rows, "accepted": rows, "rejected": {}} == told["rows"]
    return folder


def test_shards_hold_the_truth_and_noise_of_the_size_asked_for(city: Path) -> None:
    dataset = Dataset.open(city / "data/shards/traffic")
    features = dataset.manifest.features
    assert [feature.name for feature in features] == ["speed", "volume"]
    assert np.isfinite(dataset.nodes.positions_NP).all()
    errors = []
    for day in dataset.days:
        scaled, observed = (np.asarray(dataset.map(day.date, name)) for name in ("values", "observed"))
        raw = untransform(dataset.scale.undo(scaled), [feature.transform for feature in features])
        truth = expected(CITY, day.date)
        error = (raw - truth) / np.stack([np.full_like(truth[..., 0], CITY.speed_noise), np.sqrt(truth[..., 1])], -1)
        errors.append(np.where(observed, error, np.nan))
    assert np.nanstd(errors, axis=(0, 1, 2)) == pytest.approx([1, 1], abs=0.02)
    assert np.nanmean(errors, axis=(0, 1, 2)) == pytest.approx([0, 0], abs=4 / np.sqrt(12 * 288 * 5))
    assert 0.005 < np.isnan(errors).mean() < 0.25


def test_the_example_trains_and_is_judged_beside_its_baselines(city: Path) -> None:
    run(city, "train", *CONFIG, "--epochs", "1", "-q")
    told = json.loads(run(city, "evaluate", "latest", *CONFIG, "--json").stdout)
    rows = {row["name"]: row["scaled"]["mse"] for row in told["rows"]}
    assert list(rows) == ["repeat", "seasonal:288", "seasonal:2016", "mean", "ridge", "ridge:last", "mlp"]
    assert rows["mlp"] < rows["mean"]


def test_init_adds_dates_but_touches_none_that_is_there(city: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(city / "data/raw", folder / "data/raw")
    raw = folder / "data/raw/traffic"
    changed = raw / "2024-03-04.csv"
    changed.write_text("mine\n")
    kept = {path.name: path.read_bytes() for path in raw.iterdir()}
    assert "13 files are there" in run(folder, "init", "--example", "traffic").stdout
    assert "15 files, 2 written now" in run(folder, "init", "--example", "traffic", "--dates", "14").stdout
    assert {name: (raw / name).read_bytes() for name in kept} == kept
    assert sorted(path.name for path in raw.iterdir() if path.name not in kept) == ["2024-03-13.csv", "2024-03-14.csv"]
    assert (folder / CONFIG[1]).read_bytes() == (ROOT / "configs/traffic.yaml").read_bytes()


def test_an_init_that_was_cut_off_is_completed(city: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(city / "data/raw", folder / "data/raw")
    raw = folder / "data/raw/traffic"
    for name in ("nodes.csv", "2024-03-11.csv", "2024-03-12.csv"):  # the table comes last
        (raw / name).unlink()
    (raw / ".2024-03-11.csv.tmp").write_text("half a f")
    assert "13 files, 3 written now" in run(folder, "init", *SIZE).stdout
    for path in (city / "data/raw/traffic").iterdir():
        assert (raw / path.name).read_bytes() == path.read_bytes()


def test_the_table_that_says_that_all_is_there_is_written_last(tmp_path: Path) -> None:
    names = [name for name, _ in contents("traffic", tmp_path, 10, 2)]
    assert names == [*(f"{date}.csv" for date in CITY.dates(10)), "nodes.csv"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--example", "traffic", "--dates", "9"), "an example of 9 dates. Choose 10 to 3,650"),
        (("--example", "traffic", "--sensors", "0"), "a city of 0 sensors. Choose 1 to 100,000"),
        (("--example", "flights", "--dates", "9"), "the example flights has one size"),
        (("--sensors", "9"), "--dates and --sensors are for --example traffic"),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    assert says in run(tmp_path, "init", *words, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_sensors_is_not_mixed_into_a_city(city: Path) -> None:
    said = run(city, "init", "--example", "traffic", "--sensors", "6", code=2).stderr
    assert "the city that lies there has 5 sensors, not 6" in said
    assert len(list((city / "data/raw/traffic").iterdir())) == 13


def test_make_train_installs_nothing_that_only_developing_needs(tmp_path: Path) -> None:
    def installed(target: str) -> list[str]:
        words = ["make", "-n", target, f"VENV={tmp_path / 'new'}"]
        lines = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()
        return [line.split()[-1].strip("'") for line in lines if "pip install" in line]

    for target in ("train", "preprocess", "doctor"):
        assert installed(target) == [".[examples]"]
    for target in ("test", "check", "setup", "mutants"):
        assert installed(target)[-1] == ".[examples,dev]"


@pytest.mark.parametrize(
    ("config", "example"), [(None, "flights"), ("configs/traffic.yaml", "traffic"), ("mine.yaml", None)]
)
def test_make_train_begins_with_the_data_of_the_example_it_is_told_of(config: str | None, example: str | None) -> None:
    words = ["make", "-n", "train", *([f"CONFIG={config}"] if config else [])]
    commands = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()
    begun = [line.split("dateshard ")[1] for line in commands if "dateshard init" in line]
    assert begun == ([f"init --example {example}"] if example else [])
    assert sum(f"-c {config or 'configs/flights.yaml'}" in line for line in commands) == 3
