"""Dumps without a column of nodes: there is one node, or the path of a file names it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.plan import staged_key
from dateshard.pipeline.raw.dumps import find_dumps, node_of
from dateshard.shardstore.errors import DumpError, UsageError
from tests.conftest import NODES, World
from tests.kit import states
from tests.pipeline.conftest import Read

Dump = Callable[..., Read]
Make = Callable[..., World]
ONE = {"node": None}


def content(world: World) -> dict[str, bytes]:
    """What is committed, without the sources file: it says how the input was written."""
    return {name: data for name, data in states.committed(world.store).items() if not name.endswith(".sources.json")}


def test_a_dump_without_a_word_for_its_nodes_has_one_and_its_columns_are_features(read_dump: Dump) -> None:
    data = "time,speed,vehicles\n2024-03-01 05:00,1.5,3\n2024-03-01 06:00,,4\n"
    found = read_dump(data, features={"speed": {}, "vehicles": {}}, **ONE, node_name="Süd")
    assert found.nodes == ["Süd", "Süd"]
    assert found.values["vehicles"] == [3.0, 4.0]
    assert found.rows.accepted == 2
    broken = data.replace(",4", ",four")
    with pytest.raises(DumpError, match="row 3, column 'vehicles', value 'four'"):
        read_dump(broken, features={"vehicles": {}}, **ONE)


def test_the_one_node_may_be_in_the_node_table_or_is_unknown(read_dump: Dump) -> None:
    data = "time,speed\n2024-03-01 05:00,1.5\n"
    assert read_dump(data, nodes=("a", "b"), **ONE, node_name="b").nodes == ["b"]
    with pytest.raises(DumpError, match="row 2, column 'node_name', value 'c': the row is of an unknown node"):
        read_dump(data, nodes=("a", "b"), **ONE, node_name="c")
    with pytest.raises(DumpError, match="no row is left of 1: 1 of an unknown node"):
        read_dump(data, nodes=("a", "b"), **ONE, node_name="c", faults={"unknown_node": "drop"})


def one_node_world(world: World) -> World:
    """The world's rows of its first node alone, in files without a column of nodes."""
    for date, rows in world.rows.items():
        world.rows[date] = [row for row in rows if row[1] == NODES[0]]
        world.write(date)
        lines = [line.split(",") for line in world.dump(date).read_text().splitlines()]
        world.dump(date).write_text("".join(f"{time},{speed},{count}\n" for time, _, speed, count in lines))
    del world.tree["pipeline"]["source"]["node"]
    return world


def test_a_configuration_that_names_no_node_trains_and_its_node_is_called_like_the_dataset(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = one_node_world(make_world(5, training={"epochs": 1, "batch_size": 16}, baselines=["repeat"]))
    words = ["-c", str(world.config_file())]
    assert run(["preprocess", *words, "--workers", "1"]) == 0
    assert world.open().nodes.names == ("world",)
    assert run(["train", *words, "--run", "r"]) == 0
    assert run(["evaluate", "r", "--split", "validation"]) == 0
    assert "repeat" in capsys.readouterr().out
    world.tree["pipeline"]["source"]["node_name"] = "world"
    assert run(["preprocess", "-c", str(world.config_file())]) == 0  # as if it had been written out
    assert "nothing to do" in capsys.readouterr().out
    world.tree["pipeline"]["source"]["node_name"] = "Nord"
    assert run(["preprocess", "-c", str(world.config_file()), "--workers", "1"]) == 0
    assert world.open().nodes.names == ("Nord",)


def test_rows_of_many_nodes_that_are_taken_for_one_are_said_to_be(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(2)
    del world.tree["pipeline"]["source"]["node"]
    assert run(["preprocess", "-c", str(world.config_file()), "--workers", "1"]) == 0
    assert "all rows are of one node: if a column names the nodes, set pipeline.source.node" in capsys.readouterr().out


def test_one_node_gives_the_bytes_of_a_column_that_always_names_it(make_world: Make) -> None:
    world = make_world(3, nodes=NODES[:1])
    world.prepare()
    expected = content(world)
    world.store.rename(world.folder / "away")
    world = one_node_world(world)
    world.tree["pipeline"]["source"]["node_name"] = NODES[0]
    world.prepare()
    assert content(world) == expected
    world.store.rename(world.folder / "again")
    header, *_ = world.dump(min(world.rows)).read_text().splitlines()
    lines = [line for date in world.rows for line in world.dump(date).read_text().splitlines()[1:]]
    (world.folder / "all.csv").write_text("\n".join([header, *lines, ""]))
    world.tree["pipeline"]["source"]["path"] = str(world.folder / "all.csv")
    world.prepare()
    assert content(world) == expected


def write_by_node(world: World, pattern: str) -> None:
    """The world's rows in files that their path tells the node of, without the column."""
    texts: dict[Path, list[str]] = {}
    for date in world.rows:
        header, *lines = (line.split(",") for line in world.dump(date).read_text().splitlines())
        for time, node, speed, count in lines:
            path = world.folder / pattern.replace("{node}", node).replace("{date}", str(date))
            texts.setdefault(path, [",".join((header[0], *header[2:]))]).append(f"{time},{speed},{count}")
    for path, rows in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*rows, ""]))


