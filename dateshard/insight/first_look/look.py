"""A look at somebody's own files: the configuration that reads them, what it was guessed from, and what is unsure."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from dateshard.insight.first_look.draft import KeyLine, flow, written
from dateshard.insight.first_look.features_guess import Features, guess_features
from dateshard.insight.first_look.layout_guess import Layout, guess_layout, table_layout
from dateshard.insight.first_look.own_files import OwnFiles, own_files
from dateshard.insight.first_look.rows_sample import FILE, RowsSample, header_of, sample_rows
from dateshard.insight.first_look.sampled_columns import Column, columns_of, reading_thousands
from dateshard.insight.first_look.times_guess import Instants, Times, guess_times
from dateshard.insight.first_look.windows_guess import GuessedWindows, guess_windows
from dateshard.pipeline.raw.dumps import is_one_file
from dateshard.pipeline.raw.formats import suffix_of
from dateshard.pipeline.source import Csv
from dateshard.shardstore.coverage.spacing import spelled
from dateshard.shardstore.errors import DumpError, Where, counted
from dateshard.shardstore.times.calendar import collapse

MOST_FILES, OF_ONE_DATE = 8, 3  # that are read
MOST_TARGETS = 8  # that are named one by one
MODELS = {"grid": "dlinear", "events": "lstm", "table": "mlp"}
AFTER_FEATURES = ("split", "window", "inputs", "targets")  # keys of the configuration
Doubt = tuple[str, str]  # what is unsure, and the key to change


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A configuration, and how it came about.

    Attributes:
        text: the configuration. dataset: its name.
        seen: (what, the guess, from what). doubts: what is unsure, with the key to change.
    """

    text: str
    dataset: str
    seen: tuple[tuple[str, str, str], ...]
    doubts: tuple[Doubt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """All that was guessed of some files."""

    place: Path
    folder: str
    path: str
    files: OwnFiles
    rows: RowsSample
    times: Times | None
    layout: Layout
    features: Features
    windows: GuessedWindows
    dates: tuple[dt.date, ...]


def look_at(place: Path, top: Path) -> Guess:
    """Looks at a file or a folder and guesses the configuration that reads it.

    Memory and time: some MB of at most MOST_FILES files are read, whatever their size and number.

    Args:
        top: the folder in which commands will run; a relative path is written as it is named from there.

    Raises:
        UsageError: there is no such file or folder. DumpError: nothing in it can be read or forecast.
    """
    files = own_files(place, header_of)
    chosen = _chosen(files)
    rows, columns = _with_thousands(sample_rows([files.files[k] for k in chosen]))
    file_R = rows.frame[FILE].to_numpy()
    day_R = np.asarray([files.dates[k].toordinal() for k in chosen])[file_R] if files.dates else None
    times = guess_times(columns, day_R)
    others = {name: column for name, column in columns.items() if times is None or name not in times.columns}
    if times is None:
        layout = table_layout()
    else:
        several = files.by_node is not None
        layout = guess_layout(rows.frame, others, times, rows.pieces, several=several)
    features = guess_features(
        layout, others, _order(layout, times, rows), has_types=rows.format != "csv", unusable=rows.unusable
    )
    if not features.keys or (layout.name == "table" and len(features.keys) < 2):
        what = "no column holds numbers to forecast" if times else "there is no time, and no two columns to learn from"
        raise DumpError(what, where=Where(file=str(place)), todo="Name a file with numbers in columns")
    whole = rows.pieces == 1 and len(chosen) == len(files.files)
    dates = _dates(files, times, whole=whole)
    windows = guess_windows(layout, dates, exact=bool(files.dates) or whole)
    path = files.by_node if layout.by_node and files.by_node else files.path
    looked = _Looked(
        place=place,
        folder=str(place) if place.is_absolute() else os.path.relpath(place, top),
        path=path if place.is_absolute() else os.path.relpath(path, top),
        files=files,
        rows=rows,
        times=times,
        layout=layout,
        features=features,
        windows=windows,
        dates=dates,
    )
    return _guess(looked, day_R, len(chosen))


def _with_thousands(rows: RowsSample) -> tuple[RowsSample, dict[str, Column]]:
    """Returns (the sample, its columns), with the mark between thousands as a key where numbers have one."""
    dialect = Csv.model_validate(rows.keys)
    columns = columns_of(rows.frame, dialect, {FILE})
    chosen = reading_thousands(columns, dialect) if rows.format == "csv" else None
    if chosen is None:
        return rows, columns
    texts = [text for column in columns.values() for text in column.grouped]
    decimals = {"decimal": chosen.decimal} if chosen.decimal != dialect.decimal else {}
    keys, seen = rows.keys | decimals | {"thousands": chosen.thousands}, f"{chosen.thousands!r} between thousands"
    doubts, one_mark = rows.doubts, all(len(re.findall("[^0-9]", text.lstrip("+-"))) == 1 for text in texts)
    if one_mark and chosen.thousands in (",", "."):  # 1,234 may have decimals
        doubts = (*doubts, (f"numbers such as {texts[0]!r} are read as thousands", "pipeline.source.csv.thousands"))
    read = replace(rows, keys=keys, spelling=(*rows.spelling, seen), doubts=doubts)
    return read, columns_of(rows.frame, chosen, {FILE})


def _order(layout: Layout, times: Times | None, rows: RowsSample) -> tuple[Instants, Instants]:
    """Returns (the rows with a time, by node and time; the node of each row)."""
    node = layout.keys.get("node")
    who_R = rows.frame[FILE] if node is None else rows.frame[node].rank("dense").fill_null(0)
    who_R = who_R if layout.by_node or node else who_R * 0
    codes = who_R.to_numpy().astype(np.int64)
    if times is None:
        return np.arange(len(codes)), codes
    order = np.lexsort((times.instant_R, codes))
    return order[times.valid_R[order]], codes


def _chosen(files: OwnFiles) -> list[int]:
    """Places of the files that are read: of the first date some, of others one each, evenly over all."""
    if not files.dates:
        return _evenly(range(len(files.files)))
    firsts = [k for k in range(len(files.files)) if k == 0 or files.dates[k] != files.dates[k - 1]]
    beside = [k for k in range(len(files.files)) if files.dates[k] == files.dates[0]][:OF_ONE_DATE]
    return sorted({*_evenly(firsts), *beside})


def _evenly(places: Sequence[int]) -> list[int]:
    last = len(places) - 1
    return sorted({places[round(k * last / (MOST_FILES - 1))] for k in range(MOST_FILES)})


def _dates(files: OwnFiles, times: Times | None, *, whole: bool) -> tuple[dt.date, ...]:
    """The dates that there are; of files that were not read whole the days between the first and the last one."""
    if files.dates:
        return tuple(sorted(set(files.dates)))
    if times is None:
        return ()
    at = pl.Series(times.instant_R[times.valid_R]).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    days = at.dt.convert_time_zone(str(times.keys["timezone"])).dt.date().unique().sort().to_list()
    if whole:
        return tuple(days)
    return tuple(days[0] + dt.timedelta(days=k) for k in range((days[-1] - days[0]).days + 1))


def dataset_name(place: Path) -> str:
    """A dataset's name for a file or folder: its own, without suffixes and characters that a name cannot have."""
    name = place.resolve().name
    suffix = suffix_of(place) if place.is_file() else None
    name = name[: -len(suffix)] if suffix else name.partition(".")[0] if place.is_file() else name
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:64] or "mydata"


