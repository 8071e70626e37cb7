"""Tuned ridge regression in closed form: the honest rival of every trained model.

One linear map a target feature from a node's own history to the horizon, pooled over nodes. How far back it looks, its
penalty, and what is subtracted from a window first (nothing, its last value, its mean) are chosen for each target by
the squared error on the validation windows. All of them are solved from the same sums (`trainer.gram`): a shorter
history is a corner of the Gram matrix, and what is subtracted is a linear map of the window, so that trying a setting
costs a solve and no pass over the data. The chosen map stands in the weights as one for raw windows.

Legend: H history, h the history of a setting, P horizon, Fo target features, Q target steps that share a Gram.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import nn

from trainer.gram import Equations, Joint, Masked, System, Windows, accumulate, masked_targets, scaled_means
from trainer.order import Window
from trainer.stop import ShouldStop, ask

EQUATION_BYTES = 1 << 30  # of Gram matrices at a time
NORMALISATIONS = ("none", "last", "mean")
LEAST_PENALTY = 1e-12  # of the Gram's trace: what rounding can make of a singular matrix


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a ridge is solved. `normalisation`: what is subtracted from history and targets of a window first."""

    history: int
    normalisation: str
    penalty: float

    def __str__(self) -> str:
        subtracted = {"none": "", "last": ", less its last value", "mean": ", less its mean"}[self.normalisation]
        return f"history {self.history}{subtracted}, penalty {self.penalty:g} a window"


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried: every history with every normalisation and penalty. None: the whole history, 1/2, 1/4 and 1/8."""

    penalties: tuple[float, ...]
    histories: tuple[int, ...] | None = None
    normalisations: tuple[str, ...] = NORMALISATIONS

    def lengths(self, longest: int) -> list[int]:
        """The histories in falling order, none above `longest`."""
        wanted = self.histories or [max(1, longest // part) for part in (1, 2, 4, 8)]
        return sorted({min(history, longest) for history in wanted}, reverse=True)

    def tunings(self, longest: int) -> list[Tuning]:
        """All settings, in the order in which the first of equal ones wins."""
        kinds, penalties = dict.fromkeys(self.normalisations), dict.fromkeys(self.penalties)
        return [Tuning(*chosen) for chosen in product(self.lengths(longest), kinds, penalties)]


@dataclass(frozen=True, slots=True)
class Chosen:
    """One target's tuning.

    Attributes:
        errors: mean squared error on validation of each setting that was tried; empty without observed validation
            targets: then it is the first history and normalisation with the smallest penalty.
        longest: the longest history whose equations fit `EQUATION_BYTES`.
    """

    tuning: Tuning
    errors: dict[Tuning, float]
    longest: int


class Ridge(nn.Module):
    """history [B, H, N, Fi] -> [B, P, N, Fo]; all it knows are buffers: nothing is left to a gradient.

    Weights of steps beyond a target's chosen history are 0; the last of the H + 1 is the intercept.
    """

    uses_codes = False
    weight: torch.Tensor
    history: torch.Tensor
    penalty: torch.Tensor
    normalisation: torch.Tensor

    def __init__(self, history: int, horizon: int, targets_in_inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.targets = list(targets_in_inputs)
        count = len(self.targets)
        self.register_buffer("weight", torch.zeros(count, history + 1, horizon, dtype=torch.float64))
        self.register_buffer("history", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("penalty", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("normalisation", torch.zeros(count, dtype=torch.int64))

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None = None) -> torch.Tensor:
        own = history_BHNF[..., self.targets].to(self.weight.dtype)
        out = torch.einsum("bhnf,fhp->bpnf", own, self.weight[:, :-1]) + self.weight[:, -1].T[None, :, None, :]
        return out.to(history_BHNF.dtype)

    def tunings(self) -> list[Tuning]:
        """Each target's setting, as a checkpoint holds it."""
        columns = zip(self.history.tolist(), self.normalisation.tolist(), self.penalty.tolist(), strict=True)
        return [Tuning(history, NORMALISATIONS[kind], penalty) for history, kind, penalty in columns]

    def keep(self, target: int, tuning: Tuning, weight_hP: torch.Tensor, bias_P: torch.Tensor) -> None:
        """Takes over one target's solution."""
        self.weight[target] = 0.0
        self.weight[target, -1 - tuning.history : -1] = weight_hP
        self.weight[target, -1] = bias_P
        self.history[target], self.penalty[target] = tuning.history, tuning.penalty
        self.normalisation[target] = NORMALISATIONS.index(tuning.normalisation)