PATHS = ["by/{node}/{date}.csv", "by/{date}/{node}.csv", "by/{date}_{node}.csv", "by/{node}/{date}/{node}/x.csv"]
PATHS += ["by/{node}.csv", "by/{node}/all.csv", "by/{node}/{date}/part.csv"]


@pytest.mark.parametrize("pattern", PATHS)
def test_nodes_in_the_path_give_the_bytes_of_a_column_that_names_them(make_world: Make, pattern: str) -> None:
    world = make_world(3, nodes=["Süd 1", "b.2", "c"])
    world.prepare()
    expected = content(world)
    world.store.rename(world.folder / "away")
    write_by_node(world, pattern)
    del world.tree["pipeline"]["source"]["node"]
    path = pattern.removesuffix("/part.csv") if pattern.endswith("part.csv") else pattern
    world.tree["pipeline"]["source"]["path"] = str(world.folder / path)
    finished = world.prepare()
    assert not finished.failed
    assert content(world) == expected
    assert finished.rows["read"] == finished.rows["accepted"]


def test_a_file_that_another_node_is_named_by_is_another_dump(make_world: Make) -> None:
    world = make_world(2)
    write_by_node(world, "by/{node}/{date}.csv")
    del world.tree["pipeline"]["source"]["node"]
    world.tree["pipeline"]["source"]["path"] = "by/{node}/{date}.csv"
    world.prepare()
    assert world.prepare().measured == 0
    (world.folder / "by" / "n2").rename(world.folder / "by" / "n7")
    assert world.prepare(refit=True).measured == 2
    assert world.open().nodes.names == ("n0", "n1", "n7")


def test_messages_name_the_file_of_the_node(make_world: Make) -> None:
    world = make_world(2, missing=0)
    write_by_node(world, "by/{node}/{date}.csv")
    del world.tree["pipeline"]["source"]["node"]
    world.tree["pipeline"]["source"]["path"] = "by/{node}/{date}.csv"
    date = max(world.rows)  # not trained on
    path = world.folder / "by" / "n1" / f"{date}.csv"
    path.write_text(path.read_text().replace(",", ",x", 3))
    (failure,) = world.prepare().failed.values()
    assert str(failure).startswith(f"by/n1/{date}.csv, date {date}, row 1, column 'speed'")
    table = world.folder / "nodes.csv"
    table.write_text("id\nn0\nn1\n")
    world.tree["pipeline"]["nodes"] = {"table": str(table), "id": "id"}
    path.write_text(path.read_text().replace(",x", ","))
    with pytest.raises(DumpError) as caught:
        world.prepare()
    words = (
        f"by/n2/{min(world.rows)}.csv, date {min(world.rows)}, row 2, column '{{node}}', value 'n2': the row is of an"
    )
    assert words in str(caught.value.__cause__)


