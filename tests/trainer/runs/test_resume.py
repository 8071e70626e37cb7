"""Cut off at any batch and continued, a run ends with the same bits as one that was never touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import BusyError, DamagedError, NotThereError, UsageError
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import bound_settings
from dateshard.trainer.checkpoint.bound_settings import binding, that_bind
from dateshard.trainer.checkpoint.pth import matches
from dateshard.trainer.config import Trainer
from dateshard.trainer.loop import Ended, EpochDone, Event, Saved, Stepped, train
from dateshard.trainer.runs.start import New, Started, start

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
TRAINER: dict[str, Any] = {
    "model": {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.3},
    "scheduler": {"type": "step", "step_size": 1, "gamma": 0.5},
    "early_stopping": {"patience": 5, "min_delta": 0.001},
    "loading": {"shuffle": {"days_per_run": 1, "runs_per_block": 2}},
    "training": {"epochs": 2, "batch_size": 16},
    "checkpoint": {"save_freq": None},
}
BATCHES = 5  # an epoch: 79 windows


@pytest.fixture
def world(make_world: Make) -> Any:
    made = make_world(5, missing=0.5, split=SPLIT, **TRAINER)
    made.prepare()
    return made


class Lab:
    """Starts, cuts and continues the runs of one world, in this process."""

    def __init__(self, world: Any) -> None:
        self.world, self.runs = world, world.folder / "data" / "runs"

    def config(self, **changes: Any) -> Trainer:
        """The world's configuration with sections changed: training={"seed": 8}."""
        tree = self.world.settings.trainer.model_dump(mode="json")
        for section, values in changes.items():
            joined = isinstance(values, dict) and "type" not in values
            tree[section] = {**tree[section], **values} if joined else values
        return Trainer.model_validate(tree)

    @contextmanager
    def started(self, name: str, *, resume: str = "none", **changes: Any) -> Iterator[Started]:
        """A run of that name, new or continued; let go of at the end."""
        new = name if resume == "none" else None
        made = start(self.config(**changes), "world", self.world.store, self.runs, resume=resume, new=New(new))
        try:
            yield made
        finally:
            made.close()

    def leg(self, name: str, steps: int | None = None, *, resume: str = "none", **changes: Any) -> dict[str, Any]:
        """Trains so many steps (None: to the end) and tells everything that a run ends with."""
        with self.started(name, resume=resume, **changes) as made:
            events: list[Event] = []
            count = 0

            def enough() -> bool:
                return steps is not None and count >= steps

            for event in train(made.session, enough):
                events.append(event)
                count += isinstance(event, Stepped)
            return self.told(made, events)

    @staticmethod
    def told(made: Started, events: list[Event]) -> dict[str, Any]:
        session = made.session
        moments = session.optimizer.state_dict()["state"] if session.optimizer else {}
        return {
            "weights": {name: tensor.clone() for name, tensor in session.model.state_dict().items()},
            "moments": {(i, part): t.clone() for i, held in moments.items() for part, t in held.items()},
            "sums": torch.cat([part.ravel() for part in session.metrics.tensors().values()]),
            "state": asdict(session.state),
            "losses": {event.step: float(event.loss) for event in events if isinstance(event, Stepped)},
            "epochs": {e.epoch: (e.train, e.validation, e.best) for e in events if isinstance(e, EpochDone)},
            "ended": events[-1].why if isinstance(events[-1], Ended) else None,
            "run": made.run,
            "notes": made.notes,
            "continued": made.continued,
            "events": events,
        }


@pytest.fixture
def lab(world: Any) -> Lab:
    return Lab(world)


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is not the same, to the bit, where two trainings ended."""
    faults = [key for key in ("state", "ended") if found[key] != wanted[key]]
    faults += [] if torch.equal(found["sums"], wanted["sums"]) else ["sums"]
    for group in ("weights", "moments"):
        mine, theirs = found[group], wanted[group]
        faults += [f"{group} {name}" for name in mine.keys() ^ theirs.keys()]
        faults += [
            f"{group} {name}" for name in mine.keys() & theirs.keys() if not torch.equal(mine[name], theirs[name])
        ]
    return faults


def same_road(legs: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
    """Every loss and every epoch's report that any leg told is that of the whole run; together they tell all."""
    for key in ("losses", "epochs"):
        joined: dict[Any, Any] = {}
        for leg in legs:
            for name, value in leg[key].items():
                assert value == wanted[key][name], (key, name)
            joined |= leg[key]
        assert joined.keys() == wanted[key].keys()