def told(names: Sequence[str], tunings: Sequence[Tuning]) -> list[str]:
    """One line a tuning with the targets that it was chosen for."""
    by_tuning: dict[Tuning, list[str]] = {}
    for name, tuning in zip(names, tunings, strict=True):
        by_tuning.setdefault(tuning, []).append(name)
    return [f"{', '.join(same)}: {tuning}" for tuning, same in by_tuning.items()]


def fit(model: Ridge, train: Windows, held: Windows, grid: Grid, should_stop: ShouldStop) -> list[Chosen]:
    """Fits on `train` what is best on `held`, a group of targets at a time; returns each target's choice. One thread.

    Memory: Gram matrices of at most `EQUATION_BYTES` (a history whose matrices alone are larger is cut to fit), what
    `accumulate` takes, and a few matrices of one history.

    Raises:
        Interrupted: `should_stop()`; the model is as it was.
    """
    with _one_thread():
        chosen, solved = _solved(train, held, grid, should_stop)
    for target, one in enumerate(chosen):
        model.keep(target, one.tuning, *solved[target])
    return chosen


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same bytes on any number of cores; and threads wait for each other longer than such small matrices take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Solution = tuple[torch.Tensor, torch.Tensor]


def _solved(
    train: Windows, held: Windows, grid: Grid, should_stop: ShouldStop
) -> tuple[list[Chosen], dict[int, Solution]]:
    """Each target's choice, its weights and intercepts."""
    masked = masked_targets(train, should_stop) | masked_targets(held, should_stop)
    means = scaled_means(train.dataset, train.targets)
    windows = {target: longest_window(train.window, masked=target in masked) for target in range(len(train.targets))}
    chosen, solved = list[Chosen](), dict[int, Solution]()
    for group in _groups(windows, masked):
        fitted, judged = ({target: _empty(windows[target], target in masked) for target in group} for _ in range(2))
        accumulate(train, fitted, means, should_stop)
        accumulate(held, judged, means, should_stop)
        for target in group:
            longest = windows[target].history
            found = choose(fitted[target], judged[target], grid.tunings(longest), should_stop)
            weight, bias = solve(fitted[target], found[0], train.window.horizon, should_stop)
            solved[target] = weight, bias + means[target] * (1 - weight.sum(0))
            chosen.append(Chosen(*found, longest))
    return chosen, solved


def _empty(window: Window, masked: bool) -> Equations:
    return Masked(window) if masked else Joint(window)


def equation_bytes(window: Window, *, masked: bool) -> int:
    """Bytes of one target's Gram matrices, for training and for validation."""
    return 16 * (window.horizon * window.history**2 if masked else window.length**2)


