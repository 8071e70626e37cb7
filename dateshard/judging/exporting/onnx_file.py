"""A run's model written as one ONNX file with raw values in and out, once onnxruntime has said what `Predictor` says.

Legend: B batch, H history, W window steps, P target steps, N nodes, I inputs, T targets that are numbers, C categories.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dateshard.documents.prediction import ExportModelDocument, TensorDocument
from dateshard.judging.exporting.raw_graph import RawGraph
from dateshard.judging.forecast_table import Floats, bands_of, in_raw_units, level_name, quantiles_of
from dateshard.judging.loaded_run import LoadedRun, load_run, refuse_known_ahead
from dateshard.judging.raw_history import RawHistory
from dateshard.judging.silent_nodes import known_targets
from dateshard.judging.step_forecast import codes_of, make_forecast, targets_of
from dateshard.shardstore.commands import command
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import DateshardError, UsageError, Where, of_memory
from dateshard.shardstore.own_code.user_code import describe_error
from dateshard.shardstore.scaling.transform import untransform
from dateshard.trainer.assessment.forecaster import Forecaster

if TYPE_CHECKING:
    import onnxruntime

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TALKING = ("torch.onnx", "torch.fx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")  # loggers
INPUTS = ("history", "observed", "time_codes")
TOLERANCE = 1e-5  # of a forecast, or of its feature's spread where that is larger
BATCHES = (1, 3)  # windows that are compared, at once; a graph that froze its batch size would refuse one of them
MISSING = (0.0, 0.6)  # least and largest share of the cells of a compared window
TIME_CODE = (
    "step of the local day x 8 + weekday (Monday 0), of the steps of the history and then of those of the forecast; the "
    "step of the day is the local time since midnight divided by step_seconds, also on days of a clock change; a date "
    "begins where the weekday changes, and nothing is filled from one date to the next"
)
OBSERVED = "false where a cell was not observed; NaN in history says the same"
NO_QUANTILES = "the quantiles of counts are not in the graph, only their means: `predict` and Predictor give them"
UNITS = {"count": "records", "category": "code", "value": "as in the dumps"}


def export_model(name: str, which: str, file: Path, *, force: bool = False, trust: bool = False) -> ExportModelDocument:
    """Writes a checkpoint's model to `file`, and what its inputs and outputs are to `file`.json beside it.

    Args:
        force: replace files that are there. trust: the code that the run names may be imported.

    Raises:
        UsageError: a package is not installed, the file cannot be written there, the dataset has no steps, or the model
            cannot be such a graph. DateshardError: onnxruntime forecasts otherwise than torch; nothing is written.
    """
    _refuse_lacking()
    card = file.with_name(f"{file.name}.json")
    _refuse_file(file, card, force=force)
    loaded = load_run(name, which, trust=trust)
    if not loaded.dataset.manifest.step:
        what = f"only models of a grid are exported, and this dataset keeps records ({loaded.dataset.manifest.layout})"
        raise UsageError(what, where=Where(file=str(loaded.dataset.root)))
    refuse_known_ahead(loaded, "a graph")
    graph = RawGraph(loaded.forecaster).eval()
    content = _as_onnx(graph, loaded)
    largest = _compare(content, graph, loaded, file)
    document = _described(graph, loaded, file, content, largest)
    written = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    with appearing(card, over=force) as beside, appearing(file, over=force) as temporary:
        temporary.write_bytes(content)
        beside.write_text(written, encoding="utf-8")
    return document


def _refuse_lacking() -> None:
    if lacking := [package for package in PACKAGES if find_spec(package) is None]:
        names = " and ".join(lacking)
        what = f"exporting a model needs {names}, which {'is' if len(lacking) == 1 else 'are'} not installed"
        raise UsageError(what, todo="Run: pip install 'dateshard[onnx]'")


def _refuse_file(file: Path, card: Path, *, force: bool) -> None:
    where = Where(file=str(file))
    if file.suffix != ".onnx":  # with --force a slip would replace a dump, or a file of the store
        raise UsageError("a graph is written as .onnx", where=where, todo="Name such a file")
    if not file.parent.is_dir():
        raise UsageError("the folder does not exist", where=where, todo="Make it, or name another --onnx")
    if there := [path for path in (file, card) if path.exists() and not force]:
        raise UsageError("the file exists", where=Where(file=str(there[0])), todo="Name another, or give --force")


def _as_onnx(graph: RawGraph, loaded: LoadedRun) -> bytes:
    """Returns the file's content.

    Raises:
        UsageError: torch cannot make a graph of the model.
    """
    drawn = DrawnWindows(loaded)
    inputs = tuple(torch.from_numpy(array) for array in drawn.windows(2).values())
    batch = torch.export.Dim("batch", min=1)
    name = loaded.forecaster.config.model.name
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                inputs,
                dynamo=True,
                dynamic_shapes=({0: batch},) * len(INPUTS),
                input_names=list(INPUTS),
                output_names=graph.output_names,
                verbose=False,
            )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:
        if failure := of_memory(error):
            raise failure from None
        reason = describe_error(error.__cause__ or error).splitlines()[0]
        what = f"torch.onnx.export cannot make a graph of the model '{name}': {reason}"
        raise UsageError(what, todo="No Python value may depend on what a tensor holds (no if, no item())") from None
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what torch and its exporter say of themselves while a graph is made."""
    loggers = [logging.getLogger(name) for name in TALKING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class DrawnWindows:
    """Made-up windows of raw values around what training saw, with missing cells, each at another hour of the last dates."""

    def __init__(self, loaded: LoadedRun) -> None:
        self.loaded, self.raw = loaded, RawHistory(loaded.forecaster)
        self.draw = np.random.default_rng(7)
        self.ends: list[int] = []

    def windows(self, count: int) -> dict[str, Any]:
        """Returns `count` windows by the names of the graph's inputs."""
        forecaster, day = self.loaded.forecaster, self.loaded.dataset.days[-1]
        shape = (forecaster.window.history, len(self.raw.nodes), len(self.raw.features))
        self.ends = [day.start + int(row) * day.step for row in self.draw.integers(0, day.num_steps, count)]
        history = np.stack([self._values(shape) for _ in range(count)])
        observed = self.draw.random(history.shape) >= self.draw.uniform(*MISSING, (count, 1, 1, 1))
        codes = [codes_of(forecaster, self.raw.steps(each, end)) for each, end in zip(history, self.ends, strict=True)]
        return dict(zip(INPUTS, (history, observed, np.stack(codes)), strict=True))

    def _values(self, shape: tuple[int, int, int]) -> Floats:
        features, scale = self.raw.features, self.raw.scale
        scaled = np.clip(scale.mean_NF + self.draw.normal(size=shape), -3, 3).astype(np.float32)
        values = untransform(scale.undo(scaled), [feature.transform for feature in features])
        for place, feature in enumerate(features):
            if feature.categorical:
                codes = len(self.raw.categories[feature.name])
                values[..., place] = self.draw.integers(0, codes + 1, shape[:2])
        return values

    def expected(self, windows: Mapping[str, Any]) -> dict[str, Floats]:
        """What the forecaster says of them, by the names of the graph's outputs."""
        forecaster, each = self.loaded.forecaster, list[dict[str, Floats]]()
        for history, observed, end in zip(windows["history"], windows["observed"], self.ends, strict=True):
            steps = self.raw.steps(np.where(observed, history, np.nan), end)
            known = known_targets(forecaster, steps.observed_HNF.max(axis=0))
            made = make_forecast(forecaster, steps, targets_of(forecaster, steps), known, None)
            numbers = sorted(forecaster.numbers)
            outputs = {"value": bands_of(made)[0][..., numbers]} if numbers else {}
            outputs["quantiles"] = quantiles_of(made)[..., numbers, :]
            each.append(outputs | {f"probability_{target}": shares for target, shares in made.chances.items()})
        return {name: np.stack([outputs[name] for outputs in each]) for name in each[0]}


def _compare(content: bytes, graph: RawGraph, loaded: LoadedRun, file: Path) -> float:
    """Returns the largest difference of onnxruntime from torch, as a share of the forecast or of its feature's spread.

    Raises:
        DateshardError: it is larger than `TOLERANCE`.
    """
    session, drawn, largest = _session(content), DrawnWindows(loaded), 0.0
    for count in BATCHES:
        windows = drawn.windows(count)
        expected = drawn.expected(windows)
        given = session.run(graph.output_names, windows)
        for name, array in zip(graph.output_names, given, strict=True):
            spread = {"value": _spread(loaded), "quantiles": _spread(loaded)[..., None]}.get(name, 1.0)
            size = np.maximum(np.abs(expected[name]), spread)
            share = float((np.abs(array - expected[name]) / size).max())
            largest = max(largest, share if np.isfinite(share) else np.inf)
    if largest > TOLERANCE:
        what = f"onnxruntime forecasts otherwise than torch, by {largest:.1e} of a forecast: nothing was written"
        raise DateshardError(
            what, where=Where(file=str(file)), todo=f"Report it, with what this prints: {command('version')}"
        )
    return largest


def _session(content: bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _spread(loaded: LoadedRun) -> Floats:
    """Returns [N, T] what one scaled unit around the middle is in raw units."""
    forecaster = loaded.forecaster
    places = [forecaster.columns.targets[place] for place in sorted(forecaster.numbers)]
    ends = np.zeros((2, len(loaded.dataset.nodes.names), len(places)))
    ends[1] = 1.0
    raw = in_raw_units(forecaster, ends, places)
    return np.asarray(raw[1] - raw[0], dtype=np.float64)


def _described(graph: RawGraph, loaded: LoadedRun, file: Path, content: bytes, largest: float) -> ExportModelDocument:
    forecaster, dataset, saved = loaded.forecaster, loaded.dataset, loaded.saved
    raw, window, nodes = RawHistory(forecaster), forecaster.window, len(dataset.nodes.names)
    numbers = [forecaster.targets[place].name for place in sorted(forecaster.numbers)]
    history: list[str | int] = ["batch", window.history, nodes, len(raw.features)]
    low, high = (np.asarray(graph.get_buffer(name)).tolist() for name in ("low", "high"))
    return {
        "file": file.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "run": loaded.run.name,
        "model": forecaster.config.model.name,
        "checkpoint": saved.name,
        "checkpoint_files": {name: digest for name, (_, digest) in saved.files.items()},
        "dataset": dataset.manifest.dataset,
        "generation": dataset.generation,
        "timezone": dataset.manifest.timezone,
        "step_seconds": dataset.manifest.step / 1e9,
        "history": window.history,
        "horizon": window.horizon,
        "time_code": TIME_CODE,
        "inputs": [
            _tensor("history", "double", history, "raw values: steps, nodes, features"),
            _tensor("observed", "bool", history, OBSERVED),
            _tensor("time_codes", "int32", ["batch", window.length], "see time_code"),
        ],
        "features": [
            {
                "name": feature.name,
                "aggregate": feature.aggregate,
                "unit": UNITS[
                    "category" if feature.categorical else "count" if feature.aggregate == "count" else "value"
                ],
                "categories": list(raw.categories[feature.name]) if feature.categorical else None,
            }
            for feature in raw.features
        ],
        "outputs": _outputs(graph, forecaster),
        "bounds": {
            name: [least if np.isfinite(least) else None, most if np.isfinite(most) else None]
            for name, least, most in zip(numbers, low, high, strict=True)
        },
        "nodes": list(dataset.nodes.names),
        "difference": largest,
        "notes": loaded.notes + ([NO_QUANTILES] if loaded.forecaster.quantiles.levels and not graph.levels else []),
    }


def _outputs(graph: RawGraph, forecaster: Forecaster) -> list[TensorDocument]:
    """The graph's outputs, each with the names along its last axis."""
    shape: list[str | int] = ["batch", forecaster.window.target_steps, len(forecaster.dataset.nodes.names)]
    targets = {target.name: target for target in forecaster.targets}
    numbers = [forecaster.targets[place].name for place in sorted(forecaster.numbers)]
    outputs = {"value": (shape, numbers)} if numbers else {}
    if graph.levels:
        outputs["quantiles"] = ([*shape, len(numbers)], [level_name(level) for level in graph.levels])
    outputs |= {f"probability_{name}": (shape, list(targets[name].categories)) for name in graph.categorical.values()}
    kinds = {"value": "raw values: steps, nodes, targets", "quantiles": "raw values: steps, nodes, targets, levels"}
    return [
        _tensor(name, "double", [*before, len(last)], kinds.get(name, "probabilities: steps, nodes, categories"))
        | {"last_axis": last}
        for name, (before, last) in outputs.items()
    ]


def _tensor(name: str, kind: str, shape: list[str | int], what: str) -> TensorDocument:
    return {"name": name, "type": kind, "shape": shape, "what": what}
