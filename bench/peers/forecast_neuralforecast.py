"""DLinear of neuralforecast on the dumps: a long frame, each series scaled by itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
from forecast_task import BATCH, HISTORY, HORIZON, NODES, RATE, SEED, STEPS_A_DATE, asked, read_all
from neuralforecast import NeuralForecast
from neuralforecast.models import DLinear


def main() -> None:
    """Trains as many epochs as it is asked for, and prints how many steps that were."""
    task = asked()
    values_LN = read_all(task.files)
    at_L = pd.date_range(task.files[0].stem, periods=len(values_LN), freq="5min")
    frame = pd.DataFrame(
        {"unique_id": np.repeat(np.arange(NODES), len(at_L)), "ds": np.tile(at_L, NODES), "y": values_LN.T.ravel()}
    )
    steps = task.steps * task.epochs
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    model = DLinear(
        h=HORIZON,
        input_size=HISTORY,
        max_steps=steps,
        val_check_steps=task.steps,
        batch_size=NODES,
        windows_batch_size=BATCH,
        learning_rate=RATE,
        random_seed=SEED,
        **trainer,
    )
    forecast = NeuralForecast(models=[model], freq="5min", local_scaler_type="standard")
    forecast.fit(frame, val_size=STEPS_A_DATE)
    print("steps", steps)


if __name__ == "__main__":
    main()
