"""Configurations made to do harm: no tag runs, no bomb grows, each is refused in one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.kit.flips import CONFIG, Lab, one_sentence
from tests.kit.limits import PATIENCE_SECONDS


def levels(count: int, width: int) -> str:
    """Each level holds the one before `width` times: the laughs."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * width)}]" for n in range(count)]
    return "\n".join(lines)


def long_laughs() -> str:
    """Few values, each a long text."""
    return levels(6, 7).replace("[ha, ha, ha, ha, ha, ha, ha, ha, ha]", '"' + "ha" * 50_000 + '"')


def merges(count: int) -> str:
    lines = ["m0: &m0 {" + ", ".join(f"k{n}: 1" for n in range(200)) + "}"]
    lines += [f"m{n + 1}: &m{n + 1} {{<<: [*m{n}, *m{n}], n{n}: 1}}" for n in range(count)]
    return "\n".join(lines)


RUNS_CODE = {
    "apply": "!!python/object/apply:os.system [touch it-ran]",
    "new": "!!python/object/new:os.system [touch it-ran]",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "object": "!!python/object:os.system {}",
    "verbatim": "!<tag:yaml.org,2002:python/object/apply:os.system> [touch it-ran]",
    "own": "!anything x",
    "binary": "!!binary d29ybGQ=",
    "set": "!!set {a, b}",
    "ordered": "!!omap [a: 1]",
}
BOMBS = {
    "laughs": levels(12, 9),
    "fewer laughs": levels(8, 5),
    "long laughs": long_laughs(),
    "merges": merges(24),
    "many merges": merges(60),
    "holds itself": "trainer: &a [*a, *a]",
    "maps itself": "trainer: &a {training: *a}",
    "lists": "trainer: " + "[" * 120_000,
    "mappings": "trainer: " + "{a: " * 60_000,
    "dashes": "trainer:\n " + "- " * 120_000,
    "questions": "? " * 120_000,
    "indented": "\n".join(" " * depth + "a:" for depth in range(600)),
    "long value": "dataset: " + "x" * 250_000,
    "long key": '? "' + "x" * 250_000 + '"\n: 1',
    "long number": "trainer: {training: {epochs: " + "9" * 200_000 + "}}",
    "hexadecimal": "dataset: 0x" + "f" * 200_000,
    "hexadecimal epochs": "trainer: {training: {seed: -0x" + "f" * 200_000 + "}}",
    "many values": "trainer: [" + "a," * 120_000 + "]",
    "many keys": "trainer: {" + ",".join(f"k{n}: 1" for n in range(9_000)) + "}",
    "many tags": "!" * 250_000,
    "many anchors": "&a " * 80_000,
    "sizes": "trainer: {loading: {memory_budget: " + "9" * 400 + "GiB}}",
    "infinite": "trainer: {training: {learning_rate: .inf}}",
    "no number": "trainer: {early_stopping: {min_delta: .nan}}",
    "keys of lists": "? [a, b]\n: 1",
    "half a character": 'dataset: "\\ud800"',
    "too large": "#" * 300_000,
}


MOST_SECONDS = 12.0  # of the processor, for two refusals: the slowest takes about 2


def refusal(lab: Lab, *words: str) -> str:
    code, text = lab.say(*words)
    assert code == 2, f"{code}: {text[-600:]}"
    assert text.startswith("Error: "), text[-600:]
    assert len(text) < 4000, f"{len(text)} characters: {text[:300]}"
    return text


