"""The columns of a table as the steps of a sequence, against plain numpy; the rest of their contract: tests/contracts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.category_inputs import CategoricalInputs
from dateshard.trainer.models.columns import WIDTH, Columns
from dateshard.trainer.models.shape import Shape

ROWS = 5
TABLE = Shape(
    window=Window(1, 0),
    num_nodes=1,
    num_inputs=4,
    num_outputs=1,
    targets_in_inputs=(-1,),
    steps_per_day=24,
    input_codes=(0, 9, 0, 3),
    columns=(1, 1, 1, 1),
)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """[B, 1, 1, 4]: a number, a code of nine, a number, a code of three."""
    draw = torch.Generator().manual_seed(2)
    history = torch.randn(ROWS, 1, 1, 4, generator=draw)
    history[..., 1] = torch.randint(0, 9, (ROWS, 1, 1), generator=draw)
    history[..., 3] = torch.randint(0, 3, (ROWS, 1, 1), generator=draw)
    return history, torch.full((ROWS, 1), 13 * 8 + 4, dtype=torch.int32)


@pytest.mark.parametrize("missing", [False, True])
def test_a_column_is_a_step_numbers_first_and_each_in_units_of_its_own(missing: bool) -> None:
    class Recording(nn.Module):
        uses_codes = True

        def forward(self, history: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            self.steps, self.codes = history, codes
            return history[:, -1:, :, :1]

    inner, shapes = Recording(), list[Shape]()
    torch.manual_seed(3)
    columns = Columns(TABLE.with_inputs((0, 2), 10, (1, 1, 5, 3)), lambda shape: [inner, shapes.append(shape)][0])
    nn.init.normal_(columns.missing)
    model = CategoricalInputs(columns, (0, 2), {1: 9, 3: 3}, {1: 5, 3: 3})
    history, codes = rows()
    known = torch.ones_like(history, dtype=torch.bool)
    known[2, ..., 2] = known[3, ..., 3] = False
    model(history, codes, known if missing else None)

    numbers, first, second = (
        history[:, 0, 0, [0, 2]].numpy(),
        *(table.weight.detach().numpy() for table in model.embeddings),
    )
    weights = {name: value.detach().numpy() for name, value in columns.named_parameters()}
    expected = np.empty((ROWS, 4, WIDTH), dtype=np.float32)
    expected[:, :2] = numbers[..., None] * weights["weight"]
    expected[:, 2] = first[history[:, 0, 0, 1].long()] @ weights["maps.0.weight"].T
    expected[:, 3] = second[history[:, 0, 0, 3].long()] @ weights["maps.1.weight"].T
    expected += weights["position"]
    if missing:
        expected[2, 1] += weights["missing"][1]
        expected[3, 3] += weights["missing"][3]
    np.testing.assert_allclose(inner.steps[:, :, 0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert inner.codes.tolist() == [[13 * 8 + 4] * 5] * ROWS  # the row's time at every column, and at what follows
    assert shapes[0].window == Window(4, 1)
    assert (shapes[0].num_inputs, shapes[0].columns) == (WIDTH, ())


@pytest.mark.parametrize("name", ["cnn", "lstm", "gru"])
def test_only_a_table_has_its_columns_as_a_sequence(name: str) -> None:
    config = ModelConfig.model_validate({"name": name})
    assert isinstance(build(TABLE, config).inner, Columns)
    assert not any("position" in key for key in build(replace(TABLE, columns=()), config).state_dict())
    assert not any("position" in key for key in build(TABLE, ModelConfig(name="mlp")).state_dict())
    coded = build(TABLE, config.model_copy(update={"embedding_width": 0}))
    assert isinstance(coded, Columns)
    assert coded.weight.shape == (4, WIDTH)  # the bare codes are numbers like others
    history, codes = rows()
    assert coded(history, codes).shape == (ROWS, 1, 1, 1)


@pytest.mark.parametrize("name", ["dlinear", "nlinear", "ridge"])
def test_a_model_of_a_past_does_not_ask_a_table_for_a_horizon(name: str) -> None:
    with pytest.raises(UsageError, match="rows of a table") as caught:
        build(TABLE, ModelConfig.model_validate({"name": name}))
    assert "mlp, stid, cnn, lstm or gru" in caught.value.todo
    assert "horizon" not in caught.value.todo
