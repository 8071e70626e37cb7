"""What a store or a training run holds, as {name: bytes}: two of them are equal, or `differing` names what is not."""

from __future__ import annotations

import json
from pathlib import Path

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError

State = dict[str, bytes]
TIMED = (  # of a row of metrics.jsonl: what depends on the machine, and on where a run was cut off
    "time_per_epoch",
    "windows_per_second",
    "data_wait",
    "memory_bytes",
    "peak_memory_bytes",
    "resumed_at",
)


def content(dataset: Dataset) -> State:
    """All that a generation is made of; the manifest's number is left out."""
    root, manifest = dataset.root, dataset.manifest
    name = root / "manifests" / f"g{dataset.generation:08d}"
    found = {kind: name.with_suffix(kind).read_bytes() for kind in (".json", ".sources.json")}
    folders = [f"{kind}/{folder_id}" for kind, folder_id in manifest.frozen.items()]
    for date, entry in manifest.dates.items():
        for part in entry.parts:
            stored = part.formats.items()
            folders += [f"{name}/{date}/{file.folder}" if file else f"shards/{date}/{part.id}" for name, file in stored]
    for folder in folders:
        files = [path for path in (root / folder).rglob("*") if path.is_file()]
        assert files, f"nothing in {folder}"
        found |= {str(path.relative_to(root)): path.read_bytes() for path in files}
    return found


def committed(store: Path) -> State | None:
    """Content of the current generation, every file verified; None before the first commit, which may come meanwhile."""
    current = store / "CURRENT"
    before = current.exists()
    try:
        dataset = Dataset.open(store)
    except NotThereError:
        assert not before, "CURRENT is there, and nothing opens"
        return None
    assert current.exists(), "a dataset without CURRENT was opened"
    assert [(name, str(error)) for name, error in dataset.verify() if error] == []
    return content(dataset)


def files_below(folder: Path) -> State:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_behind(run: Path) -> State:
    """A training run's checkpoints, and its metrics without the times."""
    found = {f"checkpoints/{name}": data for name, data in files_below(run / "checkpoints").items()}
    for index, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        row = json.loads(line)
        for key in TIMED:
            row.pop(key, None)
        found[f"metrics.jsonl:{index + 1}"] = json.dumps(row).encode()
    return found


def differing(one: State, other: State) -> list[str]:
    """Names that are in one only, or whose bytes differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
