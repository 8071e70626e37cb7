"""Baselines that learn nothing, made of what was observed: the newest value of a phase, or a node's own mean.

Legend: B batch, H history, S the steps of a season that are wanted, P target steps, N nodes, F features, C columns:
histories of one window, node and feature.
"""

from __future__ import annotations

import numpy as np
import torch

from dateshard.trainer.data.batch import Batch

LOOKED = 16  # steps back that are looked at one by one for the newest value of all


def newest(
    values_BHNF: torch.Tensor, known_BHNF: torch.Tensor | None, season: int, steps: int, otherwise: torch.Tensor
) -> torch.Tensor:
    """Returns [B, P, N, F]: each target step gets the newest known value of its phase in the season.

    A season of 1 gives the newest known value of all. Where none of its phase is known, the one that lies nearest to
    the step a season before it serves. Memory: a few copies of the wanted phases, and three int32 for each cell of the
    histories in which a phase lacks a value.

    Args:
        season: at most H steps; the last of them is repeated over the horizon, older ones serve where it lacks a value.
        known_BHNF: which values count; None: all.
        otherwise: what stands where no value of the history is known, of a shape that expands to [B, P, N, F].
    """
    if season == 1 and known_BHNF is not None and torch.compiler.is_exporting():  # a graph cannot ask what is there
        return _newest_of_all(values_BHNF, known_BHNF, otherwise)[:, [0] * steps]
    phases, begin = min(season, steps), values_BHNF.shape[1] - season
    order = [step % season for step in range(steps)]
    last_BSNF = values_BHNF[:, begin : begin + phases]
    if known_BHNF is None or bool(known_BHNF[:, begin : begin + phases].all()):
        return last_BSNF[:, order]
    newest_BSNF = otherwise.to(last_BSNF.dtype).expand(last_BSNF.shape).clone()
    lacking = torch.ones_like(last_BSNF, dtype=torch.bool)
    for back in range(begin, -phases, -season):
        steps_of, phases_of = slice(max(back, 0), back + phases), slice(max(-back, 0), phases)
        here = known_BHNF[:, steps_of] & lacking[:, phases_of]
        newest_BSNF[:, phases_of] = torch.where(here, values_BHNF[:, steps_of], newest_BSNF[:, phases_of])
        lacking[:, phases_of] &= ~here
        if not bool(lacking.any()):
            return newest_BSNF[:, order]
        if (
            season == 1 and begin - back == LOOKED
        ):  # a node may have none at all: not step by step through a long history
            return _newest_of_all(values_BHNF, known_BHNF, otherwise)[:, order]
    if season > 1:
        _fill_nearest(newest_BSNF, lacking, (values_BHNF, known_BHNF), begin)
    return newest_BSNF[:, order]


def _newest_of_all(values_BHNF: torch.Tensor, known_BHNF: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Returns [B, 1, N, F], the newest known values; memory: an int16 for each cell of the histories."""
    kind = torch.int32 if torch.compiler.is_exporting() else torch.int16  # onnxruntime has no largest int16
    step_H = torch.arange(values_BHNF.shape[1], dtype=kind, device=values_BHNF.device)[None, :, None, None]
    at_B1NF = torch.where(known_BHNF, step_H, step_H.new_tensor(-1)).amax(1, keepdim=True)
    return torch.where(at_B1NF < 0, otherwise, values_BHNF.gather(1, at_B1NF.clamp(min=0).long()))


def _fill_nearest(
    newest_BSNF: torch.Tensor, lacking_BSNF: torch.Tensor, given: tuple[torch.Tensor, torch.Tensor], begin: int
) -> None:
    """Gives each lacking step the known value that lies nearest to it, of two the older one, if there is any.

    Args:
        begin: the step of the history that is the first of S.
    """
    window_C, node_C, feature_C = torch.nonzero(lacking_BSNF.any(1), as_tuple=True)
    chosen = (window_C, slice(None), node_C, feature_C)
    values_CH, known_CH = (tensor[chosen].numpy() for tensor in given)
    length, count = values_CH.shape[1], newest_BSNF.shape[1]
    step_H = np.arange(length, dtype=np.int32)
    before_CS = np.maximum.accumulate(np.where(known_CH, step_H, -length), axis=1)[:, begin : begin + count]
    after_CH = np.minimum.accumulate(np.where(known_CH, step_H, 3 * length)[:, ::-1], axis=1)[:, ::-1]
    after_CS, step_S = after_CH[:, begin : begin + count], step_H[begin : begin + count]
    place_CS = np.where(step_S - before_CS <= after_CS - step_S, before_CS, after_CS)
    near_CS = np.take_along_axis(values_CH, np.clip(place_CS, 0, length - 1), axis=1)
    wanted_CS = lacking_BSNF[chosen].numpy() & (place_CS >= 0) & (place_CS < length)
    newest_BSNF[chosen] = torch.from_numpy(np.where(wanted_CS, near_CS, newest_BSNF[chosen].numpy()))


def repeated(
    batch: Batch, features: list[int], reach_season_steps: tuple[int, int, int], mean_NF: torch.Tensor
) -> torch.Tensor:
    """The last season of some features as far as `reach` steps tell it (`newest`), else each node's own mean."""
    reach, season, steps = reach_season_steps
    values = batch.history_BHNF[:, -reach:][..., features]
    known = None if batch.known_BHNF is None else batch.known_BHNF[:, -reach:][..., features]
    return newest(values, known, season, steps, mean_NF)