def _guess(looked: _Looked, day_R: Instants | None, num_read: int) -> Guess:
    faults = _faults(looked, day_R)
    dataset = dataset_name(looked.place)
    read = counted(len(looked.rows.frame), "row")
    partly = "" if looked.rows.pieces == 1 else ", not all of them"
    some = f"{num_read} of {counted(len(looked.files.files), 'file')}" if len(looked.files.files) > 1 else "it"
    top = (
        f"What lies in {looked.place}, as `init --from` guessed it from {read} of {some}{partly}.",
        "Behind each key stands from what it was guessed. All keys: docs/configuration.md, or the command `config show`",
    )
    lines = [KeyLine(0, "dataset", dataset), *_pipeline(looked, faults), *_trainer(looked)]
    doubts = [*looked.rows.doubts, *(looked.times.doubts if looked.times else ())]
    doubts += [*looked.layout.doubts, *looked.features.doubts, *looked.windows.doubts]
    if "other_fields" in faults:
        what = f"{faults['other_fields'][1]}, and such rows are left out; the first is {looked.rows.first_ragged}"
        doubts.append((what, "pipeline.source.faults.other_fields"))
    if not looked.rows.to_end:
        doubts.append(("a packed file was unpacked in part, so that its last dates are not known", "pipeline.split"))
    doubts += [(f"preprocess will refuse a file: {fault}", "the file") for fault in looked.rows.faults]
    text = written(lines, top)
    shown = [line for line in lines if line.why and line.value is not None and line.key not in looked.features.keys]
    seen = [(line.key, flow(line.value), line.why) for line in shown]
    place = next((k for k, line in enumerate(shown) if line.key in AFTER_FEATURES), len(shown))
    seen[place:place] = _about_features(looked.features)
    return Guess(text=text, dataset=dataset, seen=tuple(seen), doubts=tuple(doubts))


