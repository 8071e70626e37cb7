"""`.pth`: the notes' keys, read by torch alone; and weights from any such file, of which nothing is ever run."""

from __future__ import annotations

import copy
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import DamagedError, DiskFullError, NotThereError, UsageError
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import pth
from dateshard.trainer.config import Trainer
from dateshard.trainer.loop import train
from dateshard.trainer.optimization.optimizer import make_optimizer
from dateshard.trainer.runs.initial_weights import begin_with, read_initial
from dateshard.trainer.runs.start import New, Started, start
from dateshard.trainer.session import Session

SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}
LOSSES = {"cls": {"loss": "huber", "targets": ["speed"]}, "geo": {"loss": "mse", "targets": ["volume"], "weight": 0.5}}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    made = make_world(
        4,
        split=SPLIT,
        training={"epochs": 1, "batch_size": 16, "losses": LOSSES},
        scheduler={"type": "none", "warmup_steps": 100},
        checkpoint={"save_freq": 2},
    )
    made.prepare()
    return made


def begin(world: Any, name: str, *, resume: str = "none", new: New | None = None, **changes: Any) -> Started:
    """A run of that name, or what `resume` says."""
    tree = world.settings.trainer.model_dump(mode="json")
    for section, values in changes.items():
        tree[section] = {**tree[section], **values}
    runs = world.folder / "data" / "runs"
    wanted = new or New(name)
    return start(Trainer.model_validate(tree), "world", world.store, runs, resume=resume, new=wanted)


@pytest.fixture
def trained(world: Any) -> Iterator[Session]:
    """A run `one` that was trained to its end, and its session."""
    with closing(begin(world, "one")) as made:
        for _ in train(made.session, lambda: False):
            pass
        yield made.session


def best_of(session: Session) -> checkpoint.Checkpoint:
    found, _ = checkpoint.best(session.checkpoints)
    assert found is not None
    return found


def test_best_model_holds_the_notes_keys_and_a_fresh_torch_model_and_optimizer_take_it(trained: Session) -> None:
    held = torch.load(trained.checkpoints / "best_model.pth", weights_only=True)
    state = best_of(trained).state
    notes = {"epoch", "batch", "total_batches", "model_state_dict", "optimizer_state_dict"}
    assert notes | {"train_loss", "cls_loss", "geo_loss", "val_loss"} <= held.keys()
    order = trained.train.order
    assert (held["epoch"], held["batch"], held["total_batches"]) == (1, order.num_batches, order.num_batches)
    assert (held["train_loss"], held["val_loss"]) == (state.train_loss, state.val_loss)
    assert held["losses"] == {"cls": held["cls_loss"], "geo": held["geo_loss"]} == state.losses
    assert held["train_loss"] == pytest.approx(held["cls_loss"] + 0.5 * held["geo_loss"], rel=0.3)

    model = copy.deepcopy(trained.model)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.load_state_dict(held["model_state_dict"], strict=True)
    optimizer = make_optimizer(trained.config.training, model.parameters())
    assert optimizer is not None
    assert trained.optimizer is not None
    optimizer.load_state_dict(held["optimizer_state_dict"])
    mine, own = optimizer.state_dict(), trained.optimizer.state_dict()
    for i, moments in own["state"].items():
        for part, tensor in moments.items():
            assert torch.equal(mine["state"][i][part], tensor), (i, part)
    assert mine["param_groups"][0]["lr"] == pytest.approx(1e-3 * (trained.state.step + 1) / 100)
    without = [{k: v for k, v in told["param_groups"][0].items() if k != "lr"} for told in (mine, own)]
    assert without[0] == without[1]


def test_all_exports_each_and_none_exports_none(world: Any) -> None:
    for export, count in (("all", 1 + 2), ("none", 0)):
        with closing(begin(world, f"exports-{export}", checkpoint={"export_pth": export})) as made:
            for _ in train(made.session, lambda: False):
                pass
            files = sorted(made.session.checkpoints.glob("*.pth"))
            assert len(files) == count
            for file in files:
                name = best_of(made.session).name if file.stem == "best_model" else file.stem
                assert pth.matches(file, checkpoint.inspect(file.with_name(name)))
            if files:
                assert not pth.matches(files[0], checkpoint.inspect(files[1].with_suffix("")))


