"""notebooks/train_model_incremental.ipynb runs: the loop of the notes quickly, all of it in a kernel of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[3] / "notebooks" / "train_model_incremental.ipynb"


def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_loop_of_the_notes_runs_as_the_notebook_has_it(
    make_world: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the notebook makes its data, a small dataset of that name stands."""
    world = make_world(5, nodes=["a", "b"])
    world.tree["dataset"] = "traffic"
    world.prepare()
    names: dict[str, Any] = {}
    for cell in cells():
        if "notes" in cell["metadata"]["tags"]:
            exec("".join(cell["source"]), names)  # code of this repository
    assert names["date_batches"] == [("20240301", "20240302"), ("20240303", "20240304"), ("20240305", "20240305")]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    losses = [float(line.split("train loss ")[1].split(",")[0]) for line in printed]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert not names["valX"].any()  # its memory was given back


def test_the_outputs_that_are_kept_are_of_a_whole_run_and_name_no_place_of_a_machine() -> None:
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    assert sum("<svg " in "".join(output.get("data", {}).get("text/html", "")) for output in outputs) == 1
    for place in ("/tmp", "/home", "/root", "/work", "site-packages", "ipykernel"):
        assert place not in json.dumps(outputs)


@pytest.mark.slow
@pytest.mark.cpu_seconds(600)
def test_the_whole_notebook_runs_in_a_kernel_of_its_own(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    texts = ["".join(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", [])]
    given_back = next(text for text in texts if "after clear_data()" in text)
    assert int(given_back.split("after clear_data() ")[1].split(" %")[0]) >= 90
    (comparison,) = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        if "comparison" in cell["metadata"].get("tags", []) and "bench_epoch" in cell["source"]
        for output in cell["outputs"]
    ]
    rows = [line.split() for line in comparison.splitlines()[3:]]
    assert [row[0] for row in rows] == ["all", "date-batched", "streaming", "blocks", "mapped"]
    assert "skipped" not in comparison
    megabytes = {row[0]: float(row[row.index("MB") - 1]) for row in rows}
    assert megabytes["date-batched"] < megabytes["all"] / 2
