"""One optimizer step: forward and backward of its batches, one rescaling, clipping, update; or skipped and counted.

Gradients are taken of sum / planned, where `planned` is known before any batch is read; the true count of observed
elements joins at the end and rescales them once. So masks, short last batches, accumulation and ranks share one path.
A share of the windows is all that one process has of them, or one of its micro-batches (docs/decisions/0072).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import nn

from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.permutation import key
from dateshard.trainer.devices.device import reseed
from dateshard.trainer.devices.flat import flatten, parts
from dateshard.trainer.devices.shares import PairwiseSum, Share, shares_of
from dateshard.trainer.forward import Forward, forward
from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.optimization.objective import Head
from dateshard.trainer.optimization.optimizer import clear_gradients, total_norm, update
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
    shares: list[Share] = field(init=False)
    metrics: EpochMetrics = field(init=False)  # of the epoch; of a share alone where there are several
    sums: dict[str, tuple[torch.Tensor, torch.Tensor | float]] = field(default_factory=dict)
    loss: torch.Tensor | float = 0.0
    cells: int = 0  # target steps x nodes of a window
    added: int = 0  # batches so far
    finite: bool = True
    torn: bool = False  # weights are being changed
    before: dict[str, torch.Tensor] = field(default_factory=dict)  # the epoch's figures
    buffers: list[torch.Tensor] = field(default_factory=list)  # of the model, which a forward may change
    asked: list[bool] = field(default_factory=list)  # of this process

    def __post_init__(self) -> None:
        session, mesh = self.session, self.session.mesh
        self.before, self.asked = session.metrics.tensors(), list(mesh.asked())
        self.buffers = [buffer.clone() for buffer in session.model.buffers()]
        self.shares = shares_of(mesh, self._micro_batches)
        self.metrics = session.metrics
        if mesh.world > 1 or self._micro_batches:
            self.metrics = session.metrics_of_shares()
        self._begin(self.shares[0])

    def add(self, given: Batch) -> None:
        """Forward and backward of one batch; its figures join the epoch's unless its loss is not finite."""
        session = self.session
        positions = session.train.order.positions(session.state.batch + self.added)
        self.added += 1
        self.cells = given.target_BPNF.shape[1] * given.target_BPNF.shape[2]
        if self._micro_batches is None:
            self._pass(given, positions[self.shares[0].number :: self.shares[0].of])
            return
        adding = PairwiseSum()
        for share in self.shares:
            self._begin(share)
            self._pass(share.take(given), positions[share.number :: share.of])
            figures = self._figures(share)
            adding.add(flatten(figures))
        total = adding.total()
        session.mesh.add_pairwise(total)
        self._take(list(parts(total, figures)))

    def _begin(self, share: Share) -> None:
        """Makes everything that a share's passes draw and add up independent of what was before."""
        step = self.session.state.step
        place = (step, share.number) if share.number else (step,)
        reseed(key(self.session.config.training.seed, 3, *place))  # no random state is ever saved
        clear_gradients(self._optimizer)
        if self.metrics is not self.session.metrics:
            self.sums, self.loss = {}, 0.0
            self.metrics.clear()
            self._restore_buffers()

    def _pass(self, given: Batch, positions: range) -> None:
        if not given.size:  # a short last batch has no row for this share
            return
        session = self.session
        passed = forward(session, given)
        if self.watch is not None:
            self.watch(passed, positions)
        sums = {name: (total.detach(), count) for name, (total, count) in passed.sums.items()}
        losses = [head.weight * sums[head.name][0] / self._planned(head) for head in session.heads]
        loss = sum(losses[1:], losses[0])
        if not math.isfinite(loss.item()):
            self.finite = False
            return
        self._go_backward(passed)
        self.loss = self.loss + loss if self.sums else loss
        for name, (total, count) in sums.items():
            before = self.sums.get(name)
            self.sums[name] = (before[0] + total, before[1] + count) if before else (total, 0.0 + count)
        self.metrics.add(passed.forecast, passed.batch, sums, positions)

    def _go_backward(self, passed: Forward) -> None:
        """Takes the gradient of the weighted sum of losses, with the bits of that sum's own, and no node of autograd for it."""
        scale = self.session.state.loss_scale
        totals = [(head, passed.sums[head.name][0]) for head in self.session.heads]
        totals = [(head, total) for head, total in totals if total.requires_grad] or totals
        first = 1.0 if scale is None else scale.value
        gradients = [
            _gradient(first, self._planned(head), head.weight, total.dtype, total.device) for head, total in totals
        ]
        torch.autograd.backward([total for _, total in totals], gradients)

    def finish(self) -> Outcome:
        """Rescales, clips and updates, unless a loss or the gradient is not finite."""
        session = self.session
        if session.mesh.world > 1 and self._micro_batches is None:
            figures = self._figures(self.shares[0])
            total = flatten(figures)
            session.mesh.add(total)
            self._take(list(parts(total, figures)))
        observed, planned = self._observed(), sum(self._planned(head) for head in session.heads)
        gradients = [p.grad for p in session.model.parameters() if p.grad is not None]
        factor = planned / observed if observed else 0.0  # nothing observed: a step of zero weight
        scale = session.state.loss_scale
        unscaled = factor if scale is None else factor / scale.value
        if self.finite and unscaled != 1.0:
            torch._foreach_mul_(gradients, unscaled)
        norm = total_norm(gradients) if self.finite else None
        if norm is None or not math.isfinite(norm.item()):
            self._note_scale(skipped=True)
            nothing = torch.tensor(float("nan"))
            return Outcome(loss=nothing, parts={}, size=self.num_windows, skipped=True, gradient_norm=norm)
        clip = session.config.training.clip_norm
        if clip is not None:
            nn.utils.clip_grads_with_norm_(session.model.parameters(), clip, norm)
        self.torn = True
        update(self._optimizer)
        self.torn = False
        self._note_scale(skipped=False)
        means = {name: total / max(float(count), 1e-12) for name, (total, count) in self.sums.items()}
        loss = torch.as_tensor(self.loss)
        loss = loss if factor == 1.0 else loss * factor
        return Outcome(loss=loss, parts=means, size=self.num_windows, skipped=False, gradient_norm=norm)

    def _note_scale(self, *, skipped: bool) -> None:
        state = self.session.state
        state.loss_scale = state.loss_scale and state.loss_scale.after(skipped=skipped)

    def undo(self) -> bool:
        """Takes back what a step that failed has counted; False if it has changed weights.

        Windows of it in a sample stay: the same ones come to the same rows when it is taken again."""
        if self.torn:
            return False
        self.session.metrics.load(self.before)
        self._restore_buffers()
        return True

    def _restore_buffers(self) -> None:
        for buffer, value in zip(self.session.model.buffers(), self.buffers, strict=True):
            buffer.copy_(value)

    def _figures(self, share: Share) -> list[torch.Tensor]:
        """All of a share that is added up over all shares: numbers, metrics, gradients, and the model's buffers."""
        counted = [float(x) for head in self.session.heads for x in self.sums.get(head.name, (0.0, 0.0))]
        has = [parameter.grad is not None for parameter in self._trained]
        numbers = [float(self.loss), not self.finite, *self.asked, *counted, *has]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained]
        buffers = [self._of_share(buffer, share) for buffer in self.session.model.buffers()]
        return [torch.tensor(numbers, dtype=torch.float64), *self.metrics.totals(), *gradients, *buffers]

    def _of_share(self, buffer: torch.Tensor, share: Share) -> torch.Tensor:
        """What a share adds to a buffer: of micro-batches the mean is taken, which leaves a constant as it is; else share 0's."""
        if self._micro_batches and buffer.is_floating_point():
            return buffer / self._micro_batches
        buffer = buffer.to(torch.uint8) if buffer.dtype == torch.bool else buffer
        return buffer if share.number == 0 else torch.zeros_like(buffer)

    def _take(self, figures: list[torch.Tensor]) -> None:
        """Takes the figures of all shares together: from here on every process has the same."""
        session, trained = self.session, self._trained
        totals, count = len(self.metrics.totals()), len(session.heads)
        loss, infinite, *others = figures[0].tolist()
        self.loss, self.finite = loss, not infinite
        session.mesh.raised = [bool(flag) for flag in others[: len(self.asked)]]
        counted, has = others[len(self.asked) :][: 2 * count], others[len(self.asked) + 2 * count :]
        pairs = zip(session.heads, counted[::2], counted[1::2], strict=True)
        self.sums = {head.name: (torch.tensor(total), observed) for head, total, observed in pairs}
        if self.finite:
            session.metrics.join(figures[1 : 1 + totals])
        gradients = figures[1 + totals : 1 + totals + len(trained)]
        for parameter, gradient, somewhere in zip(trained, gradients, has, strict=True):
            parameter.grad = gradient if somewhere else None
        buffers = list(session.model.buffers())
        for buffer, value in zip(buffers, figures[1 + totals + len(trained) :], strict=True):
            buffer.copy_(value)

    @property
    def _micro_batches(self) -> int | None:
        return self.session.config.training.micro_batches

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.session.model.parameters() if parameter.requires_grad]

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.session.optimizer is not None, "only a model without parameters has none, and it takes no steps"
        return self.session.optimizer

    def _observed(self) -> float:
        return sum(float(count) for _, count in self.sums.values())

    def _planned(self, head: Head) -> int:
        """Elements of the step if nothing is missing."""
        return self.num_windows * self.cells * len(head.targets)


@lru_cache(maxsize=64)
def _gradient(first: float, planned: int, weight: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The gradient of a head's sum of losses, which nothing changes: of almost all steps it is the same."""
    return torch.full((), first, dtype=dtype, device=device) / planned * weight
