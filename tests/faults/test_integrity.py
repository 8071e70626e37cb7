"""Random bit flips over every kind of file: refused or passed over by name, and mended by the very command that is printed."""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.identity import seal
from dateshard.trainer import checkpoint
from tests.kit.flips import CONFIG, KINDS, RUN_KINDS, RUNS, STORE, STORE_KINDS, Lab, quick_folder, rounds

EACH = 6  # flips of each kind in the short form


def wrong(found: dict[str, Any]) -> list[str]:
    return [told for tally in found.values() for told in tally.bad]


@pytest.mark.parametrize("kinds", [list(STORE_KINDS)[:9], list(STORE_KINDS)[9:], list(RUN_KINDS)], ids=lambda k: k[0])
def test_any_flipped_bit_is_met_by_name_and_mended_by_the_printed_command(lab: Lab, kinds: list[str]) -> None:
    print("seed", lab.seed)
    assert wrong(rounds(lab, EACH * len(kinds), kinds)) == []


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_flipped_bits_are_met_by_name_and_mended(seed: int) -> None:
    print("seed", seed)
    with quick_folder() as folder:
        found = rounds(Lab(folder, seed), 600)
    assert wrong(found) == []
    assert min(tally.flips for tally in found.values()) >= 600 // len(KINDS)


class Anything(str):
    """A hash that equals every hash: what a reader that checks nothing compares with."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


BLIND = {  # kind -> the checks that are taken away
    "shard values": "dateshard.shardstore.storage.verified_files.hash_descriptor",
    "staged values.f64": "dateshard.shardstore.measured.hash_file dateshard.shardstore.measured.hash_bytes",
    "moments.f64": "dateshard.shardstore.frozen.frozen_folders.hash_bytes",
    "checkpoint model.safetensors": "dateshard.trainer.checkpoint.checkpoint_folder.hash_bytes",
    "checkpoint optimizer.safetensors": "dateshard.trainer.checkpoint.checkpoint_folder.hash_bytes",
}


@pytest.mark.parametrize("kind", BLIND)
def test_the_harness_sees_readers_that_do_not_hash(lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The control: with its checks taken away, flips come through, and are told as bad."""
    files = {"dateshard.shardstore.storage.verified_files.hash_descriptor", "dateshard.shardstore.measured.hash_file"}

    def blind(given: Any, *_: Any) -> Any:
        size = Path(f"/proc/self/fd/{given}" if isinstance(given, int) else given).stat().st_size
        return (size, Anything())

    for check in BLIND[kind].split():
        monkeypatch.setattr(check, blind if check in files else lambda *_: Anything())
    monkeypatch.setattr(
        "dateshard.shardstore.frozen.refuse_other_id", lambda *_: None
    )  # a second check of what is frozen
    found = rounds(lab, 9, [kind], lambda _: None)
    assert len(found[kind].bad) >= 4, found[kind].bad


