"""What is minimised: one or several named losses, each of some targets (a head) and with a weight.

Every loss returns (sum over the observed elements, how many there are), so that batches, accumulated steps and ranks
add up: a step minimises

    sum over heads of weight x sum / planned   x   (planned of all heads / observed of all heads)

where `planned` counts the elements that the step's windows have if nothing is missing. With one head that is its mean
over the observed elements. With several, every observed element of a head weighs the same as one of another head of
the same size.

A head's channels are what its loss needs: one a number, one a class, one a level of `quantile`, one or two a count.
`points` says what of them is the forecast.

Legend: B batch, P target steps, N nodes, F targets of a head, C channels of a model's output, Q levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from dateshard.shardstore.errors import UsageError, of_memory
from dateshard.shardstore.own_code.user_code import describe_error, load
from dateshard.trainer.config import HeadConfig, Training, is_own, mismatch
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.optimization.count_likelihood import COUNTS, CountForecast, CountScale
from dateshard.trainer.optimization.own_loss import OwnLoss, Weights, losses_of, weighed, weights_of
from dateshard.trainer.optimization.quantile_loss import between, nearest_to_median, pinball, sorted_quantiles

Output = torch.Tensor | Mapping[str, torch.Tensor]  # of a model: all channels, or a tensor a head
Summed = tuple[torch.Tensor, torch.Tensor | float]  # (sum, count)
DROP = "Set trainer.training.drop_last: true, or another batch_size, if a batch of one is too few for it"


@dataclass(frozen=True, slots=True)
class Target:
    """One target: its name and its categories in the order of their codes (code 0: unseen or none); none: a number.

    `scale`: of a number, where a loss may ask for its raw values.
    """

    name: str
    categories: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    scale: CountScale | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One named loss.

    Attributes:
        targets: places among the batch's targets. channels: in the model's one tensor, in the order of the targets.
        class_weights: of each code, for cross_entropy; empty: all 1.
        quantiles: levels, in rising order: those that `quantile` has a channel of each target for, or that are asked of
            the distributions of counts.
        scales: of the targets, where the loss is of counts.
        own: the function that a loss of one's own names. weights: of the targets, and of the target steps.
    """

    name: str
    loss: str
    weight: float
    targets: tuple[int, ...]
    channels: tuple[int, ...]
    huber_delta: float = 1.0
    class_weights: tuple[float, ...] = ()
    quantiles: tuple[float, ...] = ()
    scales: tuple[CountScale, ...] = ()
    own: OwnLoss | None = None
    weights: Weights = ((), ())

    @property
    def values_a_target(self) -> int:
        """How many of a target's channels, the first ones, are values of it in scaled units: none where they are classes."""
        return {"cross_entropy": 0, "quantile": len(self.quantiles)}.get(self.loss, 1)

    def points(self, outputs_BPNC: torch.Tensor) -> torch.Tensor:
        """Returns the forecast [B, P, N, F], scaled, that the channels hold; of a category its logits, as they are."""
        if self.loss in COUNTS:
            return CountForecast.of(outputs_BPNC, self.loss, self.scales).means(self.scales)
        if self.loss != "quantile":
            return outputs_BPNC
        return sorted_quantiles(outputs_BPNC, len(self.quantiles))[..., nearest_to_median(self.quantiles)]

    def quantiles_at(self, outputs_BPNC: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
        """Returns [B, P, N, F, Q] scaled, never falling with the level; NaN where the loss learns no such quantile."""
        if self.loss == "quantile":
            return between(sorted_quantiles(outputs_BPNC, len(self.quantiles)), self.quantiles, levels)
        if self.loss in COUNTS:
            return CountForecast.of(outputs_BPNC, self.loss, self.scales).quantiles(levels, self.scales)
        return outputs_BPNC.new_full((*outputs_BPNC.shape[:-1], len(self.targets), len(levels)), torch.nan)

    def sums(self, forecast_BPNC: torch.Tensor, batch: Batch) -> Summed:
        """Returns (sum of the losses over the observed targets, their count or weight)."""
        losses_BPNF, counted = self.elements(forecast_BPNC, batch)
        if self.loss == "cross_entropy":
            assert counted is not None, "classes always have weights"
            return losses_BPNF.sum(), counted.sum()
        return _summed(losses_BPNF, counted)

    def elements(self, forecast_BPNC: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the loss of each target [B, P, N, F], and what it counts: observed or not, of classes a weight.

        None: all count as 1. A number that is not observed has a loss too, which does not count.
        """
        target = _chosen(batch.target_BPNF, self.targets)
        observed = None if batch.observed_BPNF is None else _chosen(batch.observed_BPNF, self.targets)
        if self.loss == "cross_entropy":
            return cross_entropy(forecast_BPNC, target[..., 0], observed, self.class_weights, self.weights)
        return weighed(self._losses(forecast_BPNC, target, observed), self.weights), observed

    def _losses(
        self, forecast_BPNC: torch.Tensor, target_BPNF: torch.Tensor, observed_BPNF: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns the loss of each element of numeric targets, [B, P, N, F]."""
        if self.own is not None:
            given = (forecast_BPNC, target_BPNF, observed_BPNF)
            return losses_of(self.own, self.loss, given, weighed=any(self.weights))
        if self.loss == "quantile":
            return pinball(sorted_quantiles(forecast_BPNC, len(self.quantiles)), target_BPNF, self.quantiles)
        if self.loss in COUNTS:
            counts = CountForecast.of(forecast_BPNC, self.loss, self.scales)
            return counts.negative_log_likelihood(target_BPNF, self.scales).float()
        return ELEMENTWISE[self.loss](forecast_BPNC, target_BPNF, self.huber_delta)


def _chosen(values_BPNF: torch.Tensor, places: tuple[int, ...]) -> torch.Tensor:
    """Selects targets or channels, in this order; a view where they are all of them."""
    return values_BPNF if places == tuple(range(values_BPNF.shape[-1])) else values_BPNF[..., list(places)]


def squared_error(forecast: torch.Tensor, target: torch.Tensor, _delta: float = 1.0) -> torch.Tensor:
    """Returns the squared error of each element."""
    error = forecast - target
    return error * error


def absolute_error(forecast: torch.Tensor, target: torch.Tensor, _delta: float = 1.0) -> torch.Tensor:
    """Returns the absolute error of each element."""
    return (forecast - target).abs()


def huber_error(forecast: torch.Tensor, target: torch.Tensor, delta: float = 1.0) -> torch.Tensor:
    """Elementwise: half the square up to delta, linear beyond (Huber, 1964)."""
    return functional.huber_loss(forecast, target, reduction="none", delta=delta)


DISTRIBUTIONAL = ("quantile", *COUNTS)  # losses whose channels say more than a forecast
ELEMENTWISE = {"mse": squared_error, "mae": absolute_error, "huber": huber_error}


def _summed(losses: torch.Tensor, observed: torch.Tensor | None) -> Summed:
    if observed is None:
        return losses.sum(), float(losses.numel())
    return torch.where(observed, losses, 0).sum(), observed.sum()


def cross_entropy(
    logits_BPNC: torch.Tensor,
    codes_BPN: torch.Tensor,
    observed: torch.Tensor | None,
    class_weights: Sequence[float] = (),
    cell_weights: Weights = ((), ()),
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross entropy of one categorical target; code 0 (unseen, or none) never counts.

    Returns:
        [B, P, N, 1] weight x -log p, and the weights of the classes.
    """
    codes = codes_BPN.long()
    seen = codes > 0 if observed is None else (codes > 0) & observed[..., 0]
    losses = functional.cross_entropy(
        logits_BPNC.reshape(-1, logits_BPNC.shape[-1]), codes.reshape(-1), reduction="none"
    )
    weights = seen.to(losses.dtype)
    if class_weights:
        weights = weights * torch.tensor(class_weights, dtype=losses.dtype, device=losses.device)[codes]
    losses = weighed(losses.view(codes.shape)[..., None], cell_weights)[..., 0]
    return (torch.where(seen, losses, 0) * weights)[..., None], weights[..., None]


def make_heads(training: Training, targets: Sequence[Target]) -> tuple[Head, ...]:
    """The heads of a configuration, for these targets.

    Raises:
        UsageError: a target without a head or in two, a loss that does not fit its target, an unknown category.
    """
    if training.losses is not None:
        configs = training.losses
    else:
        kinds = {target.name: _fitting(training, target) for target in targets}
        groups: dict[str, list[str]] = {}
        for name, (_, key) in kinds.items():
            groups.setdefault(key, []).append(name)
        configs = {
            key: HeadConfig(
                loss=kinds[names[0]][0],
                targets=tuple(names),
                huber_delta=training.huber_delta,
                quantiles=training.quantiles,
                class_weights=training.class_weights if kinds[names[0]][0] == "cross_entropy" else None,
            )
            for key, names in groups.items()
        }
    _refuse_uncovered(configs, targets)
    loss_of = {target: config for config in configs.values() for target in config.targets}
    counts = [_channels(loss_of[target.name], target) for target in targets]
    heads = [_head(name, config, targets, counts) for name, config in configs.items()]
    names = [target.name for target in targets]
    return tuple(replace(head, weights=weights_of(training.weights, names, head.targets)) for head in heads)


def _channels(config: HeadConfig, target: Target) -> int:
    """How many output channels a target needs: one for a number, a class (code 0 included) or a level."""
    if config.loss in DISTRIBUTIONAL:
        return COUNTS.get(config.loss, len(config.quantiles))
    return len(target.categories) + 1 if target.categories else 1


def _fitting(training: Training, target: Target) -> tuple[str, str]:
    """Returns (loss, name of its head): numbers share one head, every categorical target has its own."""
    loss = training.loss
    if loss == "auto":
        loss = "cross_entropy" if target.categories else "mse"
    return loss, target.name if loss == "cross_entropy" else loss


def _refuse_uncovered(configs: Mapping[str, HeadConfig], targets: Sequence[Target]) -> None:
    if what := mismatch(configs, [target.name for target in targets]):
        raise UsageError(what, todo="Correct trainer.training.losses")


def _head(name: str, config: HeadConfig, targets: Sequence[Target], counts: Sequence[int]) -> Head:
    names = [target.name for target in targets]
    places = tuple(names.index(target) for target in config.targets)
    channels = tuple(sum(counts[:place]) + k for place in places for k in range(counts[place]))
    for place in places:
        _refuse_unfit(name, config, targets[place])
    weights = _class_weights(config, targets[places[0]]) if config.loss == "cross_entropy" else ()
    return Head(
        name=name,
        loss=config.loss,
        weight=config.weight,
        targets=places,
        channels=channels,
        huber_delta=config.huber_delta,
        class_weights=weights,
        quantiles=config.quantiles if config.loss in DISTRIBUTIONAL else (),
        own=load(config.loss, "trainer.training.loss") if is_own(config.loss) else None,
        scales=tuple(scale for place in places if (scale := targets[place].scale)) if config.loss in COUNTS else (),
    )


def _refuse_unfit(name: str, config: HeadConfig, target: Target) -> None:
    if config.loss == "cross_entropy" and not target.categories:
        what = f"loss '{name}': cross_entropy needs a categorical target, and '{target.name}' is a number"
        raise UsageError(what, todo="Declare the feature categorical, or take mse, mae, huber or quantile")
    if config.loss != "cross_entropy" and target.categories:
        what = f"loss '{name}': the target '{target.name}' is categorical, {config.loss} is for numbers"
        raise UsageError(what, todo="Set the loss to cross_entropy")
    if config.loss == "cross_entropy" and len(config.targets) > 1:
        what = f"loss '{name}': cross_entropy takes one target, not {len(config.targets)}"
        raise UsageError(what, todo="Give each categorical target a loss of its own")


def _class_weights(config: HeadConfig, target: Target) -> tuple[float, ...]:
    """One weight a code. `balanced`: inversely to how often a class is a target, 1 on average over the elements."""
    if config.class_weights is None:
        return ()
    if config.class_weights == "balanced":
        seen = [count for count in target.class_counts[1:] if count]
        total = sum(seen)
        return tuple(total / (len(seen) * count) if count else 0.0 for count in (0, *target.class_counts[1:]))
    if stray := sorted(set(config.class_weights) - set(target.categories)):
        what = f"class_weights names '{stray[0]}', which is no category of '{target.name}'"
        raise UsageError(what, todo=f"Choose from {', '.join(target.categories[:20])}")
    return (0.0, *(float(config.class_weights.get(category, 1.0)) for category in target.categories))


def outputs(model: nn.Module, batch: Batch, heads: Sequence[Head]) -> dict[str, torch.Tensor]:
    """Returns {head: [B, P, N, its channels]} of a model; one with `uses_known` also gets the history's mask.

    One with `uses_future` gets what is known ahead, by the name `future_BPNF`.

    Raises:
        UsageError: a model of the user's own fails.
    """
    known = (batch.known_BHNF,) if getattr(model, "uses_known", False) else ()
    future = {"future_BPNF": batch.future_BPNF} if getattr(model, "uses_future", False) else {}
    try:
        output = model(batch.history_BHNF, batch.codes_BW, *known, **future)
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        own = any(not type(module).__module__.startswith(("torch.", "dateshard.")) for module in model.modules())
        if not own or of_memory(error):
            raise
        windows = "one window" if batch.size == 1 else f"{batch.size:,} windows"
        what = f"the model fails on a batch of {windows}: {describe_error(error)}"
        raise UsageError(what, todo=DROP if batch.size == 1 and model.training else "Correct it") from None
    return by_head(output, heads)


def by_head(output: Output, heads: Sequence[Head]) -> dict[str, torch.Tensor]:
    """Splits a model's output, one tensor or one a head, into {head: [B, P, N, its channels]}.

    Raises:
        UsageError: a dict without one of the heads.
    """
    if isinstance(output, torch.Tensor):
        return {head.name: _chosen(output, head.channels) for head in heads}
    if missing := sorted({head.name for head in heads} - set(output)):
        what = f"the model returned {', '.join(map(repr, output)) or 'nothing'}, and no '{missing[0]}'"
        raise UsageError(what, todo="Return one tensor, or a dict with a tensor for each of training.losses")
    return {head.name: output[head.name] for head in heads}


def points_of(outputs: Mapping[str, torch.Tensor], heads: Sequence[Head]) -> dict[str, torch.Tensor]:
    """Returns the forecast by head: [B, P, N, its targets] scaled of what `outputs` gave, of a category its logits."""
    return {head.name: head.points(outputs[head.name]) for head in heads if head.name in outputs}
