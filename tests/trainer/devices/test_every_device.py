"""What must hold on every device that is there: the processor here, an accelerator with `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import ResourceError
from dateshard.trainer.config import Trainer
from dateshard.trainer.forward import forward
from dateshard.trainer.loop import Stepped, train
from dateshard.trainer.runs.start import New, start
from tests.kit.devices import DEVICES, GPU, TWO_GPUS, deterministic

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
KINDS = [("cpu", "fp32"), *(pytest.param("cuda", kind, marks=GPU) for kind in ("fp32", "bf16", "fp16"))]
AGREE = {"rtol": 1e-3, "atol": 1e-4}  # of weights after ten steps: additions in another order, no TF32


class Runs:
    """Trains runs of one world in this process."""

    def __init__(self, world: Any) -> None:
        self.world = world

    def session(self, **training: Any) -> Any:
        from dateshard.trainer.setup import make_session

        return make_session(self.config(**training), self.world.open(), self.world.folder / "checkpoints")

    def config(self, **training: Any) -> Trainer:
        tree = self.world.settings.trainer.model_dump(mode="json")
        tree["training"] |= training
        return Trainer.model_validate(tree)

    def train(self, name: str, steps: int = 1000, *, resume: bool = False, **training: Any) -> dict[str, torch.Tensor]:
        """The weights after so many steps at most, or at the end of the run; on the processor."""
        how: dict[str, Any] = {"resume": name} if resume else {"resume": "none", "new": New(name)}
        runs, taken = self.world.folder / "data/runs", list[Stepped]()
        started = start(self.config(**training), "world", self.world.store, runs, **how)
        try:
            for event in train(started.session, lambda: len(taken) >= steps):
                if isinstance(event, Stepped):
                    taken.append(event)
            model = started.session.model
            moments = started.session.optimizer.state_dict()["state"].items() if started.session.optimizer else ()
            held = {f"{number}/{part}": tensor for number, parts in moments for part, tensor in parts.items()}
            return {name: tensor.cpu().clone() for name, tensor in (model.state_dict() | held).items()}
        finally:
            started.close()


@pytest.fixture
def runs(make_world: Make) -> Runs:
    model = {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.2}
    world = make_world(5, missing=0.5, split=SPLIT, model=model, training={"epochs": 2, "batch_size": 16})
    world.prepare()
    return Runs(world)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_an_accelerator_ends_with_the_weights_of_the_processor(runs: Runs, device: str) -> None:
    runs.world.tree["trainer"]["model"]["dropout_rate"] = 0.0  # it draws other numbers
    by_processor = runs.train("processor", device="cpu")
    by_device = runs.train("device", device=device)
    for name, tensor in by_processor.items():
        torch.testing.assert_close(by_device[name], tensor, **AGREE)


@pytest.mark.parametrize(("device", "precision"), KINDS)
def test_a_run_goes_on_to_the_same_bits_on_its_device(runs: Runs, device: str, precision: str) -> None:
    with deterministic(device):
        whole = runs.train("whole", device=device, precision=precision)
        runs.train("cut", 3, device=device, precision=precision)
        ended = runs.train("cut", resume=True, device=device, precision=precision)
    assert whole.keys() == ended.keys()
    assert all(torch.equal(tensor, ended[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_to_the_device_as_they_were_read(runs: Runs, device: str) -> None:
    """From pinned memory to an accelerator, without waiting; the processor gets the very views."""
    session = runs.session(device=device)
    for given in session.train.batches(0):
        assert given.history_BHNF.is_pinned() == (device == "cuda")
        passed = forward(session, given).batch
        assert (passed is given) == (device == "cpu")
        for name, tensor in passed.tensors().items():
            assert tensor.device.type == device
            assert torch.equal(tensor.cpu(), given.tensors()[name])


@pytest.mark.parametrize("device", DEVICES)
def test_memory_that_runs_out_in_a_step_is_a_sentence_and_the_run_is_saved(runs: Runs, device: str) -> None:
    session = runs.session(device=device)
    plain, calls = session.model.forward, iter(range(100))

    def hungry(*given: Any) -> torch.Tensor:
        if next(calls) == 2:
            torch.empty(1 << 50, dtype=torch.uint8, device=device)
        out: torch.Tensor = plain(*given)
        return out

    session.model.forward = hungry
    with pytest.raises(ResourceError, match=r"out of memory at epoch 1 batch 3 of 5 .*; saved epoch 1 batch 2"):
        list(train(session, lambda: False))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_a_recurrent_model_learns_in_half_precision(runs: Runs, device: str, precision: str) -> None:
    runs.world.tree["trainer"]["model"] = {"name": "lstm", "hidden_units": [8], "dropout_rate": 0.0}
    whole, half = (runs.train(kind, device=device, precision=kind) for kind in ("fp32", precision))
    for name in whole:
        if "/" not in name:
            torch.testing.assert_close(half[name], whole[name], rtol=0.1, atol=0.01)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=TWO_GPUS)])
def test_two_accelerators_end_with_the_weights_of_one(runs: Runs, devices: int) -> None:
    """Started by the command, so that they exchange by nccl."""
    from dateshard.trainer import checkpoint
    from dateshard.trainer.checkpoint.checkpoint_folder import read_files

    runs.world.tree["trainer"]["model"]["dropout_rate"] = 0.0
    runs.world.config_file()
    weights = []
    for name, words in (("one", ()), ("two", ("--devices", str(devices)))):
        runs.world.run("train", "-c", "config.yaml", "--run", name, "trainer.training.device=cuda", *words, timeout=600)
        saved, _ = checkpoint.find(runs.world.folder / "data/runs" / name / "checkpoints", "latest")
        weights.append(read_files(saved)["model"])
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, **AGREE)
