"""Rivals that are linear maps from a model's inputs to its targets: ridge regression, and of categories logistic regression.

Where targets lie at the steps of their inputs (horizon 0) a row is a step, which counts once however many windows it lies
in. Where the history is an interval of time, or a target looks ahead, a row is a window: the inputs of its last records one
after the other, with a column for each that tells whether the record is there. A category is one column a code.

Legend: B windows, R rows (of a node each), K columns of the design with its constant, T numeric targets, C codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Window
from dateshard.trainer.data.window_chunks import WindowRuns, chunks, cut, windows_of

STEP = Window(1, 0)
MOST_CODES = 256  # of an input: one with more categories stands for nothing linear
MOST_ROWS = 200_000  # that logistic regression is fitted to, spread evenly over the training data
EQUATION_BYTES = 256 << 20  # of all targets of a window
HELD = (0.75, 0.25)  # of the training dates where there is no validation
ITERATIONS, TOLERANCE = 200, 1e-7


@dataclass(frozen=True, slots=True)
class Design:
    """Which columns the inputs become: numbers as they are, categories one column a code, and a constant."""

    inputs: tuple[int, ...]
    codes: tuple[int, ...]

    @staticmethod
    def of(dataset: Dataset, inputs: Sequence[int]) -> Design:
        """The design of some features; those with very many categories are left out."""
        names = [dataset.features[place].name if dataset.features[place].categorical else "" for place in inputs]
        codes = [len(dataset.vocabularies.names[name]) + 1 if name else 0 for name in names]
        kept = [(place, count) for place, count in zip(inputs, codes, strict=True) if count <= MOST_CODES]
        return Design(tuple(place for place, _ in kept), tuple(count for _, count in kept))

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        """Returns [..., K] float64 of values [..., F]."""
        parts = []
        for place, count in zip(self.inputs, self.codes, strict=True):
            column = values[..., place]
            wide = torch.nn.functional.one_hot(column.long(), count) if count else column[..., None]
            parts.append(wide.double())
        return torch.cat([*parts, torch.ones(*values.shape[:-1], 1, dtype=torch.float64)], dim=-1)


@dataclass(slots=True)
class _Moments:
    """Sums over the rows at which each target was observed: x'x [T, K, K], x'y [T, K], y'y [T], rows [T]."""

    gram: torch.Tensor
    cross: torch.Tensor
    square: torch.Tensor
    count: torch.Tensor

    @staticmethod
    def of(rows: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> _Moments | None:
        """Sums rows of (design [R, K], targets [R, T], whether those were observed [R, T]), a chunk at a time."""
        made: _Moments | None = None
        for x, y, seen in rows:
            weight = seen.double()
            weighted = x[None] * weight.T[..., None]
            new = _Moments(
                weighted.mT @ x,
                torch.einsum("trk,rt->tk", weighted, torch.where(seen, y.double(), 0.0)),
                (torch.where(seen, y.double(), 0.0) ** 2).sum(0),
                weight.sum(0),
            )
            made = new if made is None else made.plus(new)
        return made

    def plus(self, other: _Moments) -> _Moments:
        return _Moments(
            self.gram + other.gram, self.cross + other.cross, self.square + other.square, self.count + other.count
        )

    def solved(self, penalty: float) -> torch.Tensor:
        """Returns [T, K]: the coefficients of least squared error and penalty, which is a row's and spares the constant."""
        size = self.gram.shape[-1]
        rows = self.count.clamp(min=1)[:, None]
        diagonal = (penalty * rows).expand(-1, size).clone()
        diagonal[:, -1] = 0.0
        tiny = 1e-12 * self.gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).clamp(min=1e-300)
        solution: torch.Tensor = torch.linalg.solve(self.gram + torch.diag_embed(diagonal + tiny), self.cross)
        return solution

    def errors(self, solution: torch.Tensor) -> torch.Tensor:
        """Returns [T]: the mean squared errors of coefficients on these rows."""
        fitted = torch.einsum("tk,tkl,tl->t", solution, self.gram, solution)
        return (fitted - 2 * (solution * self.cross).sum(1) + self.square) / self.count.clamp(min=1)


