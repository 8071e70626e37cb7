"""One optimizer step: forward and backward of its batches, one rescaling, clipping, update; or skipped and counted.

Gradients are taken of sum / planned, where `planned` is known before any batch is read; the true count of observed
elements joins at the end and rescales them once. So masks, short last batches, accumulation and ranks share one path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.permutation import key
from dateshard.trainer.devices.device import reseed
from dateshard.trainer.forward import Forward, forward
from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.optimization.objective import Head
from dateshard.trainer.session import Session

Watch = Callable[[Forward, range], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one step told. Tensors stay on their device: reading them is left to who shows them.

    Attributes:
        loss: the weighted sum that was minimised. parts: {head: mean over its observed elements}.
        skipped: its gradient was not finite, no weight was changed.
        gradient_norm: before clipping, over all trained parameters; None where a loss was not finite.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    size: int
    skipped: bool
    gradient_norm: torch.Tensor | None = None


@dataclass(slots=True, kw_only=True)
class Step:
    """One step that is being taken: `add` its batches, then `finish`.

    Args:
        num_windows: of all its batches together.
        watch: is called with each batch as it went through the model, and the positions of its windows in the epoch.
    """

    session: Session
    num_windows: int
    watch: Watch | None = None
    metrics: EpochMetrics = field(init=False)  # of the epoch; of this step alone where others have rows of it too
    sums: dict[str, tuple[torch.Tensor, torch.Tensor | float]] = field(default_factory=dict)
    loss: torch.Tensor | float = 0.0
    cells: int = 0  # target steps x nodes of a window
    added: int = 0  # batches so far
    finite: bool = True
    torn: bool = False  # weights are being changed
    before: dict[str, torch.Tensor] = field(default_factory=dict)  # the epoch's figures
    buffers: list[torch.Tensor] = field(default_factory=list)  # of the model, which a forward may change

    def __post_init__(self) -> None:
        session, rank = self.session, self.session.mesh.rank
        self.before = session.metrics.tensors()
        self.buffers = [buffer.clone() for buffer in session.model.buffers()]
        place = (session.state.step, rank) if rank else (session.state.step,)
        reseed(key(session.config.training.seed, 3, *place))  # no random state is ever saved
        self.metrics = session.metrics if session.mesh.world == 1 else session.metrics.fresh(session.state.epoch)
        self._optimizer.zero_grad(set_to_none=True)

    def add(self, given: Batch) -> None:
        """Forward and backward of one batch; its figures join the epoch's unless its loss is not finite."""
        session = self.session
        positions = session.train.order.positions(session.state.batch + self.added)
        self.added += 1
        self.cells = given.target_BPNF.shape[1] * given.target_BPNF.shape[2]
        if not given.size:  # a short last batch has no row for this process
            return
        passed = forward(session, given)
        if self.watch is not None:
            self.watch(passed, positions)
        loss = sum(head.weight * passed.sums[head.name][0] / self._planned(head) for head in session.heads)
        assert isinstance(loss, torch.Tensor)
        if not bool(torch.isfinite(loss)):
            self.finite = False
            return
        loss.backward()  # type: ignore[no-untyped-call]
        self.loss = self.loss + loss.detach()
        sums = {name: (total.detach(), count) for name, (total, count) in passed.sums.items()}
        for name, (total, count) in sums.items():
            before = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (before[0] + total, before[1] + count)
        self.metrics.add(passed.forecast, passed.batch, sums, positions)

    def finish(self) -> Outcome:
        """Rescales, clips and updates, unless a loss or the gradient is not finite."""
        session = self.session
        if session.mesh.world > 1:
            self._join()
        observed, planned = self._observed(), sum(self._planned(head) for head in session.heads)
        gradients = [p.grad for p in session.model.parameters() if p.grad is not None]
        factor = planned / observed if observed else 0.0  # nothing observed: a step of zero weight
        if self.finite and factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        norm = nn.utils.get_total_norm(gradients) if self.finite else None
        if norm is None or not bool(torch.isfinite(norm)):
            nothing = torch.tensor(float("nan"))
            return Outcome(loss=nothing, parts={}, size=self.num_windows, skipped=True, gradient_norm=norm)
        clip = session.config.training.clip_norm
        if clip is not None:
            nn.utils.clip_grads_with_norm_(session.model.parameters(), clip, norm)
        self.torn = True
        self._optimizer.step()
        self.torn = False
        parts = {name: total / max(float(count), 1e-12) for name, (total, count) in self.sums.items()}
        loss = torch.as_tensor(self.loss) * factor
        return Outcome(loss=loss, parts=parts, size=self.num_windows, skipped=False, gradient_norm=norm)

    def undo(self) -> bool:
        """Takes back what a step that failed has counted; False if it has changed weights.

        Windows of it in a sample stay: the same ones come to the same rows when it is taken again."""
        if self.torn:
            return False
        self.session.metrics.load(self.before)
        for buffer, value in zip(self.session.model.buffers(), self.buffers, strict=True):
            buffer.copy_(value)
        return True

    def _join(self) -> None:
        """Adds gradients, counts, flags and figures up over all processes: from here on every one has the same."""
        session, mesh = self.session, self.session.mesh
        trained = [p for p in session.model.parameters() if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        names = [head.name for head in session.heads]
        held = [self.sums.get(name, (0.0, 0.0)) for name in names]
        numbers = [
            float(not self.finite),
            float(mesh.asked()),
            float(self.loss),
            *(float(x) for both in held for x in both),
        ]
        flags = torch.tensor(numbers, dtype=torch.float64)
        mesh.add([flags, *self.metrics.totals(), *(p.grad for p in trained if p.grad is not None)])
        infinite, stop, loss, *counts = flags.tolist()
        self.finite, mesh.stopping = not infinite, bool(stop)
        self.loss = loss
        pairs = zip(counts[::2], counts[1::2], strict=True)
        self.sums = {name: (torch.tensor(total), count) for name, (total, count) in zip(names, pairs, strict=True)}
        if self.finite:
            session.metrics.join(self.metrics)
        mesh.send(list(session.model.buffers()))

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.session.optimizer is not None, "only a model without parameters has none, and it takes no steps"
        return self.session.optimizer

    def _observed(self) -> float:
        return sum(float(count) for _, count in self.sums.values())

    def _planned(self, head: Head) -> int:
        """Elements of the step if nothing is missing."""
        return self.num_windows * self.cells * len(head.targets)