def _pipeline(looked: _Looked, faults: Mapping[str, tuple[str, str]]) -> list[KeyLine]:
    layout, times, features, rows = looked.layout, looked.times, looked.features, looked.rows
    lines = [KeyLine(0, "pipeline")]
    if layout.name != "grid":
        lines.append(KeyLine(1, "layout", layout.name, layout.seen["layout"]))
    lines += [KeyLine(1, "source"), KeyLine(2, "path", looked.path, _about_files(looked))]
    if rows.format == "csv" and suffix_of(looked.files.files[0]) is None:
        lines.append(KeyLine(2, "format", "csv", "no format is known by its suffix, and its bytes are text"))
    keys = rows.keys | ({"missing": ["", *features.missing]} if features.missing else {})
    if keys:
        lines.append(KeyLine(2, "csv", keys, "; ".join([*rows.spelling, *features.seen_missing])))
    for key, value in times.keys.items() if times else ():
        lines.append(KeyLine(2, key, value, times.seen if times and key == "time" else ""))
    lines += [KeyLine(2, key, value, layout.seen.get(key, "")) for key, value in layout.keys.items()]
    if faults:
        why = "; ".join(why for _, why in faults.values())
        lines.append(KeyLine(2, "faults", {key: what for key, (what, _) in faults.items()}, why))
    if rows.empty:
        lines.append(KeyLine(2, "empty_date", "drop", f"{counted(rows.empty, 'file has', 'files have')} no row"))
    lines += _about_tables(looked)
    if layout.step:
        lines.append(KeyLine(1, "step", spelled(layout.step), layout.seen.get("step", "")))
    lines.append(KeyLine(1, "features"))
    lines += [KeyLine(2, name, value, features.seen.get(name, "")) for name, value in features.keys.items()]
    lines += [KeyLine(2, "#", f"left out: {name} ({why})") for name, why in features.left_out.items()]
    if split := looked.windows.split:
        lines.append(KeyLine(1, "split", split, looked.windows.seen.get("split", "")))
    return lines


def _about_features(features: Features) -> list[tuple[str, str, str]]:
    """Rows about the features and the columns that are none."""
    names, out = list(features.keys), features.left_out
    why = "columns of numbers that change" + (
        ", and of few texts" if any("categorical" in f for f in features.keys.values()) else ""
    )
    more = f" and {len(names) - MOST_TARGETS} more" if len(names) > MOST_TARGETS else ""
    rows = [("features", ", ".join(names[:MOST_TARGETS]) + more, why)]
    left = "; ".join(f"{name}: {why}" for name, why in list(out.items())[:MOST_TARGETS])
    return rows + ([("left out", ", ".join(list(out)[:MOST_TARGETS]), left)] if out else [])


