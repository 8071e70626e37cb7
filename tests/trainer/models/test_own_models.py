"""Models of one's own: the files of docs/models.md as they stand there, and every way in which such a model can fail."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.cli import run
from dateshard.settings import validate
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig, Trainer
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.own import refuse_unfit
from dateshard.trainer.models.shape import Shape

Make = Callable[..., Any]
GUIDE = Path(__file__).parents[3] / "docs" / "models.md"
SHAPE = Shape(window=Window(6, 4), num_nodes=3, num_inputs=2, num_outputs=2, targets_in_inputs=(0, 1), steps_per_day=24)
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}


@pytest.fixture(autouse=True)
def _imports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's files are modules of its own; the path is as before."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not str(getattr(sys.modules[name], "__file__", "") or "").startswith(sys.prefix):
            del sys.modules[name]


def write_guide() -> None:
    """The guide's code blocks as the files that their first lines name."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["averages.py", "graph.py", "knee.yaml", "knee_model.py", "test_averages.py"]
    for name, text in blocks:
        Path(name).write_text(text)


def write_knees() -> None:
    """Five dates of two persons, four hours each: what they do changes every ten minutes and shapes the signals."""
    Path("raw").mkdir()
    draw = np.random.default_rng(3)
    for day in range(1, 6):
        lines = ["time,person,thigh,shank,angle,activity"]
        for person in ("a", "b"):
            does = ""
            for minute in range(240):
                does = str(draw.choice(["walk", "climb", "sit"])) if minute % 10 == 0 else does
                height = {"walk": 1.0, "climb": 2.0, "sit": 0.0}[does]
                thigh, shank = (height + 0.3 * draw.normal() for _ in range(2))
                at = f"2024-03-{day:02d}T{minute // 60 + 8:02d}:{minute % 60:02d}:00Z"
                lines.append(f"{at},{person},{thigh:.4f},{shank:.4f},{20 * (thigh - shank):.4f},{does}")
        Path(f"raw/2024-03-{day:02d}.csv").write_text("\n".join(lines) + "\n")


def test_the_two_heads_of_the_guide_learn_through_the_command_line() -> None:
    write_guide()
    write_knees()
    assert run(["preprocess", "-c", "knee.yaml", "--workers", "1", "--quiet"]) == 0
    assert run(["train", "-c", "knee.yaml", "--run", "knee", "--quiet"]) == 0
    folder = Path("data/runs/knee/checkpoints")
    told = [
        json.loads((path / "manifest.json").read_text())
        for path in sorted(folder.glob("*"), key=order)
        if path.is_dir()
    ]
    first, last = (find(state, "losses") for state in (told[0], told[-1]))
    assert set(first) == {"cls", "geo"}
    assert last["cls"] < 0.6 * first["cls"]  # chance: log 3 = 1.1
    assert last["geo"] < 0.6 * first["geo"]
    assert last["cls"] < 0.7
    assert run(["train", "--resume", "knee", "trainer.training.epochs=7", "--quiet"]) == 0