def _rows(windows: WindowRuns) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields (values [R, F], observed [R, F]), a chunk of the dates at a time."""
    for values, seen, *_ in chunks(windows, masked=True):
        yield torch.from_numpy(values).flatten(0, 1), torch.from_numpy(seen).flatten(0, 1)


def _held_apart(dataset: Dataset, targets: Sequence[int]) -> tuple[WindowRuns, WindowRuns]:
    """The steps to fit to, and those to choose on: of the validation dates, else of the last quarter of training."""
    train, held = (windows_of(dataset, split, STEP, targets) for split in ("train", "validation"))
    if held.runs:
        return train, held
    first, last = cut(train, HELD)
    return first, last


def fit_ridge(
    dataset: Dataset, inputs: Sequence[int], targets: Sequence[int], penalties: Sequence[float]
) -> tuple[Callable[[Batch], torch.Tensor], list[float]]:
    """Fits ridge regressions of a step's targets on its inputs; returns (forecast [B, P, N, T], each target's penalty).

    Memory: T x K x K float64, and a chunk of the dates.
    """
    design, places = Design.of(dataset, inputs), list(targets)

    def rows(windows: WindowRuns) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for values, seen in _rows(windows):
            yield design.columns(values), values[:, places], seen[:, places]

    train, held = (_Moments.of(rows(windows)) for windows in _held_apart(dataset, targets))
    chosen, best = _best(train, held, penalties)

    def forecast(batch: Batch) -> torch.Tensor:
        return (design.columns(batch.history_BHNF) @ chosen).float()

    return forecast, best


def _best(
    train: _Moments | None, held: _Moments | None, penalties: Sequence[float]
) -> tuple[torch.Tensor, list[float]]:
    """Returns ([K, T] coefficients fitted to `train`, each target's penalty: that of least error on `held`)."""
    assert train is not None, "there are training windows"
    solutions = torch.stack([train.solved(penalty) for penalty in penalties])
    errors = torch.stack([(held or train).errors(solution) for solution in solutions])
    best = errors.argmin(0)
    chosen = solutions[best, torch.arange(solutions.shape[1])].mT.contiguous()
    return chosen, [penalties[place] for place in best.tolist()]


@dataclass(frozen=True, slots=True)
class WindowDesign:
    """The columns of a window: for each of its last `records` whether it is there, and its inputs; and a constant."""

    design: Design
    records: int

    @staticmethod
    def of(dataset: Dataset, inputs: Sequence[int], window: Window, num_targets: int) -> WindowDesign:
        """The design of as many records as the equations of all targets have room for."""
        design = Design.of(dataset, inputs)
        wide = sum(count or 1 for count in design.codes) + 1
        most = int((EQUATION_BYTES / 8 / num_targets) ** 0.5) // wide
        return WindowDesign(design, min(window.history, max(1, most)))

    def columns(self, batch: Batch) -> torch.Tensor:
        """Returns [B, N, K] float64 of a batch of all features."""
        history = batch.history_BHNF[:, -self.records :]
        there = torch.ones(history.shape[:-1], dtype=torch.bool)
        if batch.known_BHNF is not None:
            there = batch.known_BHNF[:, -self.records :].any(-1)
        parts = self.design.columns(history) * there[..., None]  # its constant becomes whether the record is there
        flat = parts.transpose(1, 2).flatten(2)
        return torch.cat([flat, torch.ones(*flat.shape[:-1], 1, dtype=torch.float64)], dim=-1)


def fit_window_ridge(
    design: WindowDesign, batches: Callable[[str], Iterator[Batch]], penalties: Sequence[float]
) -> tuple[Callable[[Batch], torch.Tensor], list[float]]:
    """Fits ridge regressions of all target steps on a window's inputs; returns (forecast [B, P, N, T], their penalties).

    Memory: `EQUATION_BYTES` a few times, and a batch.

    Args:
        batches: of the windows of `train`, and of those to choose on: all features as inputs, the numeric targets.
    """
    shape = tuple[int, ...]()

    def rows(split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        nonlocal shape
        for batch in batches(split):
            y = batch.target_BPNF.transpose(1, 2)
            seen = torch.ones_like(y, dtype=torch.bool)
            if batch.observed_BPNF is not None:
                seen = batch.observed_BPNF.transpose(1, 2)
            shape = tuple(y.shape[2:])
            yield design.columns(batch).flatten(0, 1), y.flatten(2).flatten(0, 1), seen.flatten(2).flatten(0, 1)

    train, held = (_Moments.of(rows(split)) for split in ("train", "held"))
    chosen, best = _best(train, held, penalties)

    def forecast(batch: Batch) -> torch.Tensor:
        out = (design.columns(batch) @ chosen).float()
        return out.reshape(*out.shape[:2], *shape).transpose(1, 2)

    return forecast, best


def fit_logistic(dataset: Dataset, inputs: Sequence[int], target: int) -> Callable[[Batch], torch.Tensor]:
    """Fits a multinomial logistic regression of a step's category on its inputs; gives logits [B, P, N, C].

    The penalty is half the squared coefficients for all rows together, as elsewhere by default; it spares the constant.

    Memory: MOST_ROWS rows of K float64.
    """
    design, num_codes = Design.of(dataset, inputs), len(dataset.vocabularies.names[dataset.features[target].name]) + 1
    x_RK, code_R = _sample(windows_of(dataset, "train", STEP, (target,)), design)
    there = torch.unique(code_R)  # what no row has, code 0 above all, is never guessed
    weights = torch.zeros(x_RK.shape[1], len(there), dtype=torch.float64, requires_grad=True)
    place_R = torch.searchsorted(there, code_R)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=ITERATIONS, tolerance_grad=TOLERANCE, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        error = torch.nn.functional.cross_entropy(x_RK @ weights, place_R)
        total: torch.Tensor = error + 0.5 * (weights[:-1] ** 2).sum() / max(len(x_RK), 1)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    fitted = weights.detach()

    def guess(batch: Batch) -> torch.Tensor:
        scores = design.columns(batch.history_BHNF) @ fitted
        logits = torch.full((*scores.shape[:-1], num_codes), float("-inf"))
        logits[..., there] = torch.log_softmax(scores, dim=-1).float()
        return logits

    return guess


def _sample(windows: WindowRuns, design: Design) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (design [R, K], codes [R]) of observed steps, spread evenly over the dates."""
    (target,) = windows.targets
    total = sum(run.count for run in windows.runs) * windows.dataset.manifest.num_nodes
    every, at = max(1, -(-total // MOST_ROWS)), 0
    taken = []
    for values, seen in _rows(windows):
        places = torch.arange(-at % every, len(values), every)
        at += len(values)
        places = places[seen[places, target] & (values[places, target] > 0.5)]
        taken.append((design.columns(values[places]), values[places, target].long()))
    return torch.cat([x for x, _ in taken]), torch.cat([codes for _, codes in taken])
