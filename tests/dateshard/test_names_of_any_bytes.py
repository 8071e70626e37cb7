"""Names beyond ASCII where the locale has none of them, and names of files that are no UTF-8 at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.errors import DumpError
from dateshard.shardstore.identity import canonical, seal, seal_readable, unseal, unseal_readable
from tests.conftest import command, environment

Make = Callable[..., Any]
ODD = os.fsdecode(b"b\xffd\xfc")
SPLIT = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}
CONFIG = """dataset: größen
pipeline:
  source: {path: "roh-ü/{date}.csv", time: zeit, node: straße}
  step: 12h
  features: {menge: {column: "größe"}}
  split: {train: 2024-03-01..2024-03-02, validation: 2024-03-03}
"""


def test_umlauts_everywhere_in_a_locale_without_them() -> None:
    """In a path, a node, a column, a dataset and on the command line, into a pipe: as in any other locale."""
    Path("roh-ü").mkdir()
    for day in (1, 2, 3):
        rows = "".join(f"2024-03-0{day} {hour:02d}:00,Königsallee,{hour}\n" for hour in (0, 12))
        Path(f"roh-ü/2024-03-0{day}.csv").write_text(f"zeit,straße,größe\n{rows}")
    Path("ü.yaml").write_text(CONFIG)
    bare = {**environment(), "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    for words, wanted in ((["preprocess", "--workers", "2"], "3 shards written"), (["inspect"], "Königsallee")):
        done = subprocess.run(command(*words, "-c", "ü.yaml"), env=bare, capture_output=True, encoding="utf-8")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert wanted in done.stdout
        assert "größen" in done.stdout


@pytest.mark.parametrize("name", [ODD, "ü", "\\udcff", "a\udcffb"])
def test_a_sealed_name_is_read_as_what_it_was_and_the_file_is_utf8(name: str) -> None:
    content = {name: [name], "path": f"raw/{name}.csv"}
    for data, opened in ((seal(content), unseal), (seal_readable(content), unseal_readable)):
        data.decode()
        assert opened(data, "file") == content
    assert json.loads(canonical(content)) == content


def test_dumps_whose_names_are_no_utf8_are_prepared_journalled_and_named(make_world: Make, ds: Make) -> None:
    world = make_world(3, split=SPLIT)
    config = str(world.config_file())
    os.chdir(world.folder)
    for date in world.rows:
        Path(f"days/{date}").mkdir(parents=True)
        shutil.move(world.dump(date), f"days/{date}/{ODD}.csv")
    path = "pipeline.source.path=days/{date}"
    ds("preprocess", "-c", config, path, "--workers", "1")
    assert ds("status", "--json", "-c", config, path).document["counts"]["fresh"] == 3
    assert ds("verify", "--full", "--json", "-c", config, path).document["damaged"] == []
    Path(f"days/{date}/{ODD}.csv").write_text("a,b\n")
    told = ds("preprocess", "-c", config, path, "--workers", "1", code=3).out
    assert f"days/{date}/b\\udcffd\\udcfc.csv" in told
    ds("export", "latest", "-c", config, path, "--to", "csv", "--out", f"out{ODD}")
    assert list(Path(f"out{ODD}").iterdir())


def test_a_node_whose_path_is_no_utf8_is_refused_by_name(make_world: Make) -> None:
    from dateshard.pipeline.raw.decode import one_node
    from dateshard.pipeline.source import Source

    source = Source.model_validate({"path": "raw/{node}/{date}.csv", "time": "t"})
    assert one_node(Path("raw/ü/2024-03-01.csv"), source) == "ü"
    with pytest.raises(DumpError, match="names the node, and that name is not UTF-8"):
        one_node(Path(f"raw/{ODD}/2024-03-01.csv"), source)
