"""grain: its DataLoader's iterator with get_state and set_state, in a plain torch loop that keeps weights and random state."""

from __future__ import annotations

import os
from typing import Any

import grain.python as grain
import torch
from task import BATCH, EPOCHS, SAVE_FREQ, SEED, asked, keep, kill_after, make_model, note, serve
from torch import nn


class Source:
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:  # by which a checkpoint knows its source
        return f"Source({len(self)} rows)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.rows[index, :8], "labels": self.rows[index, 8:], "ids": index}


def main() -> None:
    given = asked()
    sampler = grain.IndexSampler(
        num_records=len(given.rows_RC),
        shard_options=grain.ShardOptions(int(os.environ.get("RANK", "0")), given.world),
        shuffle=True,
        num_epochs=EPOCHS,
        seed=SEED,
    )
    loader = grain.DataLoader(
        data_source=Source(given.rows_RC),
        sampler=sampler,
        operations=[grain.Batch(BATCH // given.world, drop_remainder=True)],
        worker_count=given.workers,
    )
    model, batches, step = make_model(), iter(loader), 0
    optimizer, path = torch.optim.Adam(model.parameters(), 0.01), given.folder / "last.pt"
    if given.resume:
        kept = torch.load(path, weights_only=False)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["random"])
        batches.set_state(kept["batches"])
        step = kept["step"]
    for batch in batches:
        x, labels, ids = (torch.as_tensor(batch[name]) for name in ("x", "labels", "ids"))
        step += 1
        note(given, step, ids)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), labels).backward()
        optimizer.step()
        if step % SAVE_FREQ == 0:
            kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
            torch.save(kept | {"batches": batches.get_state(), "step": step}, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
        kill_after(given, step)
    keep(given, model)


if __name__ == "__main__":
    serve(main)