def longest_window(window: Window, *, masked: bool) -> Window:
    """The window, its history as long as its equations fit `EQUATION_BYTES`."""
    if equation_bytes(window, masked=masked) <= EQUATION_BYTES:
        return window
    most = math.isqrt(EQUATION_BYTES // (16 * window.horizon)) if masked else math.isqrt(EQUATION_BYTES // 16)
    return replace(window, history=max(1, most if masked else most - window.horizon))


def _groups(windows: dict[int, Window], masked: set[int]) -> Iterator[list[int]]:
    """Targets whose equations fit `EQUATION_BYTES` together: they share a pass over the data."""
    group, taken = list[int](), 0
    for target, window in windows.items():
        size = equation_bytes(window, masked=target in masked)
        if group and taken + size > EQUATION_BYTES:
            yield group
            group, taken = [], 0
        group, taken = [*group, target], taken + size
    yield group


def choose(
    fitted: Equations, held: Equations, tunings: Sequence[Tuning], should_stop: ShouldStop
) -> tuple[Tuning, dict[Tuning, float]]:
    """The setting with the lowest squared error on `held`, and the mean of each; the smallest penalty without any."""
    every = range(fitted.window.horizon)
    count = sum(part.count * len(part.steps) for part in held.systems(every))
    if not count:
        smallest = min(tuning.penalty for tuning in tunings)
        return next(tuning for tuning in tunings if tuning.penalty == smallest), {}
    errors = dict.fromkeys(tunings, 0.0)
    for system in fitted.systems(every):
        judges = list(held.systems(system.steps))
        for tuning, weight, bias in solutions(system, tunings, should_stop):
            for part in judges:
                own = slice(part.steps.start - system.steps.start, part.steps.stop - system.steps.start)
                errors[tuning] += part.squared_error(weight[:, own], bias[own])
    return min(errors, key=errors.__getitem__), {tuning: error / count for tuning, error in errors.items()}


def solve(fitted: Equations, tuning: Tuning, horizon: int, should_stop: ShouldStop) -> Solution:
    """Weights [h, P] and intercepts [P] of one tuning."""
    parts = [next(solutions(system, [tuning], should_stop)) for system in fitted.systems(range(horizon))]
    return torch.cat([weight for _, weight, _ in parts], dim=1), torch.cat([bias for *_, bias in parts])


def solutions(
    system: System, tunings: Iterable[Tuning], should_stop: ShouldStop
) -> Iterator[tuple[Tuning, torch.Tensor, torch.Tensor]]:
    """(tuning, weights [h, Q], intercepts [Q]) on windows as they are; asks before each.

    Subtracting r'x from a window, r being 1 at its last step or 1/h everywhere, makes x - 1 r'x of x and y - r'x of y.
    The penalty counts per window and not for the intercept.
    """
    made: tuple[int, str] | None = None
    for tuning in tunings:
        ask(should_stop)
        if made != (tuning.history, tuning.normalisation):
            made = (tuning.history, tuning.normalisation)
            reference = _reference(*made)
            gram, cross, total, level, floor = _relative(system, reference)
        penalty = tuning.penalty * max(system.count, 1.0) + floor
        full = gram.clone()
        full.diagonal().add_(penalty)
        weight = torch.cholesky_solve(cross, torch.linalg.cholesky(full))
        bias = (level - total @ weight) / max(system.count, 1.0)
        yield tuning, weight + reference[:, None] * (1 - weight.sum(0)) if reference.any() else weight, bias


def _reference(history: int, normalisation: str) -> torch.Tensor:
    reference = torch.zeros(history, dtype=torch.float64)
    if normalisation == "last":
        reference[-1] = 1.0
    elif normalisation == "mean":
        reference[:] = 1.0 / history
    return reference


def _relative(system: System, r: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(Gram and cross products about their means, sums of history and targets, least penalty) of x - 1 r'x, y - r'x."""
    history, count = len(r), max(system.count, 1.0)
    gram, total, cross = system.gram_HH[-history:, -history:], system.total_H[-history:], system.cross_HQ[-history:]
    level, trace = system.level_Q, gram.diagonal().sum()
    if r.any():
        pull = gram @ r
        cross = cross - pull[:, None]
        cross = cross - r @ cross
        gram = gram - pull[:, None] - pull + r @ pull
        level, total = level - r @ total, total - r @ total
    centred = gram - total[:, None] * (total / count)
    floor = LEAST_PENALTY * trace + (trace == 0)  # an all-zero history has no trace
    return centred, cross - total[:, None] * (level / count), total, level, floor