def order(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def find(content: dict[str, Any], key: str) -> Any:
    """The value of a key, at any depth."""
    inner = [find(value, key) for value in content.values() if isinstance(value, dict)]
    return content.get(key) or next((value for value in inner if value), None)


def test_the_guide_s_average_keeps_the_contract() -> None:
    """Every promise of the suite, called as pytest would."""
    write_guide()
    sys.path.insert(0, ".")
    import test_averages  # type: ignore[import-not-found]

    suite, called = test_averages.TestAverages(), 0
    for name in dir(suite):
        if name.startswith("test_") and name != "test_a_forecast_has_the_promised_shape_and_type":
            getattr(suite, name)()
            called += 1
    for batch, nodes in ((1, 1), (7, 3)):
        suite.test_a_forecast_has_the_promised_shape_and_type(batch, nodes)
    assert called >= 11


def test_the_guide_s_average_trains_in_a_run_that_resumes(make_world: Make, session_of: Make) -> None:
    from dateshard.trainer.loop import EpochDone, train

    write_guide()
    world = make_world(5, split=SPLIT, model={"name": "averages:build", "options": {"bias": False}, "revin": True})
    world.prepare()
    session = session_of(world)
    assert [name for name, _ in session.model.named_parameters()] == ["inner.steps.weight"]
    done = [event for event in train(session, lambda: False) if isinstance(event, EpochDone)]
    assert done[-1].val_loss < done[0].train["loss"]


OWN = {
    "not there": ("nowhere:build", "", "no module 'nowhere'"),
    "a part of it not there": ("own.deeper:build", "", r"no module 'own\.deeper'"),
    "no such name": ("own:make", "def build(shape, config): pass", r"own\.py has no 'make' \(it has build\)"),
    "no function": ("own:build", "build = 7", "'own:build' is int, nothing that can be called"),
    "bad syntax": ("own:build", "def build(:", r"importing 'own:build' fails: SyntaxError"),
    "a missing import": ("own:build", "import nowhere", r"fails: ModuleNotFoundError: .*nowhere.*own\.py, line 1"),
    "fails at import": ("own:build", "x = 1\n1 / 0", r"fails: ZeroDivisionError: division by zero .*own\.py, line 2"),
    "fails when built": (
        "own:build",
        "def build(shape, config):\n    return shape.size",
        r"own:build fails: .*own\.py, line 2",
    ),
    "other arguments": ("own:build", "def build(): pass", "own:build fails: TypeError"),
    "no module": ("own:build", "def build(shape, config): return 7", r"returned a int, not a torch\.nn\.Module"),
}


@pytest.mark.parametrize(("name", "text", "told"), OWN.values(), ids=OWN)
def test_a_function_that_cannot_be_used_is_refused_by_name_and_line(name: str, text: str, told: str) -> None:
    Path("own.py").write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        build(SHAPE, ModelConfig(name=name))
    assert "trainer.model.name" in caught.value.what
    assert caught.value.todo


class Returns(torch.nn.Module):
    """Whatever it is told to make of the history."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> Any:
        assert codes is None
        return self.make(history)


GOOD = torch.zeros(2, 4, 3, 2)
FORMS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "steps": (lambda h: h, r"must return float32 \[2, 4, 3, 2\].*returned float32 \[2, 6, 3, 2\]"),
    "axes": (lambda h: GOOD.transpose(1, 2), r"returned float32 \[2, 3, 4, 2\]"),
    "type": (lambda h: GOOD.double(), r"returned float64 \[2, 4, 3, 2\]"),
    "nothing": (lambda h: None, "returned None"),
    "pair": (lambda h: (GOOD, GOOD), "returned a tuple"),
    "no head": (lambda h: {"cls": GOOD[..., :1]}, r"for 'geo' float32 \[2, 4, 3, 1\].*none \(it returned 'cls'\)"),
    "a head's form": (lambda h: {"cls": GOOD, "geo": GOOD[..., :1]}, r"for 'cls' .*returned float32 \[2, 4, 3, 2\]"),
    "view": (lambda h: h.view(2, -1), r"fails on a history of float32 \[2, 6, 3, 2\].*\.reshape"),
}


@pytest.mark.parametrize(("make", "told"), FORMS.values(), ids=FORMS)
def test_a_forecast_of_a_wrong_form_is_told_beside_the_right_one(make: Callable[..., Any], told: str) -> None:
    heads = {"cls": (0,), "geo": (1,)}
    shape = Shape(
        window=Window(6, 4),
        num_nodes=3,
        num_inputs=2,
        num_outputs=2,
        targets_in_inputs=(0, 1),
        steps_per_day=24,
        heads=heads,
    )
    refuse_unfit(Returns(lambda _: GOOD), shape, "own:build")
    refuse_unfit(Returns(lambda _: {"cls": GOOD[..., :1], "geo": GOOD[..., 1:]}), shape, "own:build")
    with pytest.raises(UsageError, match=told):
        refuse_unfit(Returns(make), shape, "own:build")


class Buffered(Returns):
    """With a buffer."""

    def __init__(self, extra: torch.Tensor) -> None:
        super().__init__(lambda _: GOOD)
        self.register_buffer("extra", extra)


class Counting(Returns):
    """With a state of its own, which is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 7}


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Counting(lambda _: GOOD), "'_extra_state', a dict"),
        (Buffered(torch.eye(3).to_sparse()), "'extra', float32"),
        (Buffered(torch.zeros(3, dtype=torch.complex128)), r"'extra', complex128 \[3\]"),
    ],
)
def test_a_state_that_no_checkpoint_can_hold_is_refused_before_training(model: torch.nn.Module, told: str) -> None:
    heads = {"all": (0, 1)}
    shape = Shape(
        window=Window(6, 4),
        num_nodes=3,
        num_inputs=2,
        num_outputs=2,
        targets_in_inputs=(0, 1),
        steps_per_day=24,
        heads=heads,
    )
    refuse_unfit(Buffered(torch.zeros(3, dtype=torch.complex64)), shape, "own:build")
    with pytest.raises(UsageError, match=f"keeps {told}.*a checkpoint cannot hold it"):
        refuse_unfit(model, shape, "own:build")


