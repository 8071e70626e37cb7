"""The user's notes 3 (forecasts of requests), word for word but for the lines that import: their two scripts, their commands."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from dateshard.cli import run
from tests.kit.traces import small_trace

TRAIN = '''#!/usr/bin/env python3
"""
自定义训练脚本示例
"""

import sys
import os
sys.path.append(os.path.dirname(os.path.abspath(__file__)))

from simple_training import SimpleTrainer

def main():
    # 创建简化训练器
    trainer = SimpleTrainer()

    # 运行自定义训练
    success = trainer.run_simple_training(
        data_path='dataset/BurstGPT_1_cleaned.csv',
        sample_size=50000  # 使用5万数据
    )

    if success:
        print("自定义训练完成!")
    else:
        print("训练失败!")

if __name__ == "__main__":
    main()
'''
PREDICT = """from predictor.request_predictor import RequestPredictor
import pandas as pd

# 创建预测器（自动使用训练好的模型）
predictor = RequestPredictor()

# 进行预测
historical_data = pd.read_csv('dataset/BurstGPT_1_cleaned.csv', nrows=1000)
prediction = predictor.predict_next_request(historical_data)

# 查看预测结果
print("预测结果:")
for model_name, pred in prediction['predictions'].items():
    if 'error' not in pred:
        print(f"{model_name}:")
        print(f"  时间戳: {pred['timestamp']}")
        print(f"  请求tokens: {pred['request_tokens']}")
        print(f"  响应tokens: {pred['response_tokens']}")
        if 'confidence' in pred:
            print(f"  置信度: {pred['confidence']}")
"""
COMMANDS = r"""
python simple_training.py
python simple_training.py --data-path dataset/BurstGPT_1_cleaned.csv --sample-size 100000
python production_training.py
python production_training.py --data-path dataset/BurstGPT_1_cleaned.csv --sample-size 100000
python cpu_training.py
python cpu_training.py --sample-size 50000
python production_training.py \
  --data-path dataset/BurstGPT_1_cleaned.csv \
  --sample-size 100000 \
  --model-dir models
python cpu_training.py --sample-size 30000
python production_training.py \
  --sample-size 200000 \
  --models lstm dlinear
python cpu_training.py \
  --sample-size 50000 \
  --models lstm
python simple_training.py --data-path dataset/BurstGPT_1_cleaned.csv
"""
HERE = {"simple_training": "dateshard", "predictor.request_predictor": "dateshard"}
PROGRAMS = {"simple_training.py": (), "production_training.py": (), "cpu_training.py": ("--preset", "cpu")}
DATA = Path("dataset/BurstGPT_1_cleaned.csv")


def started(script: str, name: str) -> None:
    """Runs a script of the notes from a file of that name; its imports alone are changed."""
    for module, ours in HERE.items():
        script = script.replace(f"from {module} import", f"from {ours} import")
    Path(name).write_text(script)
    runpy.run_path(name, run_name="__main__")


def test_the_scripts_of_the_notes_run_but_for_their_import_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setattr(sys, "path", [*sys.path])  # a script of the notes adds to it
    monkeypatch.setenv("DATESHARD__TRAINER__TRAINING__EPOCHS", "1")
    started(TRAIN, "custom_training.py")
    assert capsys.readouterr().out.endswith("Name the file of a trace\n训练失败!\n"), "there is no trace yet"
    DATA.parent.mkdir()
    small_trace(DATA)
    started(TRAIN, "custom_training.py")
    said = capsys.readouterr().out
    assert "trained: 2/2 models" in said
    assert said.endswith("\n自定义训练完成!\n")
    started(PREDICT, "predict.py")
    shown = r"  时间戳: \d+\.\d+\n  请求tokens: \d+\n  响应tokens: \d+\n  置信度: 0\.\d+\n"
    assert re.fullmatch(f"预测结果:\ndlinear:\n{shown}lstm:\n{shown}", capsys.readouterr().out)


def test_the_commands_of_the_notes_are_options_of_requests_train(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS.replace("\\\n", "").strip().splitlines():
        _, program, *options = shlex.split(command)
        assert run(["requests", "train", *PROGRAMS[program], *options]) == 65, command
        assert f"{DATA}: there is no such file" in capsys.readouterr().err, command
