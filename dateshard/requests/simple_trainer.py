"""SimpleTrainer: the notes' door to a training on a trace, which prints what their script prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dateshard.requests.request_screen import ShownTraining
from dateshard.requests.request_training import DATA_PATH, RequestTraining, train_requests
from dateshard.shardstore.errors import DateshardError
from dateshard.terminal.screen import screen_of


class SimpleTrainer:
    """Trains models of the next request on a trace: `dateshard.SimpleTrainer().run_simple_training(data_path=...)`.

    Attributes:
        error: why the last training failed; empty if it did not.
    """

    def __init__(
        self,
        models: Sequence[str] = ("lstm", "dlinear"),
        preset: str = "auto",
        model_dir: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Takes what all trainings share.

        Args:
            preset: auto, cpu or gpu. model_dir: None: `data/models`.
            columns: {time, input, output: the file's column}, where its header is not a known one.
        """
        self.models, self.preset, self.columns = tuple(models), preset, columns
        self.model_dir = None if model_dir is None else Path(model_dir)
        self.error = ""

    def run_simple_training(
        self,
        data_path: str | Path = DATA_PATH,
        sample_size: int | None = None,
        *settings: str,
        progress: bool = True,
    ) -> bool:
        """Trains on a trace, shows what was reached, and returns whether every model was trained.

        Args:
            sample_size: the newest so many records; None: 50,000 on a processor, 200,000 on a GPU.
            settings: as `trainer.training.epochs=5`. progress: show it; False: show nothing.
        """
        self.error = ""
        screen = screen_of(progress=progress)
        asked = RequestTraining(
            data_path=str(data_path),
            sample_size=sample_size,
            models=self.models,
            preset=self.preset,
            model_dir=self.model_dir,
            columns=self.columns,
            overrides=settings,
        )
        shown = ShownTraining(screen)
        try:
            outcome = train_requests(asked, shown.watch, progress=progress and sys.stdout.isatty())
        except DateshardError as error:
            self.error = str(error)
            screen.tell(f"Error: {error}")
            return False
        shown.end(outcome)
        self.error = next((model.error for model in outcome.models if model.error), "")
        return not self.error
