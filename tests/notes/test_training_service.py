"""The notes' client of a training service, word for word but for the address and the token, against the command itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.serving import Server, service_world

START = """
import requests
import json

# 配置训练参数
config = {
    "name": "深度学习模型训练",
    "algorithm_type": "deep_learning",
    "model_type": "mlp",
    "epochs": 100,
    "batch_size": 32,
    "learning_rate": 0.001,
    "hidden_units": [128, 64, 32],
    "dropout_rate": 0.2,
    "early_stopping_patience": 10,
    "learning_rate_scheduler": "step",
    "feature_columns": ["feature1", "feature2", "feature3"],
    "target_column": "target",
    "output_path": "/models/deep_learning_model"
}

# 启动训练
response = requests.post(
    "http://localhost:8000/api/v1/epoch-training/start",
    json=config,
    headers={"Authorization": "Bearer your_token"}
)

task_id = response.json()["task_id"]
print(f"训练任务ID: {task_id}")
"""
PROGRESS = """
# 获取训练进度
response = requests.get(f"http://localhost:8000/api/v1/epoch-training/progress/{task_id}")
progress = response.json()["progress"]

print(f"当前epoch: {progress['current_epoch']}")
print(f"训练状态: {progress['training_state']}")
print(f"最新指标: {progress['latest_metrics']}")
"""
STREAM = """
import sseclient

# 实时监控训练进度
response = requests.get(
    f"http://localhost:8000/api/v1/epoch-training/stream-progress/{task_id}",
    stream=True
)

client = sseclient.SSEClient(response)
for event in client.events():
    data = json.loads(event.data)
    if data["type"] == "progress":
        epoch = data["progress"]["current_epoch"]
        metrics = data["progress"]["latest_metrics"]
        print(f"Epoch {epoch}: Loss={metrics['train_loss']:.4f}, Acc={metrics['train_accuracy']:.4f}")
    elif data["type"] == "complete":
        print("训练完成!")
        break
"""
CONTROL = """
# 暂停训练
requests.post(f"http://localhost:8000/api/v1/epoch-training/pause/{task_id}")

# 恢复训练
requests.post(f"http://localhost:8000/api/v1/epoch-training/resume/{task_id}")
"""
FIGURES = {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "time_per_epoch"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    service_world(tmp_path)
    server = Server(tmp_path, "--auth", "start-only", "--output-root", "/models=models", forked=False)
    yield server
    server.close()


def test_the_client_of_the_notes_runs_as_it_is_written(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}

    def run(text: str) -> str:
        port = server.url.rpartition(":")[2]
        exec(text.replace("localhost:8000", f"localhost:{port}").replace("your_token", server.token), names)
        if "response" in names:
            names["response"].close()
        return capsys.readouterr().out

    assert run(START) == f"训练任务ID: {names['task_id']}\n"
    started = names["response"].json()
    assert list(started) == ["success", "task_id", "message", "config"]
    assert (started["success"], started["message"]) == (True, "Epoch训练已启动")
    assert names["config"].items() <= started["config"].items()
    state = run(PROGRESS)
    assert "训练状态: starting" in state or "训练状态: queued" in state
    assert "当前epoch: 0" in state
    lines = run(STREAM).splitlines()
    assert lines[-1] == "训练完成!"
    assert lines[0].startswith("Epoch 1: Loss=")
    epochs = len(lines) - 1
    run(CONTROL)  # of a job that is complete: nothing is to be paused
    run(PROGRESS)
    progress = names["progress"]
    assert list(progress) == ["current_epoch", "total_epochs", "training_state", "latest_metrics", "best_metrics"]
    assert (progress["current_epoch"], progress["total_epochs"]) == (epochs, 100)
    assert progress["training_state"] == "completed" if epochs == 100 else "early_stopped"
    assert set(progress["latest_metrics"]) == FIGURES
    assert set(progress["best_metrics"]) == {"loss", "accuracy"}
    history = server.call("GET", f"/history/{names['task_id']}")
    assert list(history) == ["success", "task_id", "history"]
    assert [set(row) for row in history["history"]] == [FIGURES] * epochs
    assert (server.folder / "models" / "deep_learning_model" / names["task_id"] / "best_model.pth").exists()
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps, "the server itself imports torch"
    assert "libpython" in maps or "python" in maps
