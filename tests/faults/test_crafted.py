"""Checkpoints and sealed files that were made to do harm, their hashes right: refused in one sentence, nothing grows."""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.identity import hash_bytes, seal, seal_readable
from tests.conftest import environment
from tests.kit.flips import CONFIG, RUNS, SEED, STORE, Lab, newest_of, one_sentence, resealed, with_tensors
from tests.kit.limits import PATIENCE_SECONDS


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: Any = (2,), span: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


CRAFTED = {
    "length 2^62": tensors({}, length=1 << 62),
    "length 2^63": tensors({}, length=1 << 63),
    "length of all memory": tensors({}, length=99 << 30),
    "shorter than its length": b"\1\2\3",
    "empty": b"",
    "overlapping": tensors({"a": entry(), "b": entry(span=(4, 12))}, b"\0" * 12),
    "twice the same": tensors({"a": entry(), "b": entry()}, b"\0" * 8),
    "beyond the end": tensors({"a": entry(shape=(1 << 40,), span=(0, 1 << 42))}, b"\0" * 8),
    "shape overflows": tensors({"a": entry(shape=(1 << 40, 1 << 40))}, b"\0" * 8),
    "nothing of gigantic shape": tensors({"a": entry(shape=(0, 1 << 62, 1 << 62), span=(0, 0))}),
    "backwards": tensors({"a": entry(span=(8, 0))}, b"\0" * 8),
    "negative": tensors({"a": entry(span=(-8, 0))}, b"\0" * 8),
    "unknown type": tensors({"a": entry("F4", (16,))}, b"\0" * 8),
    "type of another version": tensors({"a": entry("F8_E8M0", (8,))}, b"\0" * 8),
    "header no JSON": tensors(b"\x80\x04\x95pickle", b"\0" * 8),
    "header deeply nested": tensors(b'{"a":' * 50_000),
    "header a list": tensors([entry()], b"\0" * 8),
    "names of another model": tensors({"a": entry()}, b"\0" * 8),
    "no tensor": tensors({}),
}


@pytest.mark.parametrize("case", CRAFTED)
@pytest.mark.parametrize("stem", ["model", "optimizer", "metrics"])
def test_a_crafted_tensor_file_with_a_right_hash_is_refused_in_one_sentence(fresh: Lab, case: str, stem: str) -> None:
    found = newest_of()
    if case == "no tensor" and stem == "optimizer":
        case = "empty"
    with_tensors(found.folder, CRAFTED[case], f"{stem}.safetensors")
    code, text = fresh.say("evaluate", "cut", "--checkpoint", found.name)
    assert (code, one_sentence(text)) == (4, True), text
    assert f"{found.folder}/{stem}.safetensors" in text