def _about_files(looked: _Looked) -> str:
    files = looked.files
    if files.dates:
        dates = sorted(set(files.dates))
        each = "" if len(files.files) == len(dates) else f" in {len(files.files):,} files"
        return f"{counted(len(dates), 'date')}{each}, {collapse(dates, 2)}, by their names"
    if looked.times is None:
        return "one table"
    many = f"{len(files.files):,} files" if len(files.files) > 1 else "one file"
    return f"{many} of many dates, {looked.dates[0]}..{looked.dates[-1]}"


def _about_tables(looked: _Looked) -> list[KeyLine]:
    """Lines about files beside the data: a table of the nodes is named, and not used unasked."""
    lines, node = list[KeyLine](), looked.layout.keys.get("node")
    for path in looked.files.others[:MOST_FILES]:
        header = header_of(path)
        if node is None or node not in header:
            continue
        places = [name for name in header if re.fullmatch(r"lat(itude)?|lon(gitude)?|lng|x|y", name, re.IGNORECASE)]
        table = os.path.join(looked.folder, path.relative_to(looked.place))
        keys = {"table": table, "id": node, **({"position": places} if len(places) == 2 else {})}
        lines.append(KeyLine(1, "#", f"nodes: {flow(keys)}   a table of the nodes: without the # it lists them all"))
    if not is_one_file(looked.path) and not lines and looked.files.others:
        count = counted(len(looked.files.others), "file")
        lines.append(KeyLine(2, "#", f"not read: {count} beside them, {looked.files.others[0].name}"))
    return lines


def _faults(looked: _Looked, day_R: Instants | None) -> dict[str, tuple[str, str]]:
    """What of the sample's rows would be refused: {key: (what becomes of it, why)}."""
    times, faults = looked.times, dict[str, tuple[str, str]]()
    if times is not None:
        if bad := int((~times.valid_R).sum()):
            faults["bad_time"] = ("drop", f"{counted(bad, 'row has', 'rows have')} no readable time")
        if day_R is not None:
            zone = str(times.keys["timezone"])
            at = (
                pl.Series(times.instant_R)
                .cast(pl.Datetime("ns"))
                .dt.replace_time_zone("UTC")
                .dt.convert_time_zone(zone)
            )
            own = at.dt.date() == pl.Series([dt.date.fromordinal(int(day)) for day in day_R])
            if other := int((~own.to_numpy() & times.valid_R).sum()):
                faults["other_date"] = (
                    "drop",
                    f"{counted(other, 'row is', 'rows are')} of another date than their file's",
                )
    if ragged := looked.rows.ragged:
        many = counted(ragged, "row has", "rows have")
        faults["other_fields"] = ("drop", f"{many} another number of fields than the header")
    if looked.features.num_bad:
        bad = looked.features.num_bad
        faults["bad_number"] = ("null", f"{counted(bad, 'value is', 'values are')} no number")
    return faults


def _trainer(looked: _Looked) -> list[KeyLine]:
    features, layout, windows = looked.features, looked.layout, looked.windows
    lines = [KeyLine(0, "trainer")]
    if windows.window:
        lines.append(KeyLine(1, "window", windows.window, windows.seen.get("window", "records")))
    if features.inputs:
        lines.append(
            KeyLine(1, "inputs", list(features.inputs), "all others; leave out what is not known before the target")
        )
    if len(features.targets) > MOST_TARGETS:
        lines.append(
            KeyLine(1, "#", f"targets: all {len(features.targets)} features; name those that are to be forecast")
        )
    elif features.targets:
        lines.append(KeyLine(1, "targets", list(features.targets), features.why_targets))
    lines.append(KeyLine(1, "model", {"name": MODELS[layout.name]}))
    lines.append(KeyLine(1, "training", {"epochs": 20, "batch_size": 64, "seed": 7}))
    lines.append(KeyLine(1, "early_stopping", {"patience": 5, "min_delta": 0.0005}))
    return lines
