"""What every peer trains: the same rows, model and figures; a journal of the rows of each step, and the kill.

Legend: R rows.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROWS, BATCH, EPOCHS, SAVE_FREQ, SEED = 400, 16, 2, 5, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One leg of a training. `kill`: the step after which the process kills itself with SIGKILL; 0: none."""

    folder: Path
    kill: int
    workers: int
    world: int
    resume: bool
    stateful: bool
    rows_RC: np.ndarray


def asked() -> Asked:
    """Reads the command line; the rows lie in the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)  # processes; their batches are together BATCH
    for flag in ("--resume", "--stateful"):
        parser.add_argument(flag, action="store_true")
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    return Asked(rows_RC=np.load(given["folder"] / "rows.npy"), **given)


def serve(main: Callable[[], None]) -> None:
    """Forks a process for each line of stdin, {"ranks": [[words of rank 0], ..]}, and answers with its exit codes.

    So libraries are imported once; each leg is still a process that a signal can kill.
    """
    for line in sys.stdin:
        asked_for = json.loads(line)
        children = []
        for rank, words in enumerate(asked_for["ranks"]):
            child = os.fork()
            if not child:
                _become(main, rank, len(asked_for["ranks"]), words, asked_for)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def _become(main: Callable[[], None], rank: int, world: int, words: list[str], asked_for: dict[str, Any]) -> None:
    """Runs one leg in this child, and ends it."""
    log = os.open(asked_for["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    sys.argv[1:] = words
    if world > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": asked_for["port"]}
        os.environ.update({name: str(value) for name, value in {**ranks, **place}.items()})
    code = 1
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def make_model() -> nn.Module:
    """A small mlp with dropout, of seeded weights."""
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))


def note(given: Asked, step: int, ids: torch.Tensor) -> None:
    """Appends a step (from 1) and its rows to the journal."""
    with open(given.folder / "journal.jsonl", "a") as journal:
        journal.write(json.dumps([step, ids.tolist()]) + "\n")


def kill_after(given: Asked, step: int) -> None:
    """Ends this process with SIGKILL where the leg asks for it."""
    if given.kill and step == given.kill:
        os.kill(os.getpid(), signal.SIGKILL)


def keep(given: Asked, model: nn.Module) -> None:
    """Keeps the weights of the end."""
    torch.save(model.state_dict(), given.folder / "final.pt")


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The rows as a map-style Dataset: x [8], y [1] and the row's number."""

    def __init__(self, given: Asked) -> None:
        self.rows_RC = torch.from_numpy(given.rows_RC)

    def __len__(self) -> int:
        return len(self.rows_RC)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows_RC[index]
        return {"x": row[:8], "labels": row[8:], "ids": torch.tensor(index)}
