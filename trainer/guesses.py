"""Baselines of categorical targets, as logits: what stands beside a model without having learned anything.

Legend: B batch, H history, P target steps, N nodes, C codes of a target (0: unseen, or none).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

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


def repeated(place: int, back: Sequence[int] | None, counts_C: Sequence[int], steps: int) -> Guess:
    """The last known category of the history, or that of one season ago.

    Args:
        place: of the target among the features of the history. back: for each target step, which step of the history
            (negative: from its end); None: the last one whose category is known.
        counts_C: where no category is known, the most frequent one stands in.
    """
    most = int(torch.tensor(counts_C).argmax())

    def guess(batch: Batch) -> torch.Tensor:
        codes_BHN = batch.history_BHNF[..., place].long()
        chosen = _last_known(codes_BHN, steps) if back is None else codes_BHN[:, list(back)]
        chosen = torch.where(chosen > 0, chosen, most)
        logits = torch.full((*chosen.shape, len(counts_C)), SURE[1])
        return logits.scatter_(-1, chosen[..., None], SURE[0])

    return guess


def _last_known(codes_BHN: torch.Tensor, steps: int) -> torch.Tensor:
    """[B, P, N]: the newest code that is not 0; 0 where there is none."""
    age = torch.arange(codes_BHN.shape[1], device=codes_BHN.device)[None, :, None]
    newest = torch.where(codes_BHN > 0, age, -1).argmax(1, keepdim=True)
    return codes_BHN.gather(1, newest).expand(-1, steps, -1)


def guesses(name: str, places: Mapping[str, tuple[int, Sequence[int]]], steps: int) -> dict[str, Guess] | None:
    """{head: guess} of the baseline `name`; None where it does not apply to categories.

    Args:
        places: {head: (place of its target among all features, how often each code stands in the training dates)}.
    """
    if name == "majority":
        return {head: majority(counts, steps) for head, (_, counts) in places.items()}
    if name == "repeat":
        return {head: repeated(place, None, counts, steps) for head, (place, counts) in places.items()}
    if match := re.fullmatch(r"seasonal:([1-9]\d*)", name):
        season = int(match[1])
        back = [step % season - season for step in range(steps)]
        return {head: repeated(place, back, counts, steps) for head, (place, counts) in places.items()}
    return None
