"""Baselines of categorical targets, as logits: what stands beside a model without having learned anything.

Legend: B batch, H history, P target steps, N nodes, C codes of a target (0: unseen, or none).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch

from dateshard.trainer.data.batch import Batch
from dateshard.trainer.models.naive import newest

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


def repeated(place: int, counts_C: Sequence[int], reach: int, season: int, steps: int) -> Guess:
    """The newest known category of each step's phase in the season.

    Args:
        place: of the target among the features of the history. reach: steps that are looked back.
        counts_C: where no category is known, the most frequent one stands in.
    """
    most = torch.tensor(1 + int(torch.tensor(counts_C[1:]).argmax()))  # never code 0, which nothing is scored on

    def guess(batch: Batch) -> torch.Tensor:
        codes = batch.history_BHNF[:, -reach:, :, place : place + 1].long()
        known = codes > 0
        if batch.known_BHNF is not None:
            known &= batch.known_BHNF[:, -reach:, :, place : place + 1]
        chosen = newest(codes, known, season, steps, most)
        logits = torch.full((*chosen.shape[:3], len(counts_C)), SURE[1])
        return logits.scatter_(-1, chosen, SURE[0])

    return guess


def guesses(
    name: str, places: Mapping[str, tuple[int, Sequence[int]]], steps: int, history: int
) -> dict[str, Guess] | None:
    """Returns {head: guess} of the baseline `name`; None where it does not apply to categories.

    Args:
        places: {head: (place of its target among all features, how often each code stands in the training dates)}.
        history: steps that are looked back (a season at least), however many the batch holds for another baseline.
    """
    if name == "majority":
        return {head: majority(counts, steps) for head, (_, counts) in places.items()}
    if (season := season_of(name)) is None:
        return None
    reach = max(history, season)
    return {head: repeated(place, counts, reach, season, steps) for head, (place, counts) in places.items()}


def season_of(name: str) -> int | None:
    """Steps after which `repeat` (1) or `seasonal:STEPS` repeats itself; None of another baseline."""
    match = re.fullmatch(r"repeat|seasonal:([1-9]\d{0,11})", name)
    return int(match[1] or 1) if match else None