def test_the_harness_sees_seals_that_nobody_checks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit mostly breaks the JSON, and that is no check of ours; one inside a text or number comes through."""
    import json

    def careless(data: bytes, *_: Any) -> Any:
        return json.loads(data)["content"]

    for name in ("manifest", "commit", "pinning.pins", "dataset"):
        monkeypatch.setattr(f"dateshard.shardstore.{name}.unseal", careless)
    kinds = ["manifest", "sources", "pins"]
    bad = collections.Counter(
        told.split(": ")[1].split(",")[0] for told in wrong(rounds(lab, 36, kinds, lambda _: None))
    )
    assert set(bad) == set(kinds)


def test_verify_of_a_date_that_is_not_there_is_no_damage(fresh: Lab) -> None:
    code, text = fresh.say("verify", "2024-03-02", "2031-01-01", *CONFIG)
    assert code == 4
    assert "absent   2031-01-01" in text
    assert "the date is not in this generation" in text
    assert "Run: dateshard preprocess 2031-01-01 -c config.yaml" in text
    assert re.search(r"\d+ of \d+ verified, 0 damaged, 1 not in this generation", text)
    assert "damaged  " not in text


def test_a_run_json_that_is_damaged_keeps_no_other_run_from_being_listed_or_continued(fresh: Lab) -> None:
    path = RUNS / "cut" / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"batch_size": 16', b'"batch_size": 17'))
    code, text = fresh.say("runs")
    assert code == 0
    assert f"{path}: the file's content does not match its own hash" in text
    assert re.search(r"^other\t[a-z :]+\tmlp\t2/\d+\t2", text, re.MULTILINE)
    assert fresh.say("train", "--resume", "other", "-q")[0] == 0
    code, text = fresh.say("train", "--resume", "cut")
    assert code == 0
    assert f"{path} was damaged" in text
    assert "made again from checkpoint_epoch_2_batch_4" in text
    assert fresh.say("evaluate", "cut")[0] == 0


def test_a_run_json_that_is_damaged_before_the_first_checkpoint_means_to_start_anew(fresh: Lab) -> None:
    path = RUNS / "cut" / "run.json"
    path.write_bytes(path.read_bytes()[:-3])
    for folder in (RUNS / "cut" / "checkpoints").iterdir():
        if folder.is_dir():
            folder.rename(RUNS / folder.name)
    for words in (["train", "--resume", "cut"], ["train", "--resume", "cut", *CONFIG], ["evaluate", "cut"]):
        code, text = fresh.say(*words)
        assert code == 4
        assert str(path) in text
        assert "start anew. Run: dateshard train -c " in text


def test_a_run_with_a_damaged_run_json_is_found_by_its_settings_and_continued(fresh: Lab) -> None:
    for name in ("cut", "other"):
        path = RUNS / name / "run.json"
        path.write_bytes(path.read_bytes().replace(b"\n", b" ", 1))
    code, text = fresh.say(
        "train", *CONFIG, "--resume", "auto", "trainer.training.seed=0", "trainer.baselines=[repeat]"
    )
    assert code == 0
    assert "continuing cut exactly at checkpoint_epoch_2_batch_4" in text
    assert "run.json was damaged" in text


def test_a_checkpoint_that_is_damaged_is_served_by_the_one_saved_again_at_its_place(fresh: Lab) -> None:
    newest, _ = checkpoint.newest(RUNS / "cut" / "checkpoints")
    assert newest is not None
    path = newest.folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-2])
    assert fresh.say("evaluate", "cut", "--checkpoint", newest.name)[0] == 4
    assert fresh.say("train", "--resume", "cut", "-q")[0] == 0
    code, text = fresh.say("evaluate", "cut", "--checkpoint", newest.name)
    assert code == 0
    assert f"passed over: {path}" in text


def test_a_sources_file_that_is_lost_is_written_anew_even_where_an_older_one_is_equal(fresh: Lab) -> None:
    """Generation 2 names a mended shard, its sources are those of generation 1: falling back finds nothing to change."""
    path = next(STORE.glob("shards/2024-03-01/*/values/0.0.0"))
    path.chmod(0o644)
    path.write_bytes(b"\1" * path.stat().st_size)
    assert fresh.say("preprocess", "2024-03-01", "--force", *CONFIG, "-q")[0] == 0
    sources = STORE / "manifests" / "g00000002.sources.json"
    sources.chmod(0o644)
    sources.write_bytes(sources.read_bytes()[:-2])
    code, text = fresh.say("verify", *CONFIG)
    assert code == 4
    assert str(sources) in text
    assert fresh.say("preprocess", *CONFIG, "-q")[0] == 0
    assert fresh.say("verify", "--full", *CONFIG)[0] == 0
    assert Dataset.open(STORE).generation == 3


def test_a_damaged_note_on_dumps_is_ignored_and_written_anew(fresh: Lab) -> None:
    """A wrong hash that is believed would fail its date for ever: 'the dump changed while it was read'."""
    import json

    path = STORE / "dumps.json"
    content = json.loads(path.read_bytes())["content"]
    for row in content.values():
        row[4] = "0" * 32
    for damaged in (seal(content)[:-3] + b"0}\n", json.dumps(content).encode(), b"", b"\xff" * 9, b"[" * 100_000):
        path.write_bytes(damaged)
        assert fresh.say("preprocess", "--force", *CONFIG, "-q")[0] == 0
        assert fresh.say("verify", *CONFIG)[0] == 0


def test_the_printed_command_carries_overrides_and_strange_file_names(
    fresh: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = Path("my config.yaml")
    strange.write_text(Path("config.yaml").read_text().replace('"dataset": "world"', '"dataset": "other"'))
    path = next(STORE.glob("shards/2024-03-01/*/values/0.0.0"))
    path.chmod(0o644)
    path.write_bytes(b"\1" * path.stat().st_size)
    assert run(["verify", f"--config={strange}", "dataset=world"]) == 4
    said = capsys.readouterr().out
    assert "Run: dateshard preprocess 2024-03-01 --force -c 'my config.yaml' dataset=world\n" in said


@pytest.mark.parametrize("change", [(b"}\n", b"}\n\n"), (b'{\n "', b'{\n "more": 1,\n "'), (b": ", b":  ")])
def test_metadata_is_compared_byte_for_byte(fresh: Lab, change: tuple[bytes, bytes]) -> None:
    """No single bit makes white space of white space, other accidents do."""
    path = next(STORE.glob("shards/2024-03-01/*/values/zarr.json"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(*change))
    code, text = fresh.say("verify", *CONFIG)
    assert (code, f"{path}: not byte for byte what was committed" in text) == (4, True), text
    assert fresh.say("preprocess", "2024-03-01", "--force", *CONFIG, "-q")[0] == 0
    assert fresh.say("verify", "--full", *CONFIG)[0] == 0
