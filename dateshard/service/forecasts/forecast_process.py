"""The process that forecasts: keeps the models it used last, and ends with the server, or when nobody asks for long.

python -m dateshard.service.forecasts.forecast_process DATA SOCKET
"""

from __future__ import annotations

import gc
import socket
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import to_json

from dateshard.judging.predictor import Predictor
from dateshard.places import data_in
from dateshard.service.forecasts.frames import Pair, receive_pair, send_pair
from dateshard.service.forecasts.predict_body import PredictBody
from dateshard.shardstore.errors import DateshardError, UsageError, of_memory

MOST_MODELS = 4
IDLE_SECONDS = 900.0
Key = tuple[str, str, float | None]


class Models:
    """The models that were asked last, loaded."""

    def __init__(self) -> None:
        self.loaded = OrderedDict[Key, Predictor]()

    def get(self, run: str, checkpoint: str, interval: float | None) -> Predictor:
        """The model of a run's checkpoint; loads it where it is not there, and lets the oldest go."""
        key = (run, checkpoint, interval)
        if key not in self.loaded:
            self.loaded[key] = Predictor(run, checkpoint=checkpoint, interval=interval)
            if len(self.loaded) > MOST_MODELS:
                self.loaded.popitem(last=False)
            gc.unfreeze()
            gc.collect()
            gc.freeze()  # the model stays; looking through it and torch for garbage costs single requests some 60 ms
        self.loaded.move_to_end(key)
        return self.loaded[key]


def forecast(models: Models, run: str, body: bytes) -> bytes:
    """Answers one request with a forecast, as the route shows it: JSON, in which null is no number.

    Raises:
        ValidationError: the body is not a `PredictBody`. DateshardError: what of it or of the run cannot be used.
    """
    asked = PredictBody.model_validate_json(body)
    model = models.get(run, asked.checkpoint, asked.interval)
    made = model.forecast(_values(asked.history, model), asked.until)
    bands = {name: getattr(made, name).tolist() if model.interval is not None else None for name in ("low", "high")}
    answer = {
        "success": True,
        "task_id": run,
        "checkpoint": model.checkpoint,
        "time": np.datetime_as_string(made.time, unit="s", timezone="UTC").tolist(),
        "nodes": list(model.nodes),
        "targets": list(model.targets),
        "value": made.value.tolist(),
        **bands,
    }
    return to_json(answer, inf_nan_mode="null")


def _values(history: list[list[list[float | None]]], model: Predictor) -> NDArray[np.float64]:
    """Makes the array [L, N, I] of a request, NaN where it has null.

    Raises:
        UsageError: it is no such array.
    """
    try:
        values = np.array(history, dtype=np.float64)
    except ValueError:
        values = np.empty(0)
    if values.ndim != 3:
        nodes, inputs = len(model.nodes), len(model.inputs)
        what = f"history is [steps][nodes][inputs]: each of at least {model.history} steps has {nodes} lists of {inputs} numbers"
        raise UsageError(what, todo=f"The inputs are {', '.join(model.inputs)}")
    return values


def answer_all(data: Path, line: socket.socket) -> None:
    """Answers requests until the server is gone or nobody asked for `IDLE_SECONDS`."""
    models = Models()
    line.settimeout(IDLE_SECONDS)
    with data_in(data):
        try:
            while (asked := receive_pair(line)) is not None:
                send_pair(line, _answer(models, asked[0].decode(), asked[1]))
        except (TimeoutError, ConnectionError):
            return


def _answer(models: Models, run: str, body: bytes) -> Pair:
    try:
        return b"", forecast(models, run, body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        refused: dict[str, Any] = {"kind": "fields", "error": "", "faults": faults}
    except DateshardError as error:
        refused = {"kind": error.kind, "error": str(error)}
    except Exception as error:
        refused = {"kind": "error", "error": str(of_memory(error) or f"{type(error).__name__}: {error}")}
    return to_json(refused), b""


if __name__ == "__main__":
    answer_all(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
