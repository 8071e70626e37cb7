"""Tuned ridge regression in closed form: the honest rival of every trained model.

One linear map a target feature from a node's own history to the horizon, pooled over nodes. How far back it looks, its
penalty, and what is subtracted from a window first (nothing, its newest observed value, its mean) are chosen for each
target by rolling validation: fitted on the first three quarters of the training windows each setting is judged on the
next eighth, fitted on seven eighths on the last one, fitted on all of them on the validation windows, which count as
much as both (docs/decisions/0049). All settings are solved from the same sums (`ridge_gram`): a shorter history is a
corner of the Gram matrix, and what is subtracted is a linear map of the window, so that trying a setting costs a solve
and no pass over the data. The chosen map stands in the weights as one for raw windows.

Legend: H history, h the history of a setting, j = h + 1 with the newest observed value last, P horizon, Fo target
features, Q target steps that share a Gram.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import nn

from dateshard.trainer.data.order import Window
from dateshard.trainer.data.window_chunks import WindowRuns, cut, masked_targets
from dateshard.trainer.models.naive import newest
from dateshard.trainer.models.ridge_gram import Equations, Joint, Masked, System, accumulate, scaled_means
from dateshard.trainer.stop import ShouldStop, ask

EQUATION_BYTES = 1 << 30  # of Gram matrices at a time
NORMALISATIONS = ("none", "last", "mean")
LAST = NORMALISATIONS.index("last")
LEAST_PENALTY = 1e-12  # of the Gram's trace: what rounding can make of a singular matrix
PIECES = (0.75, 0.125, 0.125)  # of the training windows; each after the first judges what those before it gave
LEAST_ERROR = 1e-300  # of a logarithm: what rounding leaves of no error at all
VALIDATION_WEIGHT = 2  # of the validation windows beside such a piece: the newest dates are nearest to what comes


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
        wanted = self.histories or [max(1, longest // divisor) for divisor in (1, 2, 4, 8)]
        return sorted({min(history, longest) for history in wanted}, reverse=True)

    def tunings(self, longest: int) -> list[Tuning]:
        """All settings, in the order in which the first of equal ones wins."""
        kinds, penalties = dict.fromkeys(self.normalisations), dict.fromkeys(self.penalties)
        return [Tuning(*chosen) for chosen in product(self.lengths(longest), kinds, penalties)]


@dataclass(frozen=True, slots=True)
class Chosen:
    """One target's tuning.

    Attributes:
        scores: of each setting that was tried the mean logarithm of its squared errors; empty where no piece had an
            observed target to judge by: then it is the first history and normalisation with the smallest penalty.
        errors: {train | validation: (sum of its squared errors, observed targets)}.
        longest: the longest history whose equations fit `EQUATION_BYTES`.
    """

    tuning: Tuning
    scores: dict[Tuning, float]
    errors: dict[str, tuple[float, float]]
    longest: int


class Ridge(nn.Module):
    """Maps history [B, H, N, Fi] to [B, P, N, Fo]; all it knows are buffers: nothing is left to a gradient.

    Weights of steps beyond a target's chosen history are 0; the last of the H + 1 is the intercept. Where a window's
    newest observed value is subtracted, it is added again with what the weights lack to a sum of 1. In older
    checkpoints they lack nothing: the last step's weight holds it.
    """

    uses_codes = False
    uses_known = True
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

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None = None,
        known_BHNF: torch.Tensor | None = None,
    ) -> torch.Tensor:
        own = history_BHNF[..., self.targets].to(self.weight.dtype)
        out = torch.einsum("bhnf,fhp->bpnf", own, self.weight[:, :-1]) + self.weight[:, -1].T[None, :, None, :]
        known = None if known_BHNF is None else known_BHNF[..., self.targets]
        lacking_FP = (1 - self.weight[:, :-1].sum(1)) * (self.normalisation == LAST)[:, None]
        out = out + newest(own, known, 1, 1, own[:, -1:]) * lacking_FP.T[None, :, None, :]
        return out.to(history_BHNF.dtype)

    def tunings(self) -> list[Tuning]:
        """Each target's setting, as a checkpoint holds it."""
        columns = zip(self.history.tolist(), self.normalisation.tolist(), self.penalty.tolist(), strict=True)
        return [Tuning(history, NORMALISATIONS[kind], penalty) for history, kind, penalty in columns]

    def keep(self, target: int, tuning: Tuning, weight_jP: torch.Tensor, bias_P: torch.Tensor) -> None:
        """Takes over one target's solution."""
        self.weight[target] = 0.0
        self.weight[target, -1 - tuning.history : -1] = weight_jP[:-1]
        self.weight[target, -1] = bias_P
        self.history[target], self.penalty[target] = tuning.history, tuning.penalty
        self.normalisation[target] = NORMALISATIONS.index(tuning.normalisation)


