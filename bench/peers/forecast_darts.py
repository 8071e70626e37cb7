"""DLinear of darts on the dumps: one series a node, scaled by its Scaler."""

from __future__ import annotations

import pandas as pd
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import DLinearModel
from forecast_task import BATCH, HISTORY, HORIZON, RATE, SEED, STEPS_A_DATE, asked, read_all


def main() -> None:
    """Trains as many epochs as it is asked for, and prints how many steps that were."""
    task = asked()
    values_LN = read_all(task.files)
    at_L = pd.date_range(task.files[0].stem, periods=len(values_LN), freq="5min")
    cut = len(values_LN) - STEPS_A_DATE
    train = [TimeSeries.from_times_and_values(at_L[:cut], column[:cut]) for column in values_LN.T]
    held = [TimeSeries.from_times_and_values(at_L[cut:], column[cut:]) for column in values_LN.T]
    scaler = Scaler(global_fit=True)
    train, held = scaler.fit_transform(train), scaler.transform(held)
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    model = DLinearModel(
        HISTORY,
        HORIZON,
        n_epochs=task.epochs,
        batch_size=BATCH,
        random_state=SEED,
        optimizer_kwargs={"lr": RATE},
        pl_trainer_kwargs=trainer,
    )
    model.fit(train, val_series=held)
    print("steps", model.trainer.global_step)


if __name__ == "__main__":
    main()
