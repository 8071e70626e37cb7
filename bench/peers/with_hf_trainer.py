"""HuggingFace's Trainer: a save every 5 steps, `train(resume_from_checkpoint=True)`, ignore_data_skip as by default (False)."""

from __future__ import annotations

from typing import Any

import torch
from task import BATCH, EPOCHS, SAVE_FREQ, SEED, Asked, Rows, asked, keep, kill_after, make_model, note, serve
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments


class Model(nn.Module):
    def __init__(self, given: Asked) -> None:
        super().__init__()
        self.given, self.inner, self.step = given, make_model(), 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        note(self.given, self.step + 1, ids)
        out = self.inner(x)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


class Steps(TrainerCallback):
    def __init__(self, given: Asked, model: Model) -> None:
        self.given, self.model = given, model

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        kill_after(self.given, state.global_step)  # the step before, and its save, are done
        self.model.step = state.global_step


def main() -> None:
    given = asked()
    arguments = TrainingArguments(
        output_dir=str(given.folder / "checkpoints"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH // given.world,
        learning_rate=0.01,
        save_steps=SAVE_FREQ,
        seed=SEED,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_num_workers=given.workers,
    )
    model = Model(given)
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(given), callbacks=[Steps(given, model)])
    trainer.train(resume_from_checkpoint=given.resume or None)
    keep(given, model.inner)


serve(main)