def test_a_crafted_tensor_file_allocates_nothing(fresh: Lab) -> None:
    """In a process that may hold 64 MiB more than it does: the header names up to 4 EiB."""
    folders = []
    for case, data in CRAFTED.items():
        folder = Path("crafted", case, newest_of().name)
        shutil.copytree(newest_of().folder, folder)
        with_tensors(folder, data)
        folders.append(str(folder))
    code = """
import resource, sys
from pathlib import Path
import safetensors.torch  # which is imported when files are read, and takes more than they may
from dateshard.shardstore.errors import StoreError
from dateshard.trainer import checkpoint
held = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + (64 << 20),) * 2)
for name in sys.argv[1:]:
    try:
        checkpoint.read_files(checkpoint.inspect(Path(name)))
    except StoreError:
        print("refused", name)
    else:
        print("read", name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *folders],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    shutil.rmtree("crafted")
    assert done.returncode == 0, done.stderr
    read = [line.split("/")[1] for line in done.stdout.splitlines() if line.startswith("read")]
    assert set(read) <= {"names of another model", "no tensor"}  # whole files, refused when a model takes them
    assert len(done.stdout.splitlines()) == len(CRAFTED)


@pytest.mark.parametrize("name", ["../../../other/run.json", "/etc/hostname", "..", "model.pth", "a/b.safetensors"])
def test_a_checkpoint_that_names_a_file_elsewhere_is_refused(fresh: Lab, name: str) -> None:
    found = newest_of()
    resealed(found.folder, lambda content: content["files"].update({name: [1, "0" * 32]}))
    code, text = fresh.say("evaluate", "cut", "--checkpoint", found.name)
    assert (code, one_sentence(text)) == (4, True), text
    assert "manifest.json: its hash is right, but its content is not that of such a file" in text


JUNK: list[Any] = [None, True, -1, 2**70, 10**400, 1e308, "", "x", "../../../../etc", "\x1b[2J", [], {}, [[]], {"x": 1}]
SEALED = [
    "CURRENT",
    "FORMAT",
    "manifests/g00000001.json",
    "manifests/g00000001.sources.json",
    "nodes/*/nodes.json",
    "statistics/*/statistics.json",
    "staged/2024-03-0[1-6]/*/receipt.json",
    "partials/2024-03-0[1-6]/*/receipt.json",
    "pins/cut@*.json",
    "dumps.json",
]
COMMANDS = [
    ["verify", "--full", *CONFIG],
    ["status", *CONFIG],
    ["clean", "--dry-run", *CONFIG],
    ["preprocess", "--refit-statistics", *CONFIG, "-q"],
    ["evaluate", "cut"],
    ["train", "--resume", "cut", "-q"],
    ["runs"],
]


def changed(content: Any, choose: random.Random) -> Any:
    """A copy in which one value, anywhere, became junk or went."""
    content = copy.deepcopy(content)
    place, key = {"top": content}, "top"
    holder: Any = place
    while isinstance(holder[key], dict | list) and holder[key] and choose.random() < 0.85:
        holder = holder[key]
        key = choose.choice(list(holder)) if isinstance(holder, dict) else choose.randrange(len(holder))
    if choose.random() < 0.2 and holder is not place:
        del holder[key]
    else:
        holder[key] = choose.choice(JUNK)
    return place["top"]


def crashes(fresh: Lab) -> list[tuple[list[str], int, str]]:
    """The commands that end with a code that is not ours, or with a traceback: words, code and what they say."""
    ends = [(words, *fresh.say(*words)) for words in COMMANDS]
    return [end for end in ends if end[1] not in (0, 2, 3, 4) or "Traceback" in end[2]]


@pytest.mark.parametrize("pattern", SEALED)
def test_sealed_files_of_any_content_give_no_traceback(fresh: Lab, pattern: str) -> None:
    for number in range(6):
        choose = random.Random(f"{SEED} {pattern} {number}")
        fresh.restore()
        path = choose.choice(sorted(STORE.glob(pattern)))
        path.chmod(0o644)
        path.write_bytes(seal(changed(json.loads(path.read_bytes())["content"], choose)))
        assert crashes(fresh) == [], f"{path} {number}: {path.read_text()[:2000]}"


def test_checkpoints_and_runs_of_any_content_give_no_traceback(fresh: Lab) -> None:
    for number in range(16):
        choose = random.Random(f"{SEED} run {number}")
        fresh.restore()
        if number % 2:
            path = newest_of().folder / "manifest.json"
            path.write_bytes(seal(changed(json.loads(path.read_bytes())["content"], choose)))
        else:
            path = RUNS / "cut" / "run.json"
            facts = json.loads(path.read_bytes())
            facts.pop("xxh3_128")
            new = changed(facts, choose)
            path.write_bytes(seal_readable(new) if isinstance(new, dict) else seal(new))
        assert crashes(fresh) == [], f"{path} {number}: {path.read_text()[:3000]}"


def by_hand(text: bytes) -> bytes:
    """A sealed file with a content that our own writer would never write, its hash right."""
    return b'{"content":' + text + b',"xxh3_128":"' + hash_bytes(text + b"\n").encode() + b'"}\n'


STRANGE = {
    "deeply nested": by_hand(b"[" * 100_000 + b"]" * 100_000),
    "only opened": b'{"content":' + b"[" * 1_000_000,
    "a number of a million digits": by_hand(b"9" * 1_000_000),
    "no number": by_hand(b'{"generation":NaN,"manifest":"g00000001.json"}'),
    "infinite": by_hand(b'{"generation":1e999,"manifest":"g00000001.json"}'),
    "a key twice": by_hand(b'{"generation":1,"generation":2,"manifest":"g00000001.json"}'),
    "half a character": by_hand(b'{"generation":1,"manifest":"\\ud800"}'),
    "UTF-16": seal({"generation": 1}).decode().encode("utf-16"),
    "with a mark before": b"\xef\xbb\xbf" + seal({"generation": 1, "manifest": "g00000001.json"}),
    "another order": b'{"xxh3_128":"0","content":{}}\n',
}


@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize(
    "pattern", ["CURRENT", "manifests/g00000001.json", "statistics/*/statistics.json", "pins/cut@*.json"]
)
def test_strange_json_in_sealed_files_is_refused_in_one_sentence(fresh: Lab, pattern: str, case: str) -> None:
    (path,) = STORE.glob(pattern)
    path.chmod(0o644)
    path.write_bytes(STRANGE[case])
    code, text = fresh.say("verify", *CONFIG)
    assert (code, str(path) in text, "Traceback" in text) == (4, True, False), text
    assert crashes(fresh) == [], f"{path} {case}"


def manifest_with(change: Callable[[dict[str, Any]], None]) -> Path:
    path = STORE / "manifests" / "g00000001.json"
    content = json.loads(path.read_bytes())["content"]
    change(content)
    path.chmod(0o644)
    path.write_bytes(seal(content))
    return path


def test_a_manifest_that_leads_out_of_the_store_is_refused(fresh: Lab) -> None:
    """What it names outside is whole and good: only the name is wrong."""
    date = "2024-03-01"
    (shard,) = (STORE / "shards" / date).iterdir()
    outside = Path("data/outside")
    shutil.copytree(shard, outside)
    shutil.copytree(next((STORE / "nodes").iterdir()), "data/nodes")
    shutil.copytree(next((STORE / "statistics").iterdir()), "data/statistics")
    steps = [
        lambda c: c["dates"][date]["parts"][0].update(id="../../../../outside"),
        lambda c: c["dates"][date]["parts"][0].update(id=str(outside.absolute())),
        lambda c: c.update(nodes="../../../nodes"),
        lambda c: c.update(statistics="../../../statistics"),
        lambda c: c["dates"].update({"../../../../outside": c["dates"][date]}),
        lambda c: c["dates"][date]["parts"][0]["files"].update({"../../x": [1, "0" * 32]}),
    ]
    for number, change in enumerate(steps):
        fresh.restore()
        path = manifest_with(change)
        for words in (["verify", *CONFIG], ["train", *CONFIG], ["evaluate", "cut"]):
            code, text = fresh.say(*words)
            assert (code, one_sentence(text), str(path) in text) == (4, True, True), (number, words, text)


def test_sources_and_receipts_that_lead_out_of_the_store_are_refused(fresh: Lab) -> None:
    path = STORE / "manifests" / "g00000001.sources.json"
    content = json.loads(path.read_bytes())["content"]
    content["dates"]["2024-03-01"]["staged"] = "../../../../outside"
    path.chmod(0o644)
    path.write_bytes(seal(content))
    code, text = fresh.say("verify", "--full", *CONFIG)
    assert (code, f"{path}: its hash is right, but" in text) == (4, True), text
    assert fresh.say("preprocess", *CONFIG, "-q")[0] == 0
    assert fresh.say("verify", "--full", *CONFIG)[0] == 0
    path = next(STORE.glob("staged/2024-03-01/*/receipt.json"))
    content = json.loads(path.read_bytes())["content"]
    content["files"]["../../../../../config.yaml"] = content["files"]["values.f64"]
    path.chmod(0o644)
    path.write_bytes(seal(content))
    code, text = fresh.say("verify", "--full", *CONFIG)
    assert (code, str(path) in text) == (4, True), text


def part_of(content: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = content["dates"]["2024-03-01"]["parts"][0]
    return part


UNFIT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a date at another time": lambda c: c["dates"]["2024-03-01"].update(start=1 << 62),
    "a date of a billion steps": lambda c: c["dates"]["2024-03-01"].update(steps=10**9),
    "a date without steps": lambda c: c["dates"]["2024-03-01"].update(steps=0),
    "a date without parts": lambda c: c["dates"]["2024-03-01"].update(parts=[]),
    "other nodes than its arrays have": lambda c: c.update(num_nodes=7),
    "fewer than no nodes": lambda c: c.update(num_nodes=-3),
    "no step": lambda c: c.update(step=0),
    "a step that is no whole number": lambda c: c.update(step=c["step"] + 0.5),
    "a limit that is no number": lambda c: c["features"][0].update(fill_limit={}),
    "a name that is no text": lambda c: c["features"][1].update(name=["volume"]),
    "whether it is known ahead, as text": lambda c: c["features"][1].update(future="no"),
    "a larger array": lambda c: part_of(c)["files"]["values"].__setitem__(0, 1 << 50),
    "no values": lambda c: part_of(c)["files"].pop("values"),
    "an array nobody knows": lambda c: part_of(c)["files"].update(cuts=[24, "0" * 32]),
    "no time zone": lambda c: c.update(timezone="../../etc/passwd"),
    "a feature with a key nobody knows": lambda c: c["features"][0].update(colour="red"),
    "no format": lambda c: c.pop("format"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_manifest_whose_numbers_do_not_fit_is_refused_at_opening(fresh: Lab, case: str) -> None:
    path = manifest_with(UNFIT[case])
    for words in (["verify", *CONFIG], ["train", *CONFIG], ["evaluate", "cut"]):
        code, text = fresh.say(*words)
        assert (code, one_sentence(text), str(path) in text) == (4, True, True), (words, code, text)
    assert fresh.say("preprocess", *CONFIG, "-q")[0] == 0
    assert fresh.say("verify", *CONFIG)[0] == 0


def test_sources_and_receipts_of_another_form_are_passed_over_by_every_command(fresh: Lab) -> None:
    sources = STORE / "manifests" / "g00000001.sources.json"
    receipt = next(STORE.glob("staged/2024-03-01/*/receipt.json"))
    changes: list[tuple[Path, Callable[[dict[str, Any]], Any]]] = [
        (sources, lambda c: c.pop("dates")),
        (sources, lambda c: c.update(failed=[])),
        (sources, lambda c: c["dates"]["2024-03-01"].update(dump={"path": 1, "size": "1", "hash": []})),
        (receipt, lambda c: c.update(nodes=["n0", "n1", 1e308])),
        (receipt, lambda c: c.update(nodes=["n0"])),
        (receipt, lambda c: c.update(rows=7)),
        (receipt, lambda c: c.update(shape=[24, 3, 2, 1 << 60])),
    ]
    for number, (path, change) in enumerate(changes):
        fresh.restore()
        content = json.loads(path.read_bytes())["content"]
        change(content)
        path.chmod(0o644)
        path.write_bytes(seal(content))
        code, text = fresh.say("verify", "--full", *CONFIG)
        assert (code, str(path) in text) == (4, True), (number, text)
        assert crashes(fresh) == [], f"{path} {number}"
        assert fresh.say("verify", "--full", *CONFIG)[0] == 0, number  # preprocess --refit-statistics has mended it