@pytest.mark.parametrize("save_freq", [None, 1], ids=["by a stop", "by save_freq 1"])
def test_resume_from_any_batch_twice_in_a_row_repeats_the_uninterrupted_run(lab: Lab, save_freq: int | None) -> None:
    """Cut after batch k, continued for one batch, cut again, continued to the end: for every k of two epochs."""
    change = {"checkpoint": {"save_freq": save_freq}}
    whole = lab.leg("whole", **change)
    assert whole["state"]["step"] == 2 * BATCHES
    for cut in range(1, 2 * BATCHES):
        name = f"cut{cut}"
        legs = [lab.leg(name, cut, **change)]
        assert legs[0]["ended"] == "stopped"
        assert legs[0]["state"]["step"] == cut
        legs.append(lab.leg(name, 1, resume=name, **change))
        assert legs[1]["continued"] == f"checkpoint_epoch_{(cut - 1) // BATCHES + 1}_batch_{(cut - 1) % BATCHES + 1}"
        assert legs[1]["state"]["step"] == cut + 1
        legs.append(lab.leg(name, resume=name, **change))
        assert differing(legs[2], whole) == []
        same_road(legs, whole)
        assert not any(leg["notes"] for leg in legs)


def test_resume_from_every_checkpoint_of_a_killed_run_repeats_the_uninterrupted_run(lab: Lab) -> None:
    """No stop is asked for: the generator is dropped where a kill would end it, and later checkpoints do not exist."""
    change = {"checkpoint": {"save_freq": 1}}
    whole = lab.leg("whole", **change)
    for kept in range(1, 2 * BATCHES + 1):
        with lab.started(f"killed{kept}", **change) as made:
            saved = 0
            for event in train(made.session, lambda: False):
                saved += isinstance(event, Saved)
                if saved == kept:
                    break
        again = lab.leg("", resume=f"killed{kept}", **change)
        assert differing(again, whole) == []


def test_a_stop_during_validation_keeps_the_epochs_steps_and_validates_again(lab: Lab) -> None:
    whole = lab.leg("whole")
    with lab.started("cut") as made:
        asked = iter([False] * BATCHES + [True])
        events = list(train(made.session, lambda: next(asked)))
        assert events[-1] == Ended("stopped", made.session.state)
        assert (made.session.state.batch, made.session.state.validated) == (BATCHES, False)
        assert not any(isinstance(event, EpochDone) for event in events)
    rest = lab.leg("cut", resume="cut")
    assert differing(rest, whole) == []
    assert rest["epochs"] == whole["epochs"]
    names = sorted(path.name for path in rest["run"].checkpoints.glob("checkpoint_epoch_1_*"))
    assert names == [f"checkpoint_epoch_1_batch_{BATCHES}", f"checkpoint_epoch_1_batch_{BATCHES}-2"]


def test_early_stopping_remembers_over_a_cut_what_it_has_seen(lab: Lab) -> None:
    change = {"training": {"epochs": 9}, "early_stopping": {"patience": 3, "min_delta": 1e9}}
    whole = lab.leg("whole", **change)
    assert (whole["ended"], whole["state"]["epoch"]) == ("early stopping", 3)
    for cut in (7, 10, 13, 17):
        name = f"cut{cut}"
        lab.leg(name, cut, **change)
        assert differing(lab.leg(name, resume=name, **change), whole) == []
    with lab.started("", resume="whole", **change) as made:
        assert made.finished
        assert list(train(made.session, lambda: False)) == [Ended("early stopping", made.session.state)]


