"""What a training that was killed and continued repeats, skips and changes: dateshard, Lightning, HF Trainer, grain.

    python bench/resume_peers.py --environments FOLDER [--only dateshard+lightning]      prints a Markdown table

FOLDER/lightning, FOLDER/hf and FOLDER/grain are virtual environments (bench/results/2026-11-29-resume-peers.md says how
they are made). Each peer is a script in bench/peers that is run there; dateshard is the real command. A process kills
itself with SIGKILL after a step and before the next; saves are every 5 steps, epochs have 25 batches of 16.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from dateshard.trainer import checkpoint
from tests.conftest import build_world
from tests.kit.zygote import shared

PEERS = Path(__file__).parent / "peers"
STEPS, BATCHES, BATCH = 50, 25, 16
CASES: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {  # steps after which it is killed, and options
    "killed mid-epoch": ((13,), {}),
    "at the epoch's border": ((25,), {}),
    "twice in one epoch": ((33, 43), {}),
    "with loader workers": ((13,), {"workers": 2}),
}
FIRST, WORLD = "killed mid-epoch", "killed with 1 process, continued with 2"
Journal = dict[int, list[int]]  # {step: its rows}, of a repeated step the last


@dataclass(slots=True)
class Leg:
    """What a training, in one or more processes, left: its journal, its end, and what it said."""

    journal: Journal = field(default_factory=dict)
    weights: dict[str, torch.Tensor] | None = None
    said: str = ""
    ended: bool = False


class Peer:
    """A script of bench/peers in an environment of its own."""

    def __init__(self, script: str, environment: Path, *flags: str) -> None:
        self.flags, self.port = flags, 29600 + os.getpid() % 1000
        variables = dict(os.environ) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        words = [str(environment / "bin" / "python"), str(PEERS / script)]
        self.server = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables
        )

    def run(self, folder: Path, *, kill: int, resume: bool, workers: int = 0, world: int = 1) -> Leg:
        """One process, or one a rank."""
        if not (folder / "rows.npy").exists():
            folder.mkdir(parents=True)
            rows = np.random.default_rng(1).normal(size=(BATCHES * BATCH, 9)).astype(np.float32)
            np.save(folder / "rows.npy", rows)
        words = [str(folder), "--kill", str(kill), "--workers", str(workers), "--world", str(world), *self.flags]
        words += ["--resume"] if resume else []
        log = folder / "log.txt"
        for old in (log, folder / "journal.jsonl"):
            old.unlink(missing_ok=True)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.port += 1
        self.server.stdin.write(json.dumps({"ranks": [words] * world, "log": str(log), "port": self.port}) + "\n")
        self.server.stdin.flush()
        codes = json.loads(self.server.stdout.readline())
        leg = Leg(said=log.read_text(), ended=not any(codes))
        for step, ids in read(folder / "journal.jsonl"):
            leg.journal.setdefault(step, []).extend(ids)
        if leg.ended:
            leg.weights = torch.load(folder / "final.pt")
        return leg

    def change_data(self, folder: Path) -> None:
        """One value of the data is another one from now on."""
        rows = np.load(folder / "rows.npy")
        rows[0, 0] += 1
        np.save(folder / "rows.npy", rows)


class Dateshard:
    """The real command."""

    def run(self, folder: Path, *, kill: int, resume: bool, workers: int = 0, world: int = 1) -> Leg:
        """One process; its reader always has a thread that reads ahead."""
        if not folder.exists():
            self._prepare(folder)
        journal = folder / "journal.jsonl"
        journal.unlink(missing_ok=True)
        words = ["--resume", "run", "--trust"] if resume else ["-c", "config.yaml", "--run", "run"]
        taken = self._steps(folder) if resume else 0
        (folder / "kill").write_text(str(kill + 1 - taken if kill else 0))
        done = shared().run(("train", *words), folder)
        leg = Leg(said=done.err, ended=done.code == 0)
        leg.journal = {taken + step: ids for step, ids in read(journal)}
        if leg.ended:
            last = sorted((folder / "data/runs/run/checkpoints").glob("checkpoint_epoch_2_batch_25"))[0]
            content = json.loads((last / "manifest.json").read_bytes())["content"]["files"]
            leg.weights = {name: torch.tensor(list(bytes.fromhex(of[1]))) for name, of in content.items()}
        return leg

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        training = {"epochs": 2, "batch_size": BATCH, "sample_size": BATCH * BATCHES}
        split = {"train": "2024-03-01..2024-03-19", "validation": "2024-03-20"}
        model, saving = {"name": "journaling:build"}, {"save_freq": 5}
        world = build_world(folder, 20, split=split, model=model, training=training, checkpoint=saving)
        world.tree["pipeline"]["source"]["path"] = "raw/{date}.csv"  # the folder is copied
        world.config_file()
        shared().run(("preprocess", "-c", "config.yaml", "--workers", "1"), folder)
        shutil.copy(PEERS / "journaling.py", folder)

    def _steps(self, folder: Path) -> int:
        """Steps of its newest checkpoint, from which the run will be continued."""
        newest, _ = checkpoint.newest(folder / "data/runs/run/checkpoints")
        return newest.state.step if newest else 0

    def change_data(self, folder: Path) -> None:
        """One value of a dump is another one, and the store is made anew of it."""
        self.change_dump(folder)
        shutil.rmtree(folder / "data/shards")
        shared().run(("preprocess", "-c", "config.yaml", "--workers", "1"), folder)

    def change_dump(self, folder: Path) -> None:
        """One value of a dump is another one, and its date is prepared again: a new generation beside the old one."""
        path = sorted((folder / "raw").glob("*.csv"))[0]
        lines = path.read_text().splitlines()
        lines[1] = lines[1].rpartition(",")[0] + ",99.0"
        path.write_text("\n".join(lines) + "\n")
        shared().run(("preprocess", "-c", "config.yaml", "--workers", "1"), folder)


def read(path: Path) -> list[tuple[int, list[int]]]:
    """The lines of a journal."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def difference(whole: Journal, cut: Journal) -> tuple[bool, str]:
    """Whether each step had the rows of the undisturbed run; and rows missed and repeated, epoch by epoch."""
    lines = []
    for epoch in range(STEPS // BATCHES):
        steps = range(epoch * BATCHES + 1, (epoch + 1) * BATCHES + 1)
        due = Counter(row for step in steps for row in whole.get(step, []))
        came = Counter(row for step in steps for row in cut.get(step, []))
        missed, again = sum((due - came).values()), sum((came - due).values())
        if missed or again:
            lines.append(f"epoch {epoch + 1}: {missed} rows of {sum(due.values())} missed, {again} again")
    beyond = len([step for step in cut if step > STEPS])
    other = [step for step in range(1, STEPS + 1) if sorted(whole.get(step, [])) != sorted(cut.get(step, []))]
    if beyond:
        lines.append(f"{beyond} steps too many")
    if other:
        lines.append(f"{len(other)} steps of {STEPS} with other rows, the first is {other[0]}")
    return not other and not beyond, "; ".join(lines) or "the same rows in every step"


def equal(first: Leg, second: Leg) -> bool:
    """Whether the weights of the end are the same bits; of dateshard every file of the checkpoint."""
    left, right = first.weights, second.weights
    return left is not None and right is not None and all(torch.equal(left[name], right[name]) for name in left)


def last_line(said: str) -> str:
    """The last line of an error, as it stands in a table."""
    lines = [line for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else "nothing")[:240].replace("|", "/")


def cases(peer: Any, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table: case, same rows, equal weights, what happened."""
    wholes: dict[int, Leg] = {}  # by workers
    for name, (kills, options) in CASES.items():
        place, workers = folder / name.replace(" ", "-").replace("'", ""), options.get("workers", 0)
        if workers not in wholes:
            wholes[workers] = peer.run(folder / f"whole{workers}", kill=0, resume=False, **options)
        whole, joined, leg = wholes[workers], Journal(), Leg()
        for number, kill in enumerate([*kills, 0]):
            leg = peer.run(place, kill=kill, resume=number > 0, **options)
            joined |= leg.journal
            if name == FIRST and number == 0:
                shutil.copytree(place, folder / "changed")
                shutil.copytree(place, folder / "world")
        if not leg.ended or not whole.ended:
            yield name, "no", "no", f"failed: {last_line((whole if not whole.ended else leg).said)}"
            continue
        same, what = difference(whole.journal, joined)
        yield name, "yes" if same else "**no**", "yes" if equal(whole, leg) else "**no**", what
        if name == FIRST:
            killed = {step: rows for step, rows in joined.items() if step <= kills[0]}
            yield changed(peer, folder / "changed")
            if isinstance(peer, Dateshard):
                peer.change_dump(folder / "newer")
                newer = peer.run(folder / "newer", kill=0, resume=True)
                same, what = difference(whole.journal, killed | newer.journal)
                yes = "yes" if same else "**no**", "yes" if equal(whole, newer) else "**no**"
                yield "with a date prepared again", *yes, f"stays on the data that it began with, and says so: {what}"
            yield other_world(peer, folder / "world", whole.journal, killed)


def changed(peer: Any, folder: Path) -> tuple[str, str, str, str]:
    """Whether a killed run goes on with other data."""
    if isinstance(peer, Dateshard):
        shutil.copytree(folder, folder.with_name("newer"))
    peer.change_data(folder)
    leg = peer.run(folder, kill=0, resume=True)
    what = "**goes on**" if leg.ended else f"refuses: {last_line(leg.said)}"
    return "with changed data", "-", "-", what


def other_world(peer: Any, folder: Path, whole: Journal, killed: Journal) -> tuple[str, str, str, str]:
    """Whether two ranks together take the rows that one would have taken."""
    if isinstance(peer, Dateshard):
        return of_ranks(folder)
    leg = peer.run(folder, kill=0, resume=True, world=2)
    if not leg.journal:
        return WORLD, "**no**", "-", f"refuses: {last_line(leg.said)}"
    same, what = difference(whole, killed | leg.journal)
    ended = "" if leg.ended else f"; ends with: {last_line(leg.said)}"
    return WORLD, "yes" if same else "**no**", "-", what + ended


def of_ranks(folder: Path) -> tuple[str, str, str, str]:
    """The slices of two and three ranks, from step 10 on, against the batches of one."""
    from dateshard.settings import load_settings
    from dateshard.trainer.runs.start import New, start

    before = os.getcwd()
    os.chdir(folder)
    try:
        settings = load_settings(("config.yaml",), ()).trainer
        made = start(
            settings, "world", folder / "data/shards/world", folder / "data/other", resume="none", new=New("a")
        )
        reader, same = made.session.train, True
        for epoch, first in ((0, 10), (1, 0)):
            alone = [batch.history_BHNF.clone() for batch in reader.batches(epoch, first)]
            for world in (2, 3):
                ranks = []
                for rank in range(world):
                    ranks.append([b.history_BHNF.clone() for b in reader.batches(epoch, first, rank, world)])
                    reader._ring = []  # its slots are of one world's size
                for number, batch in enumerate(alone):
                    joined = torch.empty_like(batch)
                    for rank in range(world):
                        joined[rank::world] = ranks[rank][number]
                    same = same and torch.equal(joined, batch)
        made.close()
    finally:
        os.chdir(before)
    what = "the reader's slices of 2 and of 3 ranks, interleaved, are the batches of one, bit by bit"
    return WORLD, "yes" if same else "**no**", "-", what


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    places = given.environments.absolute()
    peers: dict[str, Callable[[], Any]] = {
        "dateshard": Dateshard,
        "lightning": lambda: Peer("with_lightning.py", places / "lightning"),
        "lightning, stateful": lambda: Peer("with_lightning.py", places / "lightning", "--stateful"),
        "hf trainer": lambda: Peer("with_hf_trainer.py", places / "hf"),
        "grain": lambda: Peer("with_grain.py", places / "grain"),
    }
    print("| case | who | same rows in every step | equal weights | what happens |\n|---|---|---|---|---|", flush=True)
    for name in [name for name in peers if not given.only or name in given.only.split("+")]:
        with tempfile.TemporaryDirectory() as folder:
            for case, rows, weights, what in cases(peers[name](), Path(folder)):
                print(f"| {case} | {name} | {rows} | {weights} | {what} |", flush=True)


if __name__ == "__main__":
    main()