def test_paths_tell_their_node_as_the_pattern_does_wherever_they_lie() -> None:
    for pattern, path, node in (
        ("raw/{node}/{date}.csv", "raw/s 1/2024-03-01.csv", "s 1"),
        ("./raw/{node}/{date}.csv", "raw/s1/2024-03-01.csv", "s1"),
        ("raw/{node}/{date}.csv", "/elsewhere/s2/2024-03-01.csv", "s2"),
        ("raw/{node}/{date}", "raw/s1/2024-03-01/a/b.csv", "s1"),
        ("raw/{node}_{date:%Y%m%d}.csv", "new/a_b_20240301.csv", "a_b"),
        ("raw/{node}/{node}.csv", "raw/a/b.csv", None),
        ("raw/{node}/{date}.csv", "elsewhere.csv", None),
    ):
        assert node_of(Path(path), pattern) == node


def test_two_files_of_one_node_and_date_are_refused(tmp_path: Path) -> None:
    for name in ("a_2024-03-01.csv", "a_2024-3-1.csv", "b_2024-03-01.csv"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"two dumps of 2024-03-01: .*a_2024-03-01.csv and .*a_2024-3-1.csv"):
        find_dumps(str(tmp_path / "{node}_{date}.csv"))
    (tmp_path / "a_2024-3-1.csv").unlink()
    ((path, files),) = find_dumps(str(tmp_path / "{node}_{date}.csv")).values()
    assert (Path(path).name, [Path(file).name for file in files]) == (
        "{node}_2024-03-01.csv",
        ["a_2024-03-01.csv", "b_2024-03-01.csv"],
    )


@pytest.mark.parametrize(
    "source",
    [
        {"node": "n", "wide": {"value": "v"}},
        {"node": "n", "node_name": "a"},
        {"wide": {"value": "v"}, "path": "raw/{node}/{date}.csv"},
        {"node_name": "a", "path": "raw/{node}/{date}.csv"},
    ],
)
def test_nodes_are_named_in_one_way(source: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nodes are named in one way"):
        Pipeline.model_validate(
            {"source": {"path": "raw/{date}.csv", "time": "t"} | source, "step": "1h", "features": {"v": {}}}
        )


def test_who_names_nodes_decides_the_identity() -> None:
    def key(**source: Any) -> str:
        tree = {"source": {"path": "{date}", "time": "t"} | source, "step": "1h", "features": {"v": {}}}
        return staged_key("x", Pipeline.model_validate(tree).measure_identity(None))

    ways = [{}, {"node": "n"}, {"node_name": "a"}, {"node_name": "b"}, {"path": "{node}/{date}"}]
    assert len({key(**way) for way in ways}) == len(ways)
    assert key(path="{node}/{date}") == key(path="other/{date}/{node}")


def test_history_for_a_forecast_tells_its_node_by_the_path(make_world: Make) -> None:
    from dateshard.pipeline.recent.raw_files import raw_files

    world = make_world(2)
    write_by_node(world, "by/{node}/{date}.csv")
    write_by_node(world, "new/{node}.csv")
    del world.tree["pipeline"]["source"]["node"]
    world.tree["pipeline"]["source"]["path"] = "by/{node}/{date}.csv"
    first: dt.date = min(world.rows)
    for names in (["by/{node}/{date}.csv"], [str(world.folder / "by" / "{node}" / "{date}.csv")], ["new/{node}.csv"]):
        with raw_files(names, world.settings.preparing()) as raw:
            assert sorted(raw.dumps) == sorted(world.rows)
            assert raw.stage(first, None).nodes == ("n0", "n1", "n2")
