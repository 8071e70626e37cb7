"""Lightning: ModelCheckpoint every 5 steps, `fit(ckpt_path="last")`.

--stateful is its documented best: a loader with state_dict (torchdata's StatefulDataLoader), and a callback whose
state_dict keeps torch's random state.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from task import BATCH, EPOCHS, SAVE_FREQ, SEED, Asked, Rows, asked, keep, kill_after, make_model, note, serve
from torch import nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader


class Module(pl.LightningModule):
    def __init__(self, given: Asked) -> None:
        super().__init__()
        self.given, self.model = given, make_model()

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        note(self.given, self.global_step + 1, batch["ids"])
        return nn.functional.mse_loss(self.model(batch["x"]), batch["labels"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class Kill(Callback):
    def __init__(self, given: Asked) -> None:
        self.given = given

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        kill_after(self.given, trainer.global_step)  # the step before, and its save, are done


class RandomState(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["torch"]

    def on_train_batch_start(self, *_: Any) -> None:
        if hasattr(self, "state"):
            torch.set_rng_state(self.state)
            del self.state


def main() -> None:
    given = asked()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(SEED, workers=True)
    loader = StatefulDataLoader if given.stateful else DataLoader
    saving = ModelCheckpoint(given.folder / "checkpoints", every_n_train_steps=SAVE_FREQ, save_top_k=-1, save_last=True)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=given.world,
        strategy="ddp" if given.world > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=given.folder,
        callbacks=[saving, Kill(given), *([RandomState()] if given.stateful else [])],
    )
    module = Module(given)
    batches = loader(Rows(given), batch_size=BATCH // given.world, shuffle=True, num_workers=given.workers)
    trainer.fit(module, batches, ckpt_path=str(given.folder / "checkpoints" / "last.ckpt") if given.resume else None)
    keep(given, module.model)


serve(main)
