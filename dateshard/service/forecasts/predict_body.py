"""The body of a request for a forecast: the server passes its bytes on, the process that forecasts reads them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, FailFast, Field

Values = Annotated[list[float | None], FailFast()]  # a fault for each value of 1 MB would take 280 MB
Step = Annotated[list[Values], FailFast()]


class PredictBody(BaseModel):
    """Raw values to forecast from: [steps][nodes][inputs], null where nothing was observed."""

    history: Annotated[list[Step], FailFast()]
    until: str = Field(max_length=64, description="the end of the last step: 2013-12-01T14:00, local or with an offset")
    interval: float | None = Field(0.9, gt=0, lt=1, description="share of targets between low and high; null: none")
    checkpoint: str = Field("best", pattern=r"^(best|latest|checkpoint_epoch_\d{1,9}_batch_\d{1,9}(-\d{1,3})?)$")
