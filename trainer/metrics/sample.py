"""A uniform sample of an epoch's windows in fixed memory, for plots and for a user's own metrics.

A keyed permutation of the epoch's positions sends `size` of them below `size`: these are kept, each in the row that it
is sent to. So the sample is a pure function of (seed, epoch, positions): nothing is drawn, nothing is pushed out again,
and neither the order of batches nor a cut changes it (docs/decisions/0028).

Legend: S sampled windows, P target steps, N nodes, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dateshard.trainer.checkpoint.snapshot import Part, TakenRows
from dateshard.trainer.data.permutation import Integers, key, permute

DRAWN = 4096  # positions looked up at a time: 0.1 us each, where a batch alone would cost 100 us


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How many windows are kept.

    Attributes:
        train, evaluation: windows at most. num_bytes: that a sample may take, whatever these say.
    """

    seed: int
    train: int
    evaluation: int
    num_bytes: int


class MetricSample:
    """The windows kept so far.

    Memory: (9 P N T + 8) bytes a window, never above `num_bytes`; a page is taken when its first window comes.

    Args:
        num_windows: of the epoch. most: windows to keep. shape: P, N, T.
    """

    def __init__(self, num_windows: int, most: int, num_bytes: int, shape: tuple[int, int, int], seed: int) -> None:
        cells = shape[0] * shape[1] * shape[2]
        size = max(0, min(num_windows, most, num_bytes // (9 * cells + 8)))
        self.num_windows, self.seed, self.size = num_windows, seed, size
        self.target_SPNT, self.forecast_SPNT = (torch.zeros(size, *shape) for _ in range(2))
        self.observed_SPNT = torch.zeros(size, *shape, dtype=torch.bool)
        self.position_S = torch.full((size,), -1, dtype=torch.int64)
        self.whole = True  # no window was missed; not after a resume with other settings of the sample
        self._drawn: tuple[int, Integers] = (-1, np.empty(0, dtype=np.int64))

    def rows_of(self, positions: range) -> Integers:
        """The row of each position; those at `size` and above are not kept."""
        return np.concatenate([self._rows(chunk)[chunk.start % DRAWN :][: len(chunk)] for chunk in _chunks(positions)])

    def _rows(self, positions: range) -> Integers:
        chunk = positions.start // DRAWN
        if self._drawn[0] != chunk:
            places = np.arange(chunk * DRAWN, min((chunk + 1) * DRAWN, self.num_windows), dtype=np.int64)
            self._drawn = (chunk, permute(places, self.num_windows, self.seed))
        return self._drawn[1]

    def add(
        self, positions: range, forecast: torch.Tensor, target: torch.Tensor, observed: torch.Tensor | None
    ) -> None:
        """Keeps those of [B, P, N, T] that belong to the sample; `positions` are theirs in the epoch."""
        if not self.size:
            return
        rows = self.rows_of(positions)
        kept = np.flatnonzero(rows < self.size)
        if not len(kept):
            return
        at, chosen = torch.from_numpy(rows[kept]), torch.from_numpy(kept)
        self.forecast_SPNT[at] = forecast.detach()[chosen].cpu().float()
        self.target_SPNT[at] = target[chosen].cpu()
        self.observed_SPNT[at] = True if observed is None else observed[chosen].cpu()
        self.position_S[at] = torch.from_numpy(np.asarray(positions)[kept])

    @property
    def seen(self) -> torch.Tensor:
        """Returns [S] bool: which rows hold a window yet."""
        return self.position_S >= 0

    def held(self) -> dict[str, Part]:
        """Returns what is held, row by row and without copies, for a checkpoint; nothing of the rows that are empty yet."""
        at = torch.nonzero(self.seen).ravel()
        rows: dict[str, Part] = {name: TakenRows(tensor, at) for name, tensor in self._parts().items()}
        return {**rows, "form": torch.tensor([self.num_windows, self.size, int(self.whole)])}

    @property
    def most_bytes(self) -> int:
        """What a checkpoint of it takes when every row holds a window."""
        return sum(tensor.nbytes for tensor in self._parts().values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns what is held, copied."""
        held = self.held().items()
        return {name: rows.tensor[rows.at] if isinstance(rows, TakenRows) else rows for name, rows in held}

    def load(self, tensors: Mapping[str, torch.Tensor] | None) -> None:
        """Puts every window back to its row: the inverse of `held` and `tensors`.

        What is of another sample (other settings), or missing, is not taken: then this one goes on with the windows still to
        come, and says so (`whole`)."""
        self.position_S.fill_(-1)
        form = [self.num_windows, self.size]
        shape = self.target_SPNT.shape[1:]
        self.whole = False
        if tensors is None or tensors["form"][:2].tolist() != form or tensors["target"].shape[1:] != shape:
            return
        self.whole = bool(tensors["form"][2])
        if len(tensors["position"]):
            at = torch.from_numpy(permute(tensors["position"].numpy(), self.num_windows, self.seed))
            for name, tensor in self._parts().items():
                tensor[at] = tensors[name]

    def _parts(self) -> dict[str, torch.Tensor]:
        return {
            "target": self.target_SPNT,
            "forecast": self.forecast_SPNT,
            "observed": self.observed_SPNT,
            "position": self.position_S,
        }


def epoch_seed(seed: int, epoch: int) -> int:
    """Returns the seed of one epoch's permutation of positions."""
    return key(seed, 5, epoch)


def _chunks(positions: range) -> list[range]:
    """Neighbouring positions, cut where a chunk of `DRAWN` ends."""
    chunks, low = [], positions.start
    while low < positions.stop:
        high = min(positions.stop, (low // DRAWN + 1) * DRAWN)
        chunks.append(range(low, high))
        low = high
    return chunks
