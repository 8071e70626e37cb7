"""Trains with a framework as its users do, and prints which windows its model saw.

Arguments: NAME GIVEN WORKERS STORE FOLDER fresh|resumed, in an environment that has the framework. The first process stops in
the second of three epochs, after batch STOP, having saved; a second one, `resumed`, goes on. The last line is
SEEN [[epoch, a batch's print], ...].
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import dateshard

EPOCHS, STOP = 3, 4


def windows_of(store: str) -> Any:
    return dateshard.open(store).windows("train", 12, 6, batch_size=16, days_per_batch=2)


def print_of(history: torch.Tensor) -> str:
    return hashlib.blake2b(history.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def reference(windows: Any) -> list[list[Any]]:
    """What dateshard's own loop sees."""
    return [[epoch, print_of(batch.history_BHNF)] for epoch in range(EPOCHS) for batch in windows]


def history_in(batch: Any) -> torch.Tensor:
    return batch["history"] if isinstance(batch, dict) else batch.history_BHNF


class Linear(torch.nn.Module):
    """Forecasts from all of the history; notes what it sees while it trains."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.map, self.seen, self.epoch = torch.nn.Linear(12, 6), seen, 0

    def forward(self, history: torch.Tensor, target: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen.append([self.epoch, print_of(history)])
        forecast = self.map(history.transpose(1, -1)).transpose(1, -1)
        return {"loss": ((forecast - target) ** 2).mean(), "forecast": forecast}


def with_lightning(windows: Any, folder: Path, loader: Any, *, resumed: bool) -> list[Any]:
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    seen: list[Any] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Linear(seen)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            self.net.epoch = self.current_epoch
            tensors = batch if isinstance(batch, dict) else batch.tensors()
            return self.net(**tensors)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    saved = ModelCheckpoint(dirpath=folder, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        max_steps=-1 if resumed else len(windows) + STOP,
        accelerator="cpu",
        callbacks=[saved],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = folder / f"step={len(windows) + STOP}.ckpt"
    trainer.fit(Module(), loader, ckpt_path=str(path) if resumed else None, weights_only=False)
    return seen


def with_transformers(windows: Any, folder: Path, loader: Any, *, resumed: bool) -> list[Any]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model = Linear([])

    class Own(Trainer):
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(loader)

    class Epoch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            model.epoch = int(state.epoch)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = not resumed and state.global_step == len(windows) + STOP
            return control

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Own(model=model, args=arguments, train_dataset=windows.map_style(), callbacks=[Epoch()])
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{len(windows) + STOP}") if resumed else None)
    return model.seen


def with_accelerate(windows: Any, folder: Path, loader: Any, *, resumed: bool) -> list[Any]:
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), Linear([])
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01), loader)
    if resumed:
        accelerator.load_state(str(folder / "state"))
    for epoch in range(1 if resumed else 0, EPOCHS):
        done = STOP if resumed and epoch == 1 else 0
        loader.set_epoch(epoch)
        rest = accelerator.skip_first_batches(loader, done) if done else loader
        for number, batch in enumerate(rest, start=done):
            model.epoch = epoch
            accelerator.backward(model(**(batch if isinstance(batch, dict) else batch.tensors()))["loss"])
            optimizer.step()
            optimizer.zero_grad()
            if not resumed and (epoch, number + 1) == (1, STOP):
                accelerator.save_state(str(folder / "state"))
                return model.seen
    return model.seen


def with_torchdata(windows: Any, folder: Path, loader: Any, *, resumed: bool) -> list[Any]:
    """Torchdata's StatefulDataLoader: its state is saved after the batch."""
    seen: list[Any] = []
    path = folder / "loader.pt"
    if resumed:
        loader.load_state_dict(torch.load(path, weights_only=False))
    for epoch in range(1 if resumed else 0, EPOCHS):
        (loader.batch_sampler or windows).set_epoch(epoch)
        for number, batch in enumerate(loader, start=STOP if resumed and epoch == 1 else 0):
            seen.append([epoch, print_of(history_in(batch))])
            if not resumed and (epoch, number + 1) == (1, STOP):
                torch.save(loader.state_dict(), path)
                return seen
    return seen


def with_torch(windows: Any, folder: Path, loader: Any, *, resumed: bool) -> list[Any]:
    """Torch's DataLoader: the loop counts, and `set_epoch` goes on."""
    seen: list[Any] = []
    path = folder / "at.json"
    begin = json.loads(path.read_text()) if resumed else [0, 0]
    for epoch in range(begin[0], EPOCHS):
        first = begin[1] if epoch == begin[0] else 0
        (loader.batch_sampler or windows).set_epoch(epoch, first)
        for number, batch in enumerate(loader, start=first):
            seen.append([epoch, print_of(history_in(batch))])
            if not resumed and (epoch, number + 1) == (1, STOP):
                path.write_text(json.dumps([epoch, number + 1]))
                return seen
    return seen


LOOPS: dict[str, Callable[..., list[Any]]] = {
    "torch": with_torch,
    "torchdata": with_torchdata,
    "lightning": with_lightning,
    "transformers": with_transformers,
    "accelerate": with_accelerate,
}


def loader_of(given: str, windows: Any, workers: int) -> Any:
    """What a framework is given, as the page names it: `windows`, `by_number`, `stream`, or `torchdata` and one of these two."""
    if given == "windows":
        return windows
    loader: Any = DataLoader
    if given.startswith("torchdata"):
        from torchdata.stateful_dataloader import StatefulDataLoader

        loader = StatefulDataLoader
    if given.endswith("by_number"):
        return loader(windows.map_style(), batch_sampler=windows.batch_sampler(), num_workers=workers)
    return loader(windows, batch_size=None, num_workers=workers)


if __name__ == "__main__":
    name, given, workers, store, folder, resumed = sys.argv[1:]
    own = windows_of(store)
    if name == "reference":
        result = reference(own)
    else:
        loader = loader_of(given, own, int(workers))
        result = LOOPS[name](own, Path(folder), loader, resumed=resumed == "resumed")
    print("SEEN", json.dumps(result))