@pytest.mark.parametrize("case", RUNS_CODE)
def test_a_tag_in_a_configuration_is_refused_by_name_wherever_it_stands(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    value = RUNS_CODE[case]
    whole = json.loads(Path("config.yaml").read_text())
    rest = "\n".join(f"{key}: {json.dumps(part)}" for key, part in whole.items() if key != "trainer")
    for text in (
        f"dataset: {value}",
        f"{rest}\ntrainer: {value}",
        f"{rest}\n? {value}\n: 1",
        f"{rest}\nextra: [{{x: {value} }}]",
    ):
        Path("evil.yaml").write_text(text + "\n")
        for words in (["plan"], ["train"], ["preprocess"], ["verify"]):
            said = refusal(fresh, *words, "-c", "evil.yaml")
            assert one_sentence(said)
            assert "the tag " in said
            assert said.startswith("Error: evil.yaml:")
    assert "the tag " in refusal(fresh, "plan", *CONFIG, f"trainer={value}")
    monkeypatch.setenv("DATESHARD__TRAINER", value)
    assert "the tag " in refusal(fresh, "plan", *CONFIG)


@pytest.mark.parametrize("case", BOMBS)
@pytest.mark.cpu_seconds(60)
def test_a_bomb_in_a_configuration_is_refused_quickly_and_shortly(fresh: Lab, case: str) -> None:
    Path("evil.yaml").write_text(BOMBS[case] + "\n", encoding="utf-8", errors="surrogatepass")
    began = time.process_time()
    refusal(fresh, "plan", "-c", "evil.yaml")
    said = refusal(fresh, "plan", *CONFIG, "-c", "evil.yaml")
    assert time.process_time() - began < MOST_SECONDS
    if case in ("many values", "fewer laughs", "long laughs"):
        assert "more than 20" in said


@pytest.mark.parametrize("case", ["laughs", "fewer laughs", "long laughs", "lists", "holds itself", "long number"])
def test_a_bomb_in_an_override_or_the_environment_is_refused_likewise(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    lines = BOMBS[case].splitlines()
    value = lines[0].partition(": ")[2] if len(lines) == 1 else "{" + ", ".join(lines) + "}"
    one = refusal(fresh, "plan", *CONFIG, f"trainer.training.seed={value}")
    assert one_sentence(one)
    monkeypatch.setenv("DATESHARD__TRAINER__TRAINING__SEED", value[:130_000] if len(lines) == 1 else value)
    assert one_sentence(refusal(fresh, "plan", *CONFIG))


def test_names_of_overrides_have_bounds_too(fresh: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one_sentence(refusal(fresh, "plan", *CONFIG, ".".join("a" * 50_000) + "=1"))
    assert one_sentence(refusal(fresh, "plan", *CONFIG, "x" * 100_000 + "=1"))
    monkeypatch.setenv("DATESHARD__" + "__".join("A" * 20_000), "1")
    assert one_sentence(refusal(fresh, "plan", *CONFIG))


def test_bombs_take_no_memory(fresh: Lab) -> None:
    """All of them in one process that may hold 96 MiB more than it does; and an endless file beside them."""
    folder = Path("bombs")
    folder.mkdir()
    for number, text in enumerate(BOMBS.values()):
        (folder / f"{number:02}.yaml").write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
    code = """
import resource, sys
from pathlib import Path
import dateshard.cli.preparing, dateshard.settings, dateshard.pipeline.execute, zarr
from dateshard.cli import run
held = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + (96 << 20),) * 2)
files = [*map(str, sorted(Path("bombs").iterdir())), "/dev/zero"]
print(*(run(["plan", "-c", file]) for file in files))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2"] * (len(BOMBS) + 1), done.stderr[-2000:]


def test_plain_anchors_aliases_and_merges_are_read(fresh: Lab) -> None:
    """The control: what people do write is not refused."""
    whole = json.loads(Path("config.yaml").read_text())
    text = f"dataset: world\npipeline: {json.dumps(whole['pipeline'])}\ntrainer:\n"
    text += "  training: &t {epochs: 2, batch_size: 16}\n  window: {history: 12, horizon: 6}\n"
    text += "  checkpoint: {<<: &c {save_freq: !!int 2}}\n  scheduler: {<<: *s}\n".replace(
        "{<<: *s}", "&s {type: none}"
    )
    Path("good.yaml").write_text(text)
    code, said = fresh.say("plan", "-c", "good.yaml", "trainer.loading={shuffle: &x dates}")
    assert code == 0, said
