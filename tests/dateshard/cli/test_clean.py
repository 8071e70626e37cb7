"""`clean` never removes the generation of a run that lives, wherever its runs folder, the store or the caller is today.

In every test run `r` was trained on generation 1, which is older than all that `clean --keep 1` keeps by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.identity import seal, seal_readable
from dateshard.shardstore.manifest import generations
from dateshard.shardstore.pinning.runs_id import NAME
from tests.conftest import build_world, command, environment

Run = Callable[..., Any]
CONFIG = ("-c", "config.yaml")
TRAIN = ("train", *CONFIG, "-q", "--run")
CLEAN = ("clean", *CONFIG, "--keep", "1")
STORE, RUNS = Path("data/shards/world"), Path("data/runs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `r` on generation 1, and generations 2 and 3."""
    folder = tmp_path_factory.mktemp("clean")
    split = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}
    world = build_world(folder, 3, split=split, training={"epochs": 1, "batch_size": 32})
    world.config_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        world.prepare()
        assert run([*TRAIN, "r"]) == 0
        for date in list(world.rows)[:2]:
            world.rows[date].pop()
            world.write(date)
            world.prepare()
    (folder / "data").rename(folder / "template")
    return folder


@pytest.fixture(autouse=True)
def here(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, and the working directory."""
    shutil.copytree(trained / "template", tmp_path / "data")
    shutil.copy(trained / "config.yaml", tmp_path)
    Dataset.open(STORE, 1).pin(RUNS / "r")  # it says where the run lies now
    return tmp_path


@pytest.fixture
def clean(ds: Run) -> Callable[..., Any]:
    """clean() -> its document, asked with -y."""
    return lambda *words: ds(*CLEAN, "-y", "--json", *words).document


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def held(document: Any) -> bool:
    return bool(document["kept"].get("1") == ["r"] and document["away"] == document["pins"] == [])


def reported(document: Any, why: str) -> bool:
    """Whether generation 1 stays for a run of which nobody can say whether it is over."""
    [away] = document["away"]
    assert why in away["why"]
    return (away["run"], away["generation"], document["kept"]["1"], document["pins"]) == ("r", 1, [], [])


def pin_file() -> Path:
    [file] = (STORE / "pins").glob("*.json")
    return file


def test_a_store_that_was_moved_behind_a_link_keeps_what_its_runs_need(ds: Run, clean: Any) -> None:
    shutil.move(STORE, "big/deep/down/world")
    link(STORE, Path("big/deep/down/world"))
    assert held(clean())
    ds("train", "--resume", "r", "--epochs", "2", "-q")
    shutil.rmtree(RUNS / "r")
    assert clean()["pins"] == ["r", "r"]
    assert generations(STORE) == [3]


@pytest.mark.parametrize(
    "left", ["nothing", "an empty folder", "a link that leads nowhere", "a file", "no data folder"]
)
def test_a_runs_folder_that_is_not_there_is_told_and_its_generations_stay(
    ds: Run, clean: Any, here: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    if left == "no data folder":
        (here / "far" / "off").mkdir(parents=True)
        shutil.move(RUNS, "far/off/runs")
        pin_file().unlink()
        monkeypatch.setenv("DATESHARD_DATA", "far/off")
        link(Path("far/off/shards"), STORE.parent)
        ds("train", "--resume", "r", "--epochs", "2", "-q")
        monkeypatch.delenv("DATESHARD_DATA")
        Path("far").rename("away")
    else:
        RUNS.rename("away")
    if left == "an empty folder":
        RUNS.mkdir()
    if left == "a link that leads nowhere":
        RUNS.symlink_to("disk/runs")
        assert "data/runs: the runs folder is a link to a folder that is missing" in ds(*TRAIN, "s", code=4).err
    if left == "a file":
        RUNS.write_text("")
    why = "without its ID (is its disk not mounted?)" if left == "an empty folder" else "not here now"
    for _ in range(2):
        assert reported(clean(), why)
    told = ds(*CLEAN, "-y").out
    assert "generation 1 stays: run r of " in told
    assert f"{why}. If that run is over: rm {pin_file()}" in told
    assert generations(STORE) == [1, 3]
    if left != "no data folder":
        if left != "nothing":
            RUNS.rmdir() if left == "an empty folder" else RUNS.unlink()
        Path("away").rename(RUNS)
        assert held(clean())
        ds("train", "--resume", "r", "--epochs", "2", "-q")


def test_what_the_message_says_lets_go_of_a_runs_folder_that_is_gone_for_good(ds: Run, clean: Any) -> None:
    shutil.rmtree(RUNS)
    command_line = ds(*CLEAN, "-y").out.partition("If that run is over: ")[2].splitlines()[0]
    assert subprocess.run(command_line.split(), check=True).returncode == 0
    assert generations(STORE) == [1, 3]
    assert clean()["kept"] == {"3": []}
    assert generations(STORE) == [3]


def test_another_disk_at_the_path_of_the_runs_is_not_taken_for_theirs(ds: Run, clean: Any, here: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted in a namespace of its own here")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none data/runs && exec "$@"', "sh", *command(*CLEAN, "-y")],
        text=True,
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "generation 1 stays: run r of data/runs, which is there without its ID" in done.stdout
    assert held(clean())
    assert generations(STORE) == [1, 3]


def test_another_runs_folder_at_the_same_path_proves_nothing(ds: Run, clean: Any) -> None:
    RUNS.rename("away")
    ds(*TRAIN, "s")
    assert reported(clean(), "where another runs folder lies now")
    (RUNS / NAME).chmod(0o644)
    (RUNS / NAME).write_bytes(b"{}")
    [r, s] = clean()["away"]
    assert (r["why"], s["why"]) == ("whose ID is damaged", "whose ID is damaged")
    (RUNS / NAME).unlink()
    assert [away["run"] for away in clean()["away"]] == ["r", "s"]
    assert generations(STORE) == [1, 3]


def test_a_run_is_seen_from_any_working_directory_and_data_folder(
    ds: Run, clean: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(here / "other/shards", STORE.parent)
    monkeypatch.setenv("DATESHARD_DATA", "other")
    assert held(clean())
    (here / "cwd").mkdir()
    shutil.copy("config.yaml", "cwd")
    monkeypatch.chdir("cwd")
    monkeypatch.setenv("DATESHARD_DATA", str(here / "data"))
    assert held(clean())
    (here / "other/shards").unlink()
    shutil.move(here / STORE.parent, here / "other/shards")  # the runs stay where they lie
    monkeypatch.setenv("DATESHARD_DATA", str(here / "other"))
    assert held(clean())
    shutil.move(here / RUNS, here / "cwd/mine")  # the store is there, the runs here
    assert reported(clean(), "not here now")
    link(here / "cwd/data/shards", here / "other/shards")
    link(here / "cwd/data/runs", here / "cwd/mine")
    monkeypatch.delenv("DATESHARD_DATA")
    assert held(clean())


def test_equal_names_in_two_runs_folders_are_two_pins(
    ds: Run, clean: Any, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    link(here / "other/shards", STORE.parent)
    with monkeypatch.context() as patch:
        patch.setenv("DATESHARD_DATA", "other")
        ds(*TRAIN, "r")
    document = clean()
    assert (document["kept"], document["away"]) == ({"1": ["r"], "3": ["r"]}, [])
    RUNS.rename("away")
    Path("other/runs").rename("also away")
    assert sorted(away["generation"] for away in clean()["away"]) == [1, 3]
    Path("also away").rename("other/runs")
    Path("away").rename(RUNS)
    shutil.rmtree("other/runs/r")
    document = clean()
    assert (document["kept"], document["pins"]) == ({"1": ["r"], "3": []}, ["r"])
    ds("train", "--resume", "r", "--epochs", "2", "-q")


def test_a_copy_of_the_whole_runs_folder_has_its_own_pins_once_it_is_continued(
    ds: Run, clean: Any, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    link(here / "copy/shards", STORE.parent)
    shutil.copytree(RUNS, "copy/runs")
    shutil.rmtree(RUNS / "r")
    assert clean("--dry-run")["pins"] == ["r"]  # nothing says that there is a copy
    with monkeypatch.context() as patch:
        patch.setenv("DATESHARD_DATA", "copy")
        assert held(clean())  # here it is seen
        ds("train", "--resume", "r", "--epochs", "2", "-q")
    document = clean()
    assert (document["kept"]["1"], document["pins"]) == (["r"], ["r"])
    Path("copy").rename("away")
    assert reported(clean(), "not here now")
    Path("away").rename("copy")
    shutil.rmtree("copy/runs/r")
    assert clean()["pins"] == ["r"]
    assert generations(STORE) == [3]


def test_another_run_of_that_name_in_a_copied_folder_takes_no_pin_away(
    ds: Run, clean: Any, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    link(here / "copy/shards", STORE.parent)
    shutil.copytree(RUNS, "copy/runs")
    shutil.rmtree("copy/runs/r")
    with monkeypatch.context() as patch:
        patch.setenv("DATESHARD_DATA", "copy")
        ds(*TRAIN, "r")
    assert clean()["kept"] == {"1": ["r"], "3": ["r"]}
    RUNS.rename("away")
    Path("copy").rename("also away")
    assert sorted(away["generation"] for away in clean()["away"]) == [1, 3]


@pytest.mark.parametrize("how", ["renamed", "copied", "killed before it pinned"])
def test_a_run_without_a_pin_keeps_its_generation_by_its_own_word(ds: Run, clean: Any, how: str) -> None:
    if how == "killed before it pinned":
        pin_file().unlink()
    else:
        shutil.copytree(RUNS / "r", RUNS / "s")
        shutil.rmtree(RUNS / "r")
    if how == "copied":
        RUNS.rename("there")
        link(RUNS, Path("there"))
    name = "r" if how == "killed before it pinned" else "s"
    document = clean()
    assert document["kept"] == {"1": [name], "3": []}
    assert document["pins"] == ([] if name == "r" else ["r"])
    ds("train", "--resume", name, "--epochs", "2", "-q")
    assert clean()["kept"] == {"1": [name], "3": []}
    facts = json.loads((RUNS / name / "run.json").read_bytes())
    shutil.rmtree(RUNS / name)
    (RUNS / "stranger").mkdir()  # of a store in which generation 1 was another
    del facts["xxh3_128"]
    other = {**facts, "data": {**facts["data"], "id": "0" * 16}}
    (RUNS / "stranger/run.json").write_bytes(seal_readable(other))
    assert clean()["kept"] == {"3": []}


def test_a_run_whose_own_folder_is_a_link_to_a_disk_that_is_gone_lives(clean: Any) -> None:
    shutil.move(RUNS / "r", "disk/r")
    link(RUNS / "r", Path("disk/r"))
    Path("disk").rename("away")
    assert held(clean())


def test_a_run_whose_checkpoints_are_on_a_disk_that_is_gone_lives(ds: Run, clean: Any) -> None:
    pin_file().unlink()
    shutil.rmtree(RUNS / "r")
    ds("train", *CONFIG, "-q", "--run", "r", "--save-dir", "disk/r")
    Path("disk").rename("away")
    assert clean()["kept"] == {"3": ["r"]}


def test_a_folder_that_cannot_be_read_proves_nothing(clean: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> str | None:
        raise OSError(5, "Input/output error", str(folder))

    monkeypatch.setattr("dateshard.shardstore.pinning.pins.runs_id", broken)
    [away] = clean()["away"]
    assert away["why"] == "which cannot be read now (Input/output error)"
    assert generations(STORE) == [1, 3]


def test_runs_that_are_gone_are_listed_and_forgotten_only_on_yes(ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(RUNS / "r")
    listed = "run r of data/runs is gone: generation 1 is no longer kept for it"
    done = ds(*CLEAN, code=2)
    assert listed in done.err
    assert "add -y" in done.err
    assert listed in ds(*CLEAN, "--dry-run").out
    assert generations(STORE) == [1, 2, 3]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers, questions = iter([False, True]), []

    def confirm(question: str, **_: object) -> bool:
        questions.append(question)
        return next(answers)

    monkeypatch.setattr("click.confirm", confirm)
    assert ds(*CLEAN).out == "nothing was removed\n"
    assert generations(STORE) == [1, 2, 3]
    done = ds(*CLEAN)
    assert listed in done.err
    assert "1 pin of runs that are gone" in done.out
    assert generations(STORE) == [3]
    assert ds(*CLEAN).out == "generation 3 stays\nnothing to remove\n"
    assert len(questions) == 2


def test_a_run_that_goes_after_the_question_was_asked_is_kept_until_the_next_time(
    ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds("train", "--run", "s", *CONFIG, "-q")
    shutil.rmtree(RUNS / "s")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda *_, **__: not shutil.rmtree(RUNS / "r"))
    assert "generation 1 stays: r" in ds(*CLEAN).out
    assert generations(STORE) == [1, 3]


def test_a_data_folder_that_was_moved_as_a_whole_forgets_the_runs_that_it_lacks(clean: Any) -> None:
    Path("data").rename("moved")
    link(Path("data"), Path("moved"))
    assert held(clean())
    Path("data").unlink()
    Path("elsewhere").mkdir()
    shutil.move("moved", "elsewhere/data")
    shutil.copy("config.yaml", "elsewhere")
    os.chdir("elsewhere")
    assert held(clean())
    shutil.rmtree(RUNS / "r")
    assert clean()["pins"] == ["r"]


def old_pin(run: str = "r", generation: int = 1, runs: str = "../../runs") -> None:
    """As it was written before runs folders had ids."""
    (STORE / "pins" / f"{run}.json").write_bytes(seal({"generation": generation, "owner": f"{runs}/{run}"}))


def as_before() -> None:
    """Nothing of the store or the runs folder knows of ids."""
    pin_file().unlink()
    (RUNS / NAME).unlink()
    old_pin()


def test_a_pin_of_before_there_were_ids_holds_until_its_folder_has_runs_and_lacks_this_one(ds: Run, clean: Any) -> None:
    as_before()
    assert held(clean())
    RUNS.rename("away")
    assert reported(clean(), "not here now")
    RUNS.mkdir()
    assert reported(clean(), "holds no run now (is its disk not mounted?)")
    (RUNS / "notes.txt").touch()
    (RUNS / "half").mkdir()
    assert reported(clean(), "holds no run now")
    shutil.move(RUNS, "gone")
    Path("away").rename(RUNS)
    shutil.move(STORE, "big/world")  # it leads elsewhere from there
    link(STORE, Path("big/world"))
    assert held(clean())
    STORE.unlink()
    shutil.move("big/world", STORE)
    shutil.rmtree(RUNS / "r")
    ds(*TRAIN, "s")
    assert clean()["pins"] == ["r"]
    assert generations(STORE) == [3]


def test_a_training_gives_the_pins_of_before_there_were_ids_their_id(ds: Run, clean: Any) -> None:
    as_before()
    shutil.copytree(RUNS / "r", RUNS / "s")
    old_pin("s")
    old_pin("gone")
    old_pin("r2", runs="../../other")
    ds("train", "--resume", "r", "--epochs", "2", "-q")
    names = [file.name.partition("@")[0] for file in (STORE / "pins").glob("*.json")]
    assert sorted(names) == ["gone.json", "r", "r2.json", "s"]
    RUNS.rename("away")
    RUNS.mkdir()
    ds(*TRAIN, "t")
    document = clean()
    assert document["pins"] == ["gone"]
    assert sorted(away["run"] for away in document["away"]) == ["r", "r2", "s"]
    assert generations(STORE) == [1, 3]


def test_a_pin_of_before_there_were_ids_stays_where_it_names_another_generation(ds: Run, clean: Any) -> None:
    as_before()
    shutil.move(RUNS / "r", "away")  # on a disk that is not mounted
    ds(*TRAIN, "r")
    assert clean()["kept"] == {"1": ["r"], "3": ["r"]}


def test_a_run_in_a_folder_that_takes_no_file_is_pinned_without_an_id(
    ds: Run, clean: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_before()
    (STORE / "pins/r.json").unlink()

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)  # as on a file system without links
    ds("train", "--resume", "r", "--epochs", "2", "-q")
    assert not (RUNS / NAME).exists()
    assert held(clean())
    RUNS.rename("away")
    RUNS.mkdir()
    assert reported(clean(), "holds no run now")
    assert generations(STORE) == [1, 3]


def test_a_damaged_id_stops_a_training_before_there_is_a_run_and_may_be_deleted(ds: Run, clean: Any) -> None:
    (RUNS / NAME).chmod(0o644)
    (RUNS / NAME).write_bytes((RUNS / NAME).read_bytes()[:-1])
    for words in ((*TRAIN, "s"), ("train", "--resume", "r", "--epochs", "2", "-q")):
        assert (
            "Error: data/runs/ID: the file's content does not match its own hash. Delete it" in ds(*words, code=4).err
        )
    assert not (RUNS / "s").exists()
    (RUNS / NAME).unlink()
    ds("train", "--resume", "r", "--epochs", "2", "-q")
    document = clean()
    assert document["kept"]["1"] == ["r"]
    assert [away["why"] for away in document["away"]] == ["where another runs folder lies now"]
    Path(document["away"][0]["pin"]).unlink()
    assert held(clean())
