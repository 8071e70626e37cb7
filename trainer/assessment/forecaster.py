"""A checkpoint's model asked for a forecast: of one encoded window, or of a reader's batches. Nothing is trained.

Legend: B batch, H history, W window steps, P target steps, N nodes, F all features, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment.quantiles import RawQuantiles
from dateshard.trainer.bounds import clamped, points_within
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Window
from dateshard.trainer.devices import device as devices
from dateshard.trainer.models import build
from dateshard.trainer.models.own import refuse_unfit
from dateshard.trainer.optimization.objective import Head, Target, make_heads, outputs
from dateshard.trainer.setup import Selected, choose_columns, shape_of, target_of, window_of

Forecast = Callable[[Batch], Mapping[str, torch.Tensor]]  # -> {head: [B, P, N, C]}, all channels of the head
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecaster:
    """A model with all that its inputs and outputs mean.

    Attributes:
        model: in evaluation mode; takes its own inputs and history alone.
        forecast: takes batches of all features; they may hold more history than the model looks at.
        quantiles: reads quantiles out of what `forecast` gives.
    """

    config: Trainer
    dataset: Dataset
    columns: Selected
    window: Window
    heads: tuple[Head, ...]
    targets: tuple[Target, ...]
    model: nn.Module
    forecast: Forecast
    quantiles: RawQuantiles

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numeric targets as places among the targets, in the order in which `numeric` gives them."""
        return tuple(place for head in self.heads if head.loss != "cross_entropy" for place in head.targets)

    @property
    def categorical(self) -> tuple[Head, ...]:
        """Heads of one categorical target each."""
        return tuple(head for head in self.heads if head.loss == "cross_entropy")

    def numeric(self, predicted: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns [B, P, N, numbers] scaled, of what `forecast` gave."""
        points = points_within(predicted, self.heads, self.quantiles.bounds_2NF)
        return torch.cat([points[head.name] for head in self.heads if head.loss != "cross_entropy"], dim=-1)

    def of_window(
        self,
        values_HNF: NDArray[np.float32],
        codes_W: NDArray[np.int32],
        known_HNF: NDArray[np.bool_] | None = None,
        future_PNF: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32] | None, dict[str, Floats]]:
        """One window's forecast, as `of_windows` gives it of many."""
        known = None if known_HNF is None else known_HNF[None]
        future = None if future_PNF is None else future_PNF[None]
        scaled, chances = self.of_windows(values_HNF[None], codes_W[None], known, future)
        return None if scaled is None else scaled[0], {name: shares[0] for name, shares in chances.items()}

    def of_windows(
        self,
        values_BHNF: NDArray[np.float32],
        codes_BW: NDArray[np.int32],
        known_BHNF: NDArray[np.bool_] | None,
        future_BPNF: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32] | None, dict[str, Floats]]:
        """Returns ([B, P, N, numbers] scaled, {categorical target: [B, P, N, categories] probabilities}).

        A probability is among the categories that training saw; a code that none of them has is no forecast. The
        arguments are those of `outputs_of`.
        """
        outputs = self.outputs_of(values_BHNF, codes_BW, known_BHNF, future_BPNF)
        return self.numbers_in(outputs), self.chances(outputs)

    @torch.no_grad()
    def outputs_of(
        self,
        values_BHNF: NDArray[np.float32],
        codes_BW: NDArray[np.int32],
        known_BHNF: NDArray[np.bool_] | None,
        future_BPNF: NDArray[np.float32] | None = None,
    ) -> Mapping[str, torch.Tensor]:
        """Asks the model for windows, and returns all its outputs by head.

        Args:
            codes_BW: time codes of the history and of what is forecast. known_BHNF: which of the values were observed.
            future_BPNF: what is known of the target steps, where something is.
        """
        history, codes = (torch.from_numpy(np.ascontiguousarray(array)) for array in (values_BHNF, codes_BW))
        return self.forecast(
            Batch(
                history_BHNF=history,
                target_BPNF=history[:, :0],
                observed_BPNF=None,
                codes_BW=codes,
                known_BHNF=None if known_BHNF is None else torch.from_numpy(np.ascontiguousarray(known_BHNF)),
                future_BPNF=None if future_BPNF is None else torch.from_numpy(np.ascontiguousarray(future_BPNF)),
            )
        )

    def numbers_in(self, outputs: Mapping[str, torch.Tensor]) -> NDArray[np.float32] | None:
        """Returns [..., P, N, numbers] scaled; None without a numeric target."""
        return self.numeric(outputs).numpy() if self.numbers else None

    def quantiles_in(self, outputs: Mapping[str, torch.Tensor]) -> NDArray[np.float32] | None:
        """Returns [..., P, N, numbers, Q] scaled, of the levels of `quantiles`; None where no loss knows any."""
        levels = self.quantiles.levels
        return self.quantiles.scaled(outputs, levels).numpy() if levels else None

    def chances(self, predicted: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
        """Returns {categorical target: [B, P, N, categories] probabilities}, of what `forecast` gave."""
        shares = {head: predicted[head.name][..., 1:].double().softmax(-1).numpy() for head in self.categorical}
        return {self.targets[head.targets[0]].name: share for head, share in shares.items()}


def load_forecaster(config: Trainer, dataset: Dataset, saved: checkpoint.Checkpoint) -> Forecaster:
    """The model of a checkpoint; every byte of its weights is verified before it is used.

    Memory: the checkpoint's tensors, and the model.

    Args:
        dataset: of the generation that it was trained on.

    Raises:
        DamagedError: naming the checkpoint's file. UsageError: the configuration does not fit the dataset.
    """
    columns, window = choose_columns(config, dataset), window_of(config)
    targets = tuple(target_of(dataset, place) for place in columns.targets)
    heads = make_heads(config.training, targets)
    shape = shape_of(dataset, columns, heads, window)
    model = build(shape, config.model)
    refuse_unfit(model, shape, config.model.name)  # a lazy one has no parameters before
    groups = checkpoint.read_files(saved)
    checkpoint.refuse_unfit(saved, groups, "model", model.state_dict())
    model.load_state_dict(groups["model"], strict=True)
    model.to(devices.choose(config.training.device))
    numbers = [columns.targets[place] for head in heads if head.loss != "cross_entropy" for place in head.targets]
    quantiles = RawQuantiles.of(config, dataset, heads, numbers)
    forecast = bounded(of_model(model, heads, columns.inputs, window), heads, quantiles.bounds_2NF)
    return Forecaster(
        config=config,
        dataset=dataset,
        columns=columns,
        window=window,
        heads=heads,
        targets=targets,
        model=model,
        forecast=forecast,
        quantiles=quantiles,
    )


def bounded(forecast: Forecast, heads: Sequence[Head], bounds_2NF: torch.Tensor | None) -> Forecast:
    """Returns a forecaster whose numbers are clamped to their bounds."""
    return forecast if bounds_2NF is None else lambda batch: clamped(forecast(batch), heads, bounds_2NF)


def of_model(model: nn.Module, heads: Sequence[Head], inputs: Sequence[int], window: Window) -> Forecast:
    """The model with its own inputs and history, and codes if it asks for them, out of a batch that may hold more."""
    history, length, chosen = window.history, window.length, list(inputs)
    uses_codes, uses_known = (bool(getattr(model, f"uses_{what}", False)) for what in ("codes", "known"))
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    model.eval()

    def own_inputs(whole_BHNF: torch.Tensor) -> torch.Tensor:
        own_BHNF = whole_BHNF[:, -history:]
        every = chosen == list(range(own_BHNF.shape[-1]))
        return own_BHNF.contiguous() if every else own_BHNF[..., chosen]  # the same, in a fifth of an ms less

    def forecast(batch: Batch) -> dict[str, torch.Tensor]:
        codes = batch.codes_BW[:, -length:] if batch.codes_BW is not None and uses_codes else None
        known = own_inputs(batch.known_BHNF) if batch.known_BHNF is not None and uses_known else None
        own = Batch(
            history_BHNF=own_inputs(batch.history_BHNF),
            target_BPNF=batch.target_BPNF,
            observed_BPNF=None,
            codes_BW=codes,
            known_BHNF=known,
            future_BPNF=batch.future_BPNF,
        )
        out = outputs(model, own.changed(lambda tensor: tensor.to(device)), heads)
        return {name: tensor.cpu() for name, tensor in out.items()}

    return forecast