def test_a_loss_that_is_called_train_does_not_take_the_place_of_the_mean(trained: Session) -> None:
    found = best_of(trained)
    found = replace(found, state=replace(found.state, losses={"train": 77.0, "val": 88.0, "cls": 99.0}))
    held = pth.content(found)
    assert (held["train_loss"], held["val_loss"], held["cls_loss"]) == (
        *(found.state.train_loss, found.state.val_loss),
        99.0,
    )
    assert held["losses"]["train"] == 77.0


def test_one_changed_bit_of_an_export_is_seen(trained: Session) -> None:
    path, found = trained.checkpoints / "best_model.pth", best_of(trained)
    assert pth.matches(path, found)
    whole = path.read_bytes()
    weights = next(iter(torch.load(path, weights_only=True)["model_state_dict"].values())).numpy().tobytes()
    at = whole.index(weights)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert not pth.matches(path, found)
    path.write_bytes(whole[:-9])
    assert not pth.matches(path, found)


def test_an_export_without_room_leaves_what_was_there_and_says_so(
    trained: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at every single write of it."""
    path, found = trained.checkpoints / "best_model.pth", best_of(trained)
    before = path.read_bytes()
    monkeypatch.setattr(pth, "BUFFER_BYTES", 0)
    for allowed in (0, 1, 3):
        real, count = pth._Out.write, [0]

        def write(self: Any, data: Any, real: Any = real, count: list[int] = count, allowed: int = allowed) -> int:
            count[0] += 1
            if count[0] > allowed:
                self.error = self.error or OSError(28, "No space left on device")
            return int(real(self, data))

        with monkeypatch.context() as patch:
            patch.setattr(pth._Out, "write", write)
            with pytest.raises(DiskFullError, match=r"best_model\.pth"):
                pth.export(found, path)
        assert count[0] > allowed
        assert path.read_bytes() == before
        assert not list(trained.checkpoints.glob(".tmp-*"))


def test_a_run_begins_with_given_weights_at_step_0_and_tells_whence_they_came(world: Any, trained: Session) -> None:
    runs = world.folder / "data" / "runs"
    best = best_of(trained)
    folder = trained.checkpoints
    for number, given in enumerate(
        ("one", best.folder, f"{best.folder}.pth", folder / "best_model.pth", folder / "best")
    ):
        initial = read_initial(str(given), runs)
        new = New(f"new{number}", None, initial)
        with closing(begin(world, "", new=new, training={"seed": 8})) as made:
            session = made.session
            for name, tensor in session.model.state_dict().items():
                assert torch.equal(tensor, trained.model.state_dict()[name])
            assert session.state.step == 0
            assert session.optimizer is not None
            assert not session.optimizer.state_dict()["state"]
            assert made.run.facts().bound.init_from == initial.facts()
            assert str(initial.source) in made.notes[0]


def test_what_a_run_began_with_stands_in_its_checkpoints_and_survives_a_lost_run_json(
    world: Any, trained: Session
) -> None:
    initial = read_initial("one", world.folder / "data" / "runs")
    with closing(begin(world, "new", new=New("new", None, initial))) as made:
        for _ in train(made.session, lambda: made.session.state.step >= 2):
            pass
        (made.run.folder / "run.json").write_bytes(b"{}")
    with closing(begin(world, "", resume="new")) as made:
        assert made.run.facts().bound.init_from == initial.facts()
        for _ in train(made.session, lambda: False):
            pass
        assert best_of(made.session).state.bound.init_from == initial.facts()


def test_a_run_cut_off_before_its_first_checkpoint_begins_with_the_same_weights_again(
    world: Any, trained: Session
) -> None:
    source = world.folder / "weights.pth"
    torch.save(trained.model.state_dict(), source)
    initial = read_initial(str(source), world.folder)
    begin(world, "new", new=New("new", None, initial)).close()
    with closing(begin(world, "", resume="new")) as made:
        for name, tensor in made.session.model.state_dict().items():
            assert torch.equal(tensor, initial.tensors[name])
        assert made.session.bound.init_from == initial.facts()
    torch.save({name: tensor + 1 for name, tensor in initial.tensors.items()}, source)
    with pytest.raises(Exception, match="no longer the weights that this run began with"):
        begin(world, "", resume="new")
    source.unlink()
    with pytest.raises(NotThereError, match="cannot be read again"):
        begin(world, "", resume="new")


def test_weights_that_do_not_fit_are_refused_by_the_first_name(world: Any, trained: Session) -> None:
    tensors = trained.model.state_dict()
    first, second = list(tensors)[:2]
    cases = [
        ({**tensors, first: tensors[first][:1]}, f"'{first}' is 1 x "),
        ({name: t for name, t in tensors.items() if name != second}, f"'{second}' is missing"),
        ({**tensors, "more": torch.zeros(1)}, "'more' is not one of this model's"),
    ]
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    for given, told in cases:
        torch.save(given, "x.pth")
        with pytest.raises(UsageError, match=told):
            begin_with(trained, read_initial("x.pth", Path()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it-ran",)


def bomb() -> bytes:
    out = io.BytesIO()
    torch.save({"model_state_dict": {"w": torch.zeros(2)}, "more": Payload()}, out)
    return out.getvalue()


def huge() -> bytes:
    """A pickle that tells of a tensor far larger than its file."""
    out = io.BytesIO()
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, out)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", b"no pickle")
    return out.getvalue()


REFUSED: dict[str, Callable[[], bytes]] = {
    "code in it": bomb,
    "no zip": lambda: b"what",
    "empty": lambda: b"",
    "another zip": zipped,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_weights_is_refused_and_nothing_of_it_runs(name: str) -> None:
    Path("x.pth").write_bytes(REFUSED[name]())
    with pytest.raises(DamagedError, match=r"x\.pth: not a file of weights") as told:
        read_initial("x.pth", Path())
    assert not Path("it-ran").exists()
    if name == "code in it":
        assert "it holds more than tensors, numbers and text, and that is never loaded" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "given", [[1], {"epoch": 1}, {"model_state_dict": {}}, {"w": [1.0]}, {1: torch.zeros(1)}, torch.zeros(3)], ids=str
)
def test_tensors_in_another_form_are_refused(given: Any) -> None:
    torch.save(given, "x.pth")
    with pytest.raises(DamagedError, match=r"does not hold \{name: tensor\}"):
        read_initial("x.pth", Path())


def test_a_tensor_that_claims_to_be_huge_costs_nothing_and_does_not_fit(trained: Session) -> None:
    Path("x.pth").write_bytes(huge())
    with pytest.raises(UsageError, match="weights of another model"):
        begin_with(trained, read_initial("x.pth", Path()))


@pytest.mark.parametrize("form", ["plain", "model_state_dict", "state_dict", "module."])
def test_weights_of_other_programs_are_taken(form: str) -> None:
    plain = {"a": torch.ones(2), "b": torch.zeros(1, 3)}
    forms = {"plain": plain, "module.": {f"module.{name}": tensor for name, tensor in plain.items()}}
    torch.save(forms.get(form, {form: plain, "epoch": 3}), "x.pth")
    found = read_initial("x.pth", Path()).tensors
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def test_a_layer_that_is_called_module_keeps_its_name() -> None:
    plain = {"module.a": torch.ones(2), "b": torch.zeros(1, 3)}
    torch.save(plain, "x.pth")
    assert read_initial("x.pth", Path()).tensors.keys() == plain.keys()


def test_what_is_nowhere_is_told() -> None:
    for name in ("no-such.pth", "no-such-run", "a/b", "checkpoint_epoch_1_batch_1.pth", "", "/"):
        with pytest.raises(NotThereError, match=r"no \.pth, no checkpoint and no run"):
            read_initial(name, Path("data/runs"))
