"""Baselines of categorical targets, as logits: what stands beside a model without having learned anything.

Legend: B batch, H history, P target steps, N nodes, C codes of a target (0: unseen, or none).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from trainer.batch import Batch

Guess = Callable[[Batch], torch.Tensor]  # -> [B, P, N, C] logits
SURE = 0.0, float("-inf")  # logits of a category that is repeated, and of all others


def majority(counts_C: Sequence[int], steps: int) -> Guess:
    """The shares of the categories in the training dates; the likeliest is the most frequent one."""
    counts = torch.tensor(counts_C, dtype=torch.float64)
    logits = torch.log(counts / counts.sum().clamp(min=1)).float()

    def guess(batch: Batch) -> torch.Tensor:
        nodes = batch.target_BPNF.shape[2]
        return logits.expand(batch.size, steps, nodes, -1)

    return guess


def repeated(pick: Callable[[torch.Tensor], torch.Tensor], place: int, counts_C: Sequence[int]) -> Guess:
    """A category out of the history.

    Args:
        pick: [B, H, N] codes -> [B, P, N]. place: of the target among the features of the history.
        counts_C: where no category is known, the most frequent one stands in.
    """
    most = 1 + int(torch.tensor(counts_C[1:]).argmax())  # never code 0, which nothing is scored on

    def guess(batch: Batch) -> torch.Tensor:
        chosen = pick(batch.history_BHNF[..., place].long())
        chosen = torch.where(chosen > 0, chosen, most)
        logits = torch.full((*chosen.shape, len(counts_C)), SURE[1])
        return logits.scatter_(-1, chosen[..., None], SURE[0])

    return guess


def _last_known(codes_BHN: torch.Tensor, history: int, steps: int) -> torch.Tensor:
    """[B, P, N]: the newest code that is not 0; 0 where there is none."""
    codes_BHN = codes_BHN[:, -history:]
    age = torch.arange(codes_BHN.shape[1], device=codes_BHN.device)[None, :, None]
    newest = torch.where(codes_BHN > 0, age, -1).argmax(1, keepdim=True)
    return codes_BHN.gather(1, newest).expand(-1, steps, -1)


def _season_ago(codes_BHN: torch.Tensor, season: int, steps: int) -> torch.Tensor:
    """[B, P, N]: the last season, repeated over the horizon."""
    return codes_BHN[:, [step % season - season for step in range(steps)]]


def guesses(
    name: str, places: Mapping[str, tuple[int, Sequence[int]]], steps: int, history: int
) -> dict[str, Guess] | None:
    """{head: guess} of the baseline `name`; None where it does not apply to categories.

    Args:
        places: {head: (place of its target among all features, how often each code stands in the training dates)}.
        history: steps that `repeat` looks back, however many the batch holds for another baseline.
    """
    if name == "majority":
        return {head: majority(counts, steps) for head, (_, counts) in places.items()}
    if name == "repeat":
        pick = partial(_last_known, history=history, steps=steps)
    elif match := re.fullmatch(r"seasonal:([1-9]\d*)", name):
        pick = partial(_season_ago, season=int(match[1]), steps=steps)
    else:
        return None
    return {head: repeated(pick, place, counts) for head, (place, counts) in places.items()}