LAZY = """from torch import nn
class Lazy(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.steps, self.linear = shape.window.target_steps, nn.LazyLinear(shape.num_outputs)
    def forward(self, history, codes):
        return self.linear(history[:, -1:]).expand(-1, self.steps, -1, -1)
def build(shape, config):
    return Lazy(shape)
"""


def test_a_lazy_model_is_trained_resumed_and_forecasts(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lazy.py").write_text(LAZY)
    world = make_world(5, split=SPLIT, model={"name": "lazy:build"})
    world.prepare()
    world.config_file()
    monkeypatch.chdir(world.folder)
    assert run(["train", "-c", "config.yaml", "--run", "one", "-q", "--epochs", "1"]) == 0
    assert run(["train", "--resume", "one", "-q", "--epochs", "2"]) == 0
    assert run(["predict", "one", "--at", "latest", "--out", "told.csv"]) == 0
    assert len(Path("told.csv").read_text().splitlines()) > 1


def test_a_wrong_form_is_refused_before_there_is_a_run(make_world: Make, capsys: pytest.CaptureFixture[str]) -> None:
    Path("short.py").write_text("import torch\ndef build(shape, config):\n    return torch.nn.Linear(2, 2)\n")
    world = make_world(5, split=SPLIT, model={"name": "short:build"})
    world.prepare()
    (world.folder / "data").mkdir(exist_ok=True)
    assert run(["train", "-c", str(world.config_file())]) == 2
    told = capsys.readouterr().err
    assert "the model 'short:build' fails on a history of float32 [2, 12, 3, 2]" in told
    assert "Traceback" not in told
    assert not list((world.folder / "data").glob("runs/*"))


def test_a_model_without_anything_to_train_is_refused(make_world: Make, session_of: Make) -> None:
    text = "import torch\nclass M(torch.nn.Module):\n    def forward(self, h, c): return h[:, -6:]\n"
    Path("still.py").write_text(text + "def build(shape, config): return M()\n")
    world = make_world(5, split=SPLIT, model={"name": "still:build"})
    world.prepare()
    with pytest.raises(UsageError, match="no parameter"):
        session_of(world)


@pytest.mark.parametrize("name", ["my:build", "a.b_c.d:make_it", "模型:建"])
def test_dotted_names_are_taken_from_files_and_refused_where_code_is_not_allowed(name: str) -> None:
    tree = {"model": {"name": name}}
    assert Trainer.model_validate(tree).model.name == name
    with pytest.raises(ValueError, match=r"names code, which is not imported from here; use mlp, stid, cnn"):
        Trainer.model_validate(tree, context={"own_models": False})
    assert Trainer.model_validate({"model": {"name": "gru"}}, context={"own_models": False}).model.name == "gru"
    assert validate({"dataset": "d", "trainer": tree}).trainer.model.name == name
    with pytest.raises(UsageError, match=r"trainer\.model\.name: .*names code"):
        validate({"dataset": "d", "trainer": tree}, own_models=False)


@pytest.mark.parametrize(
    "name", ["", "lsmt", "my.module.build", ":build", "my:", "my:a.b", "my..x:b", "os;x:b", "1a:b"]
)
def test_a_name_that_is_neither_is_told_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=r"no model .*mlp, stid, cnn, lstm, gru, dlinear, nlinear, ridge"):
        ModelConfig(name=name)
    if name == "lsmt":
        with pytest.raises(ValueError, match="did you mean 'lstm'"):
            ModelConfig(name=name)


def test_options_of_a_built_in_are_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.options are for a model of your own"):
        build(SHAPE, ModelConfig(name="mlp", options={"a": 1}))
