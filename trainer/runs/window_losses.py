"""The loss of each window of one step, and the cells that it comes from.

Legend: B windows of a batch, P target steps, N nodes, F targets of a head.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dateshard.trainer.data.window_dates import DateOf
from dateshard.trainer.forward import Forward
from dateshard.trainer.session import Session

CELLS = 3  # of a window


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLoss:
    """An observed target cell of a window.

    Attributes:
        step, node, feature: places in its date's shard. head: whose loss it is. value: as the shard holds it, scaled.
    """

    date: dt.date
    step: int
    node: int
    feature: int
    head: str
    loss: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLoss:
    """A window of a step.

    Attributes:
        position: in the epoch. date, step: of its anchor.
        loss: the weighted sum over heads of the mean over its observed cells; NaN where one of them is no number.
        cells: those with the greatest loss, the greatest first.
    """

    position: int
    date: dt.date
    step: int
    loss: float
    cells: tuple[CellLoss, ...]


class WindowLosses:
    """Takes the batches of one step as they went through the model, and ranks their windows."""

    def __init__(self, session: Session) -> None:
        self.session = session
        window = session.train.wanted.window
        self._offsets_P = np.arange(window.target_steps) - (0 if window.horizon else window.before)
        self._windows = list[WindowLoss]()

    def add(self, passed: Forward, positions: range) -> None:
        """Takes one batch."""
        batch, counted = passed.batch, dict[str, tuple[torch.Tensor, torch.Tensor]]()
        for head in self.session.heads:
            losses_BPNF, weights_BPNF = head.elements(passed.outputs[head.name].detach(), batch)
            weights_BPNF = torch.ones_like(losses_BPNF) if weights_BPNF is None else weights_BPNF
            counted[head.name] = torch.where(weights_BPNF > 0, losses_BPNF, 0).double().cpu(), weights_BPNF.cpu()
        reader, epoch = self.session.train, self.session.state.epoch
        places = DateOf(reader.dataset, reader.order, epoch)
        day_BP, row_BP = places.places(positions, self._offsets_P)
        day_B1, row_B1 = places.places(positions, np.zeros(1, dtype=np.int64))
        targets_BPNF = batch.target_BPNF.detach().cpu()
        for number, position in enumerate(positions):
            of_window = {name: (losses[number], weights[number]) for name, (losses, weights) in counted.items()}
            cells = [
                cell
                for name, (losses, weights) in of_window.items()
                for cell in self._worst(name, losses, weights, targets_BPNF[number], day_BP[number], row_BP[number])
            ]
            self._windows.append(
                WindowLoss(
                    position=position,
                    date=self._date(day_B1[number, 0]),
                    step=int(row_B1[number, 0]),
                    loss=sum(
                        head.weight * float(losses.sum()) / max(float(weights.sum()), 1e-12)
                        for head, (losses, weights) in zip(self.session.heads, of_window.values(), strict=True)
                    ),
                    cells=tuple(sorted(cells, key=lambda cell: _order(cell.loss))[:CELLS]),
                )
            )

    def ranked(self) -> list[WindowLoss]:
        """All windows, the greatest loss first, and before them those whose loss is no number."""
        return sorted(self._windows, key=lambda window: (_order(window.loss), window.position))

    def _worst(
        self,
        name: str,
        losses_PNF: torch.Tensor,
        weights_PNF: torch.Tensor,
        targets_PNF: torch.Tensor,
        day_P: Sequence[int],
        row_P: Sequence[int],
    ) -> list[CellLoss]:
        """The cells of one head with the greatest losses."""
        head = next(head for head in self.session.heads if head.name == name)
        order = torch.where(weights_PNF > 0, losses_PNF.nan_to_num(nan=math.inf), -1.0).flatten()
        cells = []
        for place in torch.topk(order, min(CELLS, len(order))).indices.tolist():
            step, node, target = np.unravel_index(place, losses_PNF.shape)
            if weights_PNF[step, node, target] > 0:
                feature = head.targets[int(target)]
                cells.append(
                    CellLoss(
                        date=self._date(day_P[step]),
                        step=int(row_P[step]),
                        node=int(node),
                        feature=self.session.train.wanted.targets[feature],
                        head=name,
                        loss=head.weight * float(losses_PNF[step, node, target]),
                        value=float(targets_PNF[step, node, feature]),
                    )
                )
        return cells

    def _date(self, day: int) -> dt.date:
        return self.session.train.dataset.days[int(day)].date


def _order(loss: float) -> float:
    return -math.inf if math.isnan(loss) else -loss