def tuning_notes(names: Sequence[str], tunings: Sequence[Tuning]) -> list[str]:
    """One line a tuning with the targets that it was chosen for."""
    by_tuning: dict[Tuning, list[str]] = {}
    for name, tuning in zip(names, tunings, strict=True):
        by_tuning.setdefault(tuning, []).append(name)
    return [f"{', '.join(same)}: {tuning}" for tuning, same in by_tuning.items()]


def fit(
    models: Sequence[Ridge], train: WindowRuns, held: WindowRuns, grids: Sequence[Grid], should_stop: ShouldStop
) -> list[list[Chosen]]:
    """Fits each model on `train` as is best of its grid, all from the same sums; returns the choice for each target.

    A group of targets at a time, on one thread. Memory: twice Gram matrices of together at most `EQUATION_BYTES` (a
    history whose matrices alone are larger is cut to fit), what `accumulate` takes, and a few of one history.

    Raises:
        Interrupted: `should_stop()`; the models are as they were.
    """
    with _one_thread():
        solved = _solved(train, held, grids, should_stop)
    for model, own in zip(models, solved, strict=True):
        for target, (choice, weight, bias) in enumerate(own):
            model.keep(target, choice.tuning, weight, bias)
    return [[choice for choice, *_ in own] for own in solved]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one thread: the same bytes on any number of cores, and no waiting of threads for such small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Solution = tuple[torch.Tensor, torch.Tensor]
Solved = tuple[Chosen, torch.Tensor, torch.Tensor]  # (choice, weights [j, P], intercepts [P])


def _solved(train: WindowRuns, held: WindowRuns, grids: Sequence[Grid], should_stop: ShouldStop) -> list[list[Solved]]:
    """What each grid chose for each target."""
    masked = masked_targets(train, should_stop) | masked_targets(held, should_stop)
    means = scaled_means(train.dataset, train.targets)
    windows = {target: longest_window(train.window, masked=target in masked) for target in range(len(train.targets))}
    solved = [list[Solved]() for _ in grids]
    for group in _groups(windows, masked):
        judging = {target: Judging(_tunings(grids, windows[target].history)) for target in group}
        fitted = {target: _empty(windows[target], target in masked) for target in group}
        for piece in [*cut(train, PIECES), held]:
            fresh = {target: _empty(windows[target], target in masked) for target in group}
            accumulate(piece, fresh, means, should_stop)
            for target in group:
                share = VALIDATION_WEIGHT if piece is held else 1
                judging[target].add(fitted[target], fresh[target], share, should_stop)
                if piece is not held:
                    fitted[target].merge(fresh[target])
        for target in group:
            for own, grid in zip(solved, grids, strict=True):
                tuning, scores = judging[target].best(grid.tunings(windows[target].history))
                weight, bias = solve(fitted[target], tuning, train.window.horizon, should_stop)
                errors = {
                    "train": error_of(fitted[target], weight, bias),
                    "validation": error_of(fresh[target], weight, bias),
                }
                chosen = Chosen(tuning, scores, errors, windows[target].history)
                own.append((chosen, weight, bias + means[target] * (1 - weight.sum(0))))
    return solved


def _tunings(grids: Sequence[Grid], longest: int) -> list[Tuning]:
    """All settings of all grids, each once."""
    return list(dict.fromkeys(tuning for grid in grids for tuning in grid.tunings(longest)))


