"""The sample of an epoch: uniform, bounded, the same whatever the batches and wherever a run was cut; custom metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.metrics.custom import Custom, load
from dateshard.trainer.metrics.sample import DRAWN, MetricSample, epoch_seed

SHAPE = (2, 3, 1)


def fill(sample: MetricSample, batch: int, *, backwards: bool = False, below: int | None = None) -> MetricSample:
    """Window w holds the number w everywhere; targets are w, forecasts w + 0.5."""
    starts = range(0, below or sample.num_windows, batch)
    for low in reversed(starts) if backwards else starts:
        positions = range(low, min(low + batch, sample.num_windows))
        values = torch.arange(positions.start, positions.stop).float()[:, None, None, None].expand(-1, *SHAPE)
        sample.add(positions, values + 0.5, values, values % 2 == 0)
    return sample


def same(left: MetricSample, right: MetricSample) -> bool:
    return all(torch.equal(part, right.tensors()[name]) for name, part in left.tensors().items())


def make(num_windows: int = 10_000, most: int = 200, num_bytes: int = 1 << 20, epoch: int = 0) -> MetricSample:
    return MetricSample(num_windows, most, num_bytes, SHAPE, epoch_seed(7, epoch))


@pytest.mark.parametrize("num_windows", [1, 5, 200, 257, DRAWN + 1, 3 * DRAWN - 7])
def test_exactly_so_many_windows_are_kept_and_each_with_its_own_values(num_windows: int) -> None:
    sample = fill(make(num_windows), 64)
    held = sample.tensors()
    assert len(held["position"]) == sample.size == min(200, num_windows) == len(set(held["position"].tolist()))
    expected = held["position"].float()[:, None, None, None].expand(-1, *SHAPE)
    assert torch.equal(held["target"], expected)
    assert torch.equal(held["forecast"], expected + 0.5)
    assert torch.equal(held["observed"], expected % 2 == 0)


def test_the_sample_does_not_depend_on_batches_or_their_order() -> None:
    first = fill(make(), 16)
    assert same(first, fill(make(), 16, backwards=True))
    assert same(first, fill(make(), 999))
    assert same(first, fill(make(), 10_000))
    assert not same(first, fill(make(epoch=1), 16))


def test_windows_are_sampled_uniformly() -> None:
    """Chi square of 20 equal stretches of the epoch over 40 epochs: below its 99.99 % quantile of 52.4."""
    found = np.concatenate([fill(make(epoch=epoch), 10_000).tensors()["position"].numpy() for epoch in range(40)])
    counts = np.bincount(found // 500, minlength=20)
    expected = len(found) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 52.4


@pytest.mark.parametrize("cut", [0, 16, 5008])
def test_a_sample_goes_on_after_a_cut_as_if_there_was_none(cut: int) -> None:
    before = fill(make(), 16, below=cut) if cut else make()
    after = make()
    after.load(before.tensors())
    for low in range(cut, after.num_windows, 16):
        positions = range(low, min(low + 16, after.num_windows))
        values = torch.arange(positions.start, positions.stop).float()[:, None, None, None].expand(-1, *SHAPE)
        after.add(positions, values + 0.5, values, values % 2 == 0)
    assert after.whole
    assert same(after, fill(make(), 16))
    kept = before.tensors()
    assert sum(t.numel() * t.element_size() for t in kept.values()) < 100 + (cut / 10_000 + 0.1) * 200 * 62


def test_a_sample_of_other_settings_is_not_taken_and_says_so() -> None:
    other = make(most=100)
    other.load(fill(make(), 16).tensors())
    assert not other.whole
    assert not len(other.tensors()["position"])
    missing = make()
    missing.load(None)
    assert not missing.whole
    for low in range(0, 4096, 16):  # it goes on with the windows to come, and a second cut loses none of those
        values = torch.arange(low, low + 16).float()[:, None, None, None].expand(-1, *SHAPE)
        missing.add(range(low, low + 16), values + 0.5, values, values % 2 == 0)
    again = make()
    again.load(missing.tensors())
    assert same(again, missing)
    assert len(again.tensors()["position"])
    assert not again.whole


def test_bytes_bound_the_sample_whatever_the_setting_says() -> None:
    sample = make(most=10_000, num_bytes=10_000)
    held = sum(t.numel() * t.element_size() for name, t in fill(sample, 64).tensors().items() if name != "form")
    assert 9_000 < held <= 10_000
    assert make(num_bytes=10).size == 0
    assert not len(fill(make(num_bytes=10), 64).tensors()["position"])


def mae(targets: Any, predictions: Any) -> dict[str, float]:
    return {"mae": float(np.nanmean(np.abs(targets - predictions))), "gaps": float(np.isnan(targets).sum())}


def masked(targets: Any, predictions: Any, observed: Any) -> dict[str, float]:
    return {"mae": float(np.abs(targets - predictions)[observed].mean()), "share": float(observed.mean())}


def broken(targets: Any, predictions: Any) -> dict[str, float]:
    raise ZeroDivisionError("no such luck\nsecond line")


def called(function: Any, name: str = "mine:f") -> dict[str, Any]:
    custom = Custom(name, function, "observed" in function.__code__.co_varnames[: function.__code__.co_argcount])
    targets = np.arange(12.0).reshape(2, 2, 3, 1)
    return custom.call(targets, targets + 0.5, targets < 9)


def test_a_function_sees_gaps_as_nan_or_asks_for_the_mask() -> None:
    assert called(mae) == {"metrics": {"mae": 0.5, "gaps": 3.0}, "error": None}
    assert called(masked) == {"metrics": {"mae": 0.5, "share": 0.75}, "error": None}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (broken, "mine:f: ZeroDivisionError: no such luck"),
        (lambda targets, predictions: 3, "mine:f: TypeError: returned int, not a dict of numbers"),
        (lambda targets, predictions: {"a": "much"}, "mine:f: ValueError"),
        (lambda targets: {}, "mine:f: TypeError"),
    ],
)
def test_what_a_function_does_wrong_is_named_and_ends_nothing(function: Any, said: str) -> None:
    told = called(function)
    assert told["metrics"] == {}
    assert told["error"].startswith(said)
    assert "\n" not in told["error"]


def test_what_is_no_number_is_null() -> None:
    assert called(lambda targets, predictions: {"a": float("nan"), "b": np.float32(2)})["metrics"] == {
        "a": None,
        "b": 2,
    }


def test_a_function_is_found_in_the_working_directory_and_refused_before_training(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_figures.py").write_text("def score(targets, predictions, observed):\n    return {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    found = load("my_figures:score")
    assert found.masked
    assert found.name == "my_figures:score"
    with pytest.raises(UsageError, match="has no 'other' \\(it has "):
        load("my_figures:other")
    with pytest.raises(UsageError, match="there is no module 'none_such'"):
        load("none_such:f")
    with pytest.raises(UsageError, match="nothing that can be called"):
        load("my_figures:__name__")
