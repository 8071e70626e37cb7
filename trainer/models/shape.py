"""What a model must fit: the face of the data that every family and every model of one's own is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from dateshard.shardstore.frozen.edges import EdgeList
from dateshard.shardstore.frozen.static_columns import StaticColumn
from dateshard.trainer.data.order import Window


@dataclass(frozen=True, slots=True)
class Static:
    """One static column of the nodes, as a model gets it.

    Attributes:
        values_N: float32 numbers, scaled over the nodes of training, 0 where one is missing; or int64 codes.
        observed_N: bool, which values there are.
        codes: how many codes there are, code 0 (unseen or missing) included; 0: numbers.
        complete: no node of training lacks its value.
    """

    values_N: torch.Tensor
    observed_N: torch.Tensor
    codes: int
    complete: bool

    @staticmethod
    def of(column: StaticColumn) -> Static:
        """The column as tensors; they share its memory."""
        codes = len(column.categories) + 1 if column.categories else 0
        return Static(
            torch.from_numpy(column.values_N), torch.from_numpy(column.observed_N), codes, complete=column.complete
        )


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges between nodes: [2, E] int64 places of from and to, sorted, and [E] float32 weights."""

    index_2E: torch.Tensor
    weights_E: torch.Tensor

    @staticmethod
    def of(edges: EdgeList) -> Edges:
        """The edges as tensors; they share the arrays' memory."""
        return Edges(torch.from_numpy(edges.index_2E), torch.from_numpy(edges.weights_E))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a model must fit.

    Attributes:
        num_known_nodes: so many nodes are known from training; those behind them came later, and all of them may be unknown
            to a model that is trained with `nodes.unknown: keep`. None: every node is known.
        num_outputs: channels of the forecast: of each target in turn what its loss needs, as one a number, a class of a
            categorical target, or a level of quantiles.
        targets_in_inputs: each target's place among the inputs, or -1.
        steps_per_day: of the time codes.
        input_codes: of each input how many codes it has, code 0 (unseen or missing) included; 0: a number. Empty: all
            are numbers.
        target_codes: likewise of each target; a categorical one has as many channels.
        target_channels: how many channels each target has, and how many of them, the first ones, are values of it in
            scaled units; empty: one a number, one a class.
        future_codes: likewise of each feature that is known ahead; empty: nothing is.
        columns: of a table, how many of the inputs each column is: 1, or the width of a category's embedding. Empty: the
            data are no table.
        static: {name: a static column of the node table}; empty where none is named.
        edges: between the nodes, for models of one's own; None where no file of them is named.
        heads: {name of a loss: its channels among `num_outputs`}, for a model that returns a tensor a head.
    """

    window: Window
    num_nodes: int
    num_inputs: int
    num_outputs: int
    targets_in_inputs: tuple[int, ...]
    steps_per_day: int
    input_codes: tuple[int, ...] = ()
    target_codes: tuple[int, ...] = ()
    target_channels: tuple[tuple[int, int], ...] = ()
    future_codes: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    num_known_nodes: int | None = None
    static: Mapping[str, Static] = field(default_factory=dict, compare=False)
    edges: Edges | None = field(default=None, compare=False)

    @property
    def numeric(self) -> bool:
        """Whether every target is a number."""
        return not any(self.target_codes)

    @property
    def categorical_inputs(self) -> dict[int, int]:
        """Returns {place among the inputs: number of codes}."""
        return {place: codes for place, codes in enumerate(self.input_codes) if codes}

    @property
    def outputs_in_inputs(self) -> tuple[int, ...]:
        """Returns for each output channel the input that it continues; -1: a class, or a target that is no input."""
        inputs: list[int] = []
        for place, (count, values) in zip(self.targets_in_inputs, self.channels, strict=True):
            inputs += [place] * values + [-1] * (count - values)
        return tuple(inputs)

    @property
    def channels(self) -> tuple[tuple[int, int], ...]:
        """Returns of each target (how many channels it has, how many of them are values of it in scaled units)."""
        codes = self.target_codes or (0,) * len(self.targets_in_inputs)
        return self.target_channels or tuple((number, 0) if number else (1, 1) for number in codes)

    def with_observed(self) -> Shape:
        """The shape with a number more for each input: whether its cell was observed."""
        count = self.num_inputs
        codes = (*self.input_codes, *(0,) * count) if self.input_codes else ()
        columns = (*self.columns, *(1,) * count) if self.columns else ()
        return replace(self, num_inputs=2 * count, input_codes=codes, columns=columns)

    def with_inputs(self, places: tuple[int, ...], num_inputs: int, columns: tuple[int, ...] = ()) -> Shape:
        """The shape behind a change of the inputs: `places` of the old ones come first, and all are numbers."""
        moved = tuple(places.index(place) if place in places else -1 for place in self.targets_in_inputs)
        return replace(self, num_inputs=num_inputs, targets_in_inputs=moved, input_codes=(), columns=columns)