@dataclass(slots=True)
class Judging:
    """How well each setting forecast windows that it was not fitted on: weighted sums of logarithms of its errors.

    Logarithms, so that dates of large errors do not outvote the others.
    """

    tunings: Sequence[Tuning]
    sums: dict[Tuning, float] = field(default_factory=dict)
    weight: float = 0.0

    def add(self, fitted: Equations, held: Equations, weight: float, should_stop: ShouldStop) -> None:
        """Judges on `held` what `fitted` gives; nothing where one of them has no observed target."""
        every = range(fitted.window.horizon)
        count = sum(judge.count * len(judge.steps) for judge in held.systems(every))
        if not count or not any(judge.count for judge in fitted.systems(every)):
            return
        errors = dict.fromkeys(self.tunings, 0.0)
        for system in fitted.systems(every):
            judges = list(held.systems(system.steps))
            for tuning, weights, bias in solutions(system, self.tunings, should_stop):
                for judge in judges:
                    own = slice(judge.steps.start - system.steps.start, judge.steps.stop - system.steps.start)
                    errors[tuning] += judge.squared_error(weights[:, own], bias[own])
        for tuning, error in errors.items():
            self.sums[tuning] = self.sums.get(tuning, 0.0) + weight * math.log(max(error / count, LEAST_ERROR))
        self.weight += weight

    def best(self, tunings: Sequence[Tuning]) -> tuple[Tuning, dict[Tuning, float]]:
        """Returns (setting of the lowest score, all scores); the first with the smallest penalty where nothing judged."""
        if not self.weight:
            smallest = min(tuning.penalty for tuning in tunings)
            return next(tuning for tuning in tunings if tuning.penalty == smallest), {}
        scores = {tuning: self.sums[tuning] / self.weight for tuning in tunings}
        return min(scores, key=scores.__getitem__), scores


def error_of(equations: Equations, weight_jP: torch.Tensor, bias_P: torch.Tensor) -> tuple[float, float]:
    """Returns (sum of squared errors, observed targets) of a solution on the windows of some equations."""
    total = count = 0.0
    for system in equations.systems(range(equations.window.horizon)):
        own = slice(system.steps.start, system.steps.stop)
        total += system.squared_error(weight_jP[:, own], bias_P[own])
        count += system.count * len(system.steps)
    return total, count


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


def solve(fitted: Equations, tuning: Tuning, horizon: int, should_stop: ShouldStop) -> Solution:
    """Weights [j, P] and intercepts [P] of one tuning."""
    parts = [next(solutions(system, [tuning], should_stop)) for system in fitted.systems(range(horizon))]
    return torch.cat([weight for _, weight, _ in parts], dim=1), torch.cat([bias for *_, bias in parts])


def solutions(
    system: System, tunings: Iterable[Tuning], should_stop: ShouldStop
) -> Iterator[tuple[Tuning, torch.Tensor, torch.Tensor]]:
    """Yields (tuning, weights [j, Q], intercepts [Q]) on windows as they are; asks before each.

    Subtracting r'x from a window, r being 1 at its newest observed value or 1/h at every step, makes x - 1 r'x of x and
    y - r'x of y. The penalty counts per window and not for the intercept.
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
        weight = torch.cat([weight, torch.zeros_like(weight[:1])])
        yield tuning, weight + reference[:, None] * (1 - weight.sum(0)) if reference.any() else weight, bias


def _reference(history: int, normalisation: str) -> torch.Tensor:
    """Returns r [j] of what is subtracted from a window."""
    reference = torch.zeros(history + 1, dtype=torch.float64)
    if normalisation == "last":
        reference[-1] = 1.0
    elif normalisation == "mean":
        reference[:-1] = 1.0 / history
    return reference


def _relative(system: System, r: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns the products of x - 1 r'x and y - r'x.

    They are (Gram and cross products about their means, sums of history and targets, least penalty), of the h steps
    alone, for the newest value is no input of its own."""
    size, count = len(r), max(system.count, 1.0)
    gram, total, cross = system.gram_JJ[-size:, -size:], system.total_J[-size:], system.cross_JQ[-size:]
    level, trace = system.level_Q, gram.diagonal()[:-1].sum()
    if r.any():
        pull = gram @ r
        cross = cross - pull[:, None]
        cross = cross - r @ cross
        gram = gram - pull[:, None] - pull + r @ pull
        level, total = level - r @ total, total - r @ total
    gram, total, cross = gram[:-1, :-1], total[:-1], cross[:-1]
    centred = gram - total[:, None] * (total / count)
    floor = LEAST_PENALTY * trace + (trace == 0)  # an all-zero history has no trace
    return centred, cross - total[:, None] * (level / count), total, level, floor