def test_a_run_that_stopped_early_goes_on_with_more_patience_to_the_same_bits(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had had that patience from the start; also from a checkpoint of when patience was bound to it."""
    hasty, patient = ({"training": {"epochs": 9}, "early_stopping": {"patience": p, "min_delta": 1e9}} for p in (2, 4))
    whole = lab.leg("whole", **patient)
    endless = lab.leg("endless", training={"epochs": 5}, early_stopping=None)
    for name in ("now", "then"):
        with monkeypatch.context() as patch:
            if name == "then":
                bound_then = tuple(path for path in bound_settings.FREE if path != "early_stopping")
                patch.setattr("dateshard.trainer.checkpoint.bound_settings.FREE", bound_then)
            legs = [lab.leg(name, **hasty)]
        assert (legs[0]["ended"], legs[0]["state"]["epoch"]) == ("early stopping", 2)
        assert lab.leg(name, resume=name, **{**hasty, "training": {"epochs": 20}})["ended"] == "early stopping"
        legs.append(lab.leg(name, resume="auto", **patient))
        assert legs[1]["run"].name == name
        assert differing(legs[1], whole) == []
        same_road(legs, whole)
    lab.leg("forever", **hasty)
    rest = lab.leg("forever", resume="forever", training={"epochs": 5}, early_stopping=None)
    assert rest["ended"] == "epochs"
    assert all(torch.equal(rest["weights"][name], tensor) for name, tensor in endless["weights"].items())


def test_a_run_that_ended_at_max_steps_goes_on_to_the_same_bits(lab: Lab) -> None:
    """In the middle of an epoch, at its end (then it is validated), and in the second one."""
    whole = lab.leg("whole")
    for most in (2, BATCHES, BATCHES + 3):
        legs = [lab.leg(f"short{most}", training={"max_steps": most})]
        assert (legs[0]["ended"], legs[0]["state"]["step"]) == ("max steps", most)
        assert legs[0]["state"]["validated"] == (most == BATCHES)
        with lab.started("", resume=f"short{most}", training={"max_steps": most}) as made:
            assert made.finished
            assert list(train(made.session, lambda: False)) == [Ended("max steps", made.session.state)]
        legs.append(lab.leg(f"short{most}", resume=f"short{most}", training={"max_steps": most + 1}))
        legs.append(lab.leg(f"short{most}", resume=f"short{most}"))
        assert differing(legs[2], whole) == []
        same_road(legs, whole)


def test_max_steps_beyond_the_last_epoch_changes_nothing(lab: Lab) -> None:
    assert differing(lab.leg("bounded", training={"max_steps": 2 * BATCHES}), lab.leg("whole")) == []


TRAININGS: dict[str, Any] = {
    "sample": {"training": {"sample_size": 39, "batch_size": 8}},
    "drop_last": {"training": {"drop_last": True, "batch_size": 15}},
    "adamw": {"training": {"optimizer": "adamw", "weight_decay": 0.1}},
    "sgd": {"training": {"optimizer": "sgd", "learning_rate": 0.1}},
    "momentum": {"training": {"optimizer": "sgd", "momentum": 0.9}},
    "accumulate": {"training": {"accumulate": 2}, "scheduler": {"type": "cosine", "T_max": 2, "warmup_steps": 4}},
    "plateau": {"scheduler": {"type": "plateau", "patience": 1, "threshold": 1.0}, "training": {"epochs": 5}},
    "sampled": {"metrics": {"custom": "sampled_sum:score", "buffer": {"train": 3, "evaluation": 3}}},
    "quantile": {"training": {"loss": "quantile"}, "model": {"name": "nlinear", "revin": True}},
    "counts": {
        "training": {"loss": "negative_binomial", "weights": {"steps": [3, 2, 1, 1, 1, 1]}},
        "targets": ["volume"],
    },
    "bf16": {"training": {"precision": "bf16", "clip_norm": 0.5}},
    "fp16": {"training": {"precision": "fp16", "learning_rate": 0.01}},
    "losses": {"training": {"losses": {name: {"loss": "huber", "targets": [name]} for name in ("speed", "volume")}}},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_every_optimizer_schedule_and_objective_resumes_twice_in_a_row(lab: Lab, name: str) -> None:
    score = "def score(targets, predictions):\n    return {'windows': len(targets), 'sum': float(predictions.sum())}\n"
    Path("sampled_sum.py").write_text(score)
    change = TRAININGS[name]
    whole = lab.leg("whole", **change)
    steps = whole["state"]["step"]
    assert steps == (6 if name == "accumulate" else BATCHES * (5 if name == "plateau" else 2))
    for cut in (1, steps // 2, steps - 2):
        legs = [lab.leg(f"cut{cut}", cut, **change), lab.leg(f"cut{cut}", 1, resume=f"cut{cut}", **change)]
        legs.append(lab.leg(f"cut{cut}", resume=f"cut{cut}", **change))
        assert differing(legs[2], whole) == []
        same_road(legs, whole)
    if name == "plateau":
        assert whole["state"]["progress"]["cuts"] == 2


MODELS: list[dict[str, Any]] = [
    {"name": "dlinear"},
    {"name": "ridge"},
    {"name": "nlinear", "revin": True},
    {"name": "cnn", "hidden_units": [6, 4], "dropout_rate": 0.3},
    {"name": "stid", "hidden_units": [6, 4], "dropout_rate": 0.3},
    {"name": "gru", "hidden_units": [4], "dropout_rate": 0.3, "revin": "affine"},
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["name"])
def test_the_other_models_resume_as_well(lab: Lab, model: dict[str, Any]) -> None:
    whole = lab.leg("whole", model=model)
    lab.leg("cut", 3, model=model)
    assert differing(lab.leg("cut", resume="cut", model=model), whole) == []


def test_a_model_that_knows_futures_resumes_as_well(make_world: Make) -> None:
    world = make_world(5, missing=0.5, split=SPLIT, **TRAINER)
    world.tree["pipeline"]["features"]["volume"]["future"] = True
    world.prepare()
    lab = Lab(world)
    whole = lab.leg("whole")
    assert any(name.startswith("inner.") for name in whole["weights"])  # the model stands behind its correction
    lab.leg("cut", 3)
    assert differing(lab.leg("cut", resume="cut"), whole) == []


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_an_lstm_resumes_from_every_step_twice_in_a_row(lab: Lab, schedule: str) -> None:
    """Stacked, with dropout, two batches a step, warm-up into a schedule, normalised windows."""
    change: dict[str, Any] = {
        "model": {"name": "lstm", "hidden_units": [6, 4], "dropout_rate": 0.4, "revin": "affine"},
        "training": {"accumulate": 2, "clip_norm": 0.5},
        "scheduler": {"step": {"type": "step", "step_size": 1, "gamma": 0.5, "warmup_steps": 2}}.get(
            schedule, {"type": "cosine", "T_max": 2, "warmup_steps": 2}
        ),
    }
    whole = lab.leg("whole", **change)
    steps = whole["state"]["step"]
    assert steps == 6
    for cut in range(1, steps):
        name = f"cut{cut}"
        legs = [lab.leg(name, cut, **change), lab.leg(name, 1, resume=name, **change)]
        assert [leg["state"]["step"] for leg in legs] == [cut, cut + 1]
        legs.append(lab.leg(name, resume=name, **change))
        assert differing(legs[2], whole) == []
        same_road(legs, whole)


@pytest.mark.parametrize("place", ["at once", "solving", "validating"])
def test_a_ridge_stopped_while_it_is_solved_or_validated_goes_on_and_ends_alike(lab: Lab, place: str) -> None:
    model, asked = {"name": "ridge"}, iter(range(10**9))
    whole = lab.leg("whole", model=model)
    with lab.started("cut", model=model) as made:
        stops: dict[str, Callable[[], bool]] = {
            "at once": lambda: True,
            "solving": lambda: next(asked) > 40,
            "validating": lambda: made.session.state.batch > 0,
        }
        events = list(train(made.session, stops[place]))
        batch = BATCHES if place == "validating" else 0
        assert events[-1] == Ended("stopped", made.session.state)
        assert (made.session.state.batch, made.session.state.validated) == (batch, False)
    again = lab.leg("cut", resume="cut", model=model)
    assert again["continued"] == f"checkpoint_epoch_1_batch_{batch}"
    assert differing(again, whole) == []


def test_a_finished_run_trains_on_with_more_epochs_as_if_it_had_never_ended(lab: Lab) -> None:
    whole = lab.leg("whole", training={"epochs": 3})
    short = lab.leg("short")
    assert short["ended"] == "epochs"
    assert differing(lab.leg("short", resume="short", training={"epochs": 3}), whole) == []


FREE = {
    "epochs": {"training": {"epochs": 3}},
    "save_freq": {"checkpoint": {"save_freq": 2}},
    "policy": {"loading": {"policy": "mapped"}},
    "memory_budget": {"loading": {"memory_budget": 1}},
    "prefetch": {"loading": {"prefetch": False}},
    "resident_on": {"loading": {"resident_on": "device"}, "training": {"device": "cpu"}},
    "baselines": {"baselines": ["repeat"]},
    "bounds": {"bounds": {"speed": [0, None]}},
}


@pytest.mark.parametrize("change", FREE.values(), ids=FREE)
def test_what_changes_no_bit_may_change_on_resume(lab: Lab, change: dict[str, Any]) -> None:
    whole = lab.leg("whole", training=change.get("training", {}))
    lab.leg("cut", 7)
    assert differing(lab.leg("cut", resume="cut", **change), whole) == []


BINDING: dict[str, tuple[dict[str, Any], str, str]] = {
    "training.seed": ({"training": {"seed": 8}}, "7", "8"),
    "training.batch_size": ({"training": {"batch_size": 17}}, "16", "17"),
    "training.learning_rate": ({"training": {"learning_rate": 0.01}}, "0.001", "0.01"),
    "training.precision": ({"training": {"precision": "bf16"}}, "'fp32'", "'bf16'"),
    "training.clip_norm": ({"training": {"clip_norm": 1.0}}, "None", "1.0"),
    "model.hidden_units": ({"model": {"hidden_units": [8, 4]}}, "[8]", "[8, 4]"),
    "model.dropout_rate": ({"model": {"dropout_rate": 0.1}}, "0.3", "0.1"),
    "model.name": ({"model": {"name": "dlinear"}}, "'mlp'", "'dlinear'"),
    "window.history": ({"window": {"history": 11}}, "12", "11"),
    "window.horizon": ({"window": {"horizon": 5}}, "6", "5"),
    "window.stride": ({"window": {"stride": 2}}, "1", "2"),
    "targets": ({"targets": ["speed"]}, "None", "['speed']"),
    "scheduler.gamma": ({"scheduler": {"gamma": 0.1}}, "0.5", "0.1"),
    "loading.shuffle.days_per_run": ({"loading": {"shuffle": {"days_per_run": 2, "runs_per_block": 2}}}, "1", "2"),
}


def test_any_setting_that_binds_is_refused_by_name_with_both_values(lab: Lab) -> None:
    lab.leg("cut", 7)
    for name, (change, old, new) in BINDING.items():
        with pytest.raises(UsageError) as caught, lab.started("", resume="cut", **change):
            pass
        assert f"trainer.{name}: checkpoint {old}, now {new}" in caught.value.what, name
        assert "cut" in str(caught.value.where), name


def test_all_settings_that_differ_are_named_at_once_and_the_run_is_let_go_of(lab: Lab) -> None:
    lab.leg("cut", 7)
    with pytest.raises(UsageError) as caught:
        lab.leg("", resume="cut", training={"seed": 8, "batch_size": 17})
    assert "training.seed" in caught.value.what
    assert "training.batch_size" in caught.value.what
    lab.leg("", resume="cut")


ANOTHER_ORDER: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "to dates in order": ({"shuffle": "auto"}, {"policy": "streaming"}, r"order.days_per_run: checkpoint None, now 1"),
    "from dates in order": ({"shuffle": "auto", "policy": "streaming"}, {"policy": "auto"}, r"order.shuffle_runs: "),
    "to a smaller budget": (
        {"shuffle": "auto", "days_per_batch": "auto"},
        {"memory_budget": 3_000},
        r"order.days_per_run: checkpoint None, now 1; order.runs_per_block: checkpoint None, now 1$",
    ),
}


@pytest.mark.parametrize(("first", "then", "said"), ANOTHER_ORDER.values(), ids=ANOTHER_ORDER)
def test_settings_that_are_free_are_refused_where_they_bring_another_order(
    lab: Lab, first: dict[str, Any], then: dict[str, Any], said: str
) -> None:
    lab.leg("cut", 7, loading=first)
    with pytest.raises(UsageError) as caught:
        lab.leg("", resume="cut", loading={**first, **then})
    assert re.search(said, caught.value.what), caught.value.what
    lab.leg("", resume="cut", loading={**first, "prefetch": False})


@pytest.mark.parametrize("steps", [0, 7], ids=["before its first checkpoint", "from a checkpoint"])
def test_a_run_is_not_continued_on_a_store_made_anew_of_other_dumps(lab: Lab, steps: int) -> None:
    """Its generation has the same number, its arrays the same form; only what they hold differs."""
    if steps:
        lab.leg("cut", steps)
    else:
        with lab.started("cut"):
            pass
    shutil.rmtree(lab.world.store)
    for date, rows in lab.world.rows.items():
        lab.world.rows[date] = [(i, node, speed and speed**2, volume) for i, node, speed, volume in rows]
        lab.world.write(date)
    lab.world.prepare()
    assert lab.world.open().generation == 1
    with pytest.raises(UsageError, match=r"cannot be continued exactly: data\.id: checkpoint '\w+', now '\w+'\. "):
        lab.leg("", resume="cut")


def test_a_resumed_run_stays_on_the_data_that_it_began_with(lab: Lab) -> None:
    whole = lab.leg("whole")
    lab.leg("cut", 7)
    date = sorted(lab.world.rows)[0]
    lab.world.rows[date] = [(i, node, 1.0, volume) for i, node, _, volume in lab.world.rows[date]]
    lab.world.write(date)
    lab.world.prepare(dates=[date])
    assert lab.world.open().generation == 2
    rest = lab.leg("cut", resume="cut")
    assert differing(rest, whole) == []
    assert any("stays on generation 1" in note for note in rest["notes"])


FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "metrics.safetensors"]


def damage(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << 3
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("file", FILES)
def test_a_newest_checkpoint_with_one_flipped_bit_is_passed_over_by_name_and_the_one_before_is_used(
    lab: Lab, file: str
) -> None:
    change = {"checkpoint": {"save_freq": 1}}
    whole = lab.leg("whole", **change)
    for number, place in enumerate((0.0, 0.5, 1.0)):
        name = f"cut{number}"
        cut = lab.leg(name, 7, **change)
        broken = cut["run"].checkpoints / "checkpoint_epoch_2_batch_2" / file
        damage(broken, place)
        with lab.started("", resume=name, **change) as made:
            assert made.continued == "checkpoint_epoch_2_batch_1"
            assert sum(str(broken) in note for note in made.notes) == 1
        assert differing(lab.leg("", resume=name, **change), whole) == []
        last = checkpoint.newest(cut["run"].checkpoints)[0]
        assert last is not None
        assert last.name == f"checkpoint_epoch_2_batch_{BATCHES}"


def test_a_damaged_checkpoint_that_is_named_is_refused(lab: Lab) -> None:
    cut = lab.leg("cut", 7)
    folder = cut["run"].checkpoints / "checkpoint_epoch_2_batch_2"
    damage(folder / "model.safetensors", 0.5)
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        lab.leg("", resume=str(folder))


def test_without_any_good_checkpoint_the_run_is_not_continued(lab: Lab) -> None:
    cut = lab.leg("cut", 2)
    damage(cut["run"].checkpoints / "checkpoint_epoch_1_batch_2" / "model.safetensors", 0.5)
    with pytest.raises(NotThereError, match="no checkpoint that verifies"):
        lab.leg("", resume="cut")


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_found(lab: Lab) -> None:
    folder = lab.leg("cut", 2)["run"].checkpoints / "checkpoint_epoch_1_batch_2"
    for file in FILES:
        good = (folder / file).read_bytes()
        for at in range(0, len(good), max(1, len(good) // 40)):
            (folder / file).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(DamagedError, match=file):
                checkpoint.read_files(checkpoint.inspect(folder))
        (folder / file).write_bytes(good[:-1])
        with pytest.raises(DamagedError, match=file):
            checkpoint.read_files(checkpoint.inspect(folder))
        (folder / file).write_bytes(good)
    checkpoint.read_files(checkpoint.inspect(folder))


RISING: dict[str, Any] = {  # the rate rises until training harms: the best epoch is neither the first nor the last
    "scheduler": {"type": "none", "warmup_steps": 100},
    "training": {"epochs": 4, "learning_rate": 3.0},
    "checkpoint": {"save_freq": 1},
}


def test_best_is_the_checkpoint_with_the_lowest_validation_loss(lab: Lab) -> None:
    whole = lab.leg("whole", **RISING)
    losses = {epoch: validation["loss"] for epoch, (_, validation, _) in whole["epochs"].items()}
    lowest = min(losses, key=losses.__getitem__)
    assert 0 < lowest < 3
    folder = whole["run"].checkpoints
    found, _ = checkpoint.best(folder)
    assert found is not None
    assert (found.name, found.state.val_loss) == (f"checkpoint_epoch_{lowest + 1}_batch_{BATCHES}", losses[lowest])
    note = json.loads((folder / "best_model.json").read_text())
    assert note["checkpoint"] == found.name
    assert matches(folder / "best_model.pth", found)
    with lab.started("", resume="best", **RISING) as made:
        assert made.continued == found.name


def test_before_the_first_validation_there_is_no_best_and_that_is_no_damage(lab: Lab) -> None:
    folder = lab.leg("cut", 2)["run"].checkpoints
    assert checkpoint.find(folder, "latest")[0].state.batch == 2
    with pytest.raises(
        NotThereError, match=r"no best checkpoint yet: none has a validation loss.* Take checkpoint='latest'"
    ):
        checkpoint.find(folder, "best")


def test_where_every_validated_one_is_damaged_it_is_not_said_that_none_was_validated(lab: Lab) -> None:
    folder = lab.leg("cut", BATCHES + 1)["run"].checkpoints
    weights = checkpoint.find(folder, "best")[0].folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(NotThereError, match=r"no best checkpoint that verifies .*model\.safetensors"):
        checkpoint.find(folder, "best")


def test_two_trainers_on_one_run_the_second_is_told_that_it_is_busy(lab: Lab) -> None:
    lab.leg("cut", 2)
    with lab.started("", resume="cut"), pytest.raises(BusyError, match="another"):
        lab.leg("", resume="cut")
    lab.leg("", 1, resume="cut")


def test_a_trainer_in_another_process_keeps_the_run_for_itself_until_it_ends(lab: Lab) -> None:
    folder = lab.leg("cut", 2)["run"].folder
    code = "import sys; from pathlib import Path; from dateshard.trainer.runs.run_folder import TrainingRun as R; "
    code += "R(Path(sys.argv[1])).lock(); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError):
            lab.leg("", resume="cut")
    finally:
        holder.communicate("")
    lab.leg("", 1, resume="cut")


def test_auto_continues_what_was_cut_off_and_keeps_what_is_complete(lab: Lab) -> None:
    whole = lab.leg("whole", training={"seed": 9})
    first = lab.leg("", 4, resume="auto", training={"seed": 9, "epochs": 2})
    assert (first["continued"], first["ended"]) == (f"checkpoint_epoch_2_batch_{BATCHES}", "epochs")
    assert first["run"].name == "whole"
    cut = lab.leg("", 4, resume="auto")
    assert cut["continued"] is None
    rest = lab.leg("", resume="auto")
    assert rest["run"] == cut["run"]
    assert rest["continued"] == "checkpoint_epoch_1_batch_4"
    assert rest["state"] != whole["state"]


def test_auto_continues_the_run_of_these_settings_though_another_one_is_newer(lab: Lab) -> None:
    lab.leg("ours", 4)
    lab.leg("newer", 4, training={"seed": 9})
    lab.leg("newest", 4, model={"hidden_units": [8, 4]})
    rest = lab.leg("", resume="auto")
    assert (rest["run"].name, rest["continued"]) == ("ours", "checkpoint_epoch_1_batch_4")
    assert lab.leg("", 1, resume="auto", training={"seed": 9})["run"].name == "newer"


def test_continuing_an_older_checkpoint_sets_the_later_ones_aside_and_ends_alike(lab: Lab) -> None:
    wanted = lab.leg("whole")
    folder = lab.runs / "whole" / "checkpoints"
    older, newer = (folder / f"checkpoint_epoch_{epoch}_batch_{BATCHES}" for epoch in (1, 2))
    lab.leg("whole", 1, resume=str(older))
    assert not newer.exists()
    assert [path.name.endswith(newer.name) for path in folder.glob("set_aside-*")] == [True]
    assert differing(lab.leg("whole", resume="whole"), wanted) == []


def test_a_start_that_fails_leaves_no_run_and_no_lock(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dateshard.trainer.runs.start._keep_to_the_disk", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lab.leg("two")
    assert not (lab.runs / "two").exists()
    assert lab.leg("two")["ended"] == "epochs"


def test_a_ridge_killed_before_its_checkpoint_is_told_once(lab: Lab) -> None:
    """Its one row is of step 0, and was written; the checkpoint after it was not."""
    with lab.started("one", model={"name": "ridge"}) as made:
        path = made.run.folder / "metrics.jsonl"
        path.write_text('{"step": 0, "epoch": 1, "val_loss": 1.0}\n')
    with lab.started("one", resume="one", model={"name": "ridge"}) as made:
        assert "begins again" in made.notes[0]
        assert list(made.run.metrics()) == []


def told_rows(made: Started, rows: list[dict[str, Any]]) -> None:
    (made.run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_that_come_again_go_and_the_others_stay(lab: Lab) -> None:
    """Stopped in its validation, the epoch's row comes again; from a validated checkpoint it does not."""
    steps = [{"step": number, "epoch": 1} for number in range(1, BATCHES + 1)]
    epoch, later = {"step": BATCHES, "epoch": 1, "val_loss": 0.5}, {"step": BATCHES + 1, "epoch": 2}
    with lab.started("cut") as made:
        asked = iter([False] * BATCHES + [True])
        assert list(train(made.session, lambda: next(asked)))[-1] == Ended("stopped", made.session.state)
        told_rows(made, [*steps, epoch, later])
    with lab.started("", resume="cut") as made:
        assert list(made.run.metrics()) == steps
    lab.leg("whole", training={"epochs": 1})
    with lab.started("", resume="whole", training={"epochs": 1}) as made:
        told_rows(made, [*steps, epoch, later])
    with lab.started("", resume="whole", training={"epochs": 2}) as made:
        assert list(made.run.metrics()) == [*steps, epoch]


def test_a_kill_while_later_checkpoints_are_set_aside_leaves_their_rows(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint still stands then, and the run goes on from there: what led to it must be told."""
    with lab.started("one", checkpoint={"save_freq": 1}) as made:
        path = made.run.folder / "metrics.jsonl"
        for event in train(made.session, lambda: False):
            if isinstance(event, Stepped):
                with path.open("a") as file:
                    file.write(json.dumps({"step": event.step, "epoch": event.epoch + 1}) + "\n")
    rows = path.read_text()
    monkeypatch.setattr("dateshard.trainer.runs.start.checkpoint.set_aside_later", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.leg("one", resume=str(made.run.checkpoints / "checkpoint_epoch_1_batch_2"), checkpoint={"save_freq": 1})
    assert path.read_text() == rows


def test_a_run_from_before_quantiles_and_weights_goes_on(lab: Lab) -> None:
    """Its checkpoints bind it to none of these settings; named losses had none of their own either."""
    losses = {name: {"loss": "huber", "targets": [name]} for name in ("speed", "volume")}
    settings = binding(lab.config(training={"losses": losses}))
    newer = [path for path in settings if path.endswith((".quantiles", ".weights", ".observed"))]
    assert len(newer) == 5
    before = {path: value for path, value in settings.items() if path not in newer}
    assert that_bind(before) == settings
    assert that_bind({**before, "training.quantiles": [0.5]}) != settings
