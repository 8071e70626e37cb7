"""What `--json` prints: one type a command, one file a group of commands.

mypy holds the builders to these types, a test holds real output to the JSON Schemas made of them
(`dateshard schema COMMAND`), and docs/json.md, which `make docs` makes of them, lists every key. Figures that do not
exist are null: a document never holds NaN or infinity. Dates are `2013-03-05`.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from dateshard.documents.backtesting import BacktestDocument
from dateshard.documents.benching import BenchEpochDocument
from dateshard.documents.checkpoints import (
    CheckpointCopyDocument,
    CheckpointExportDocument,
    CheckpointInfoDocument,
    CheckpointLoadDocument,
    CheckpointPinDocument,
    CheckpointsCleanDocument,
    CheckpointsListDocument,
    CheckpointsVerifyDocument,
)
from dateshard.documents.configuring import ConfigCheckDocument, ConfigDocument, DoctorDocument, ErrorDocument
from dateshard.documents.evaluation import EvaluateDocument
from dateshard.documents.insight import DiffDocument, InspectDocument, StatisticsDocument
from dateshard.documents.prediction import ExportModelDocument, PredictDocument
from dateshard.documents.preparing import (
    CleanDocument,
    DropDocument,
    ExportDocument,
    PlanDocument,
    PreprocessDocument,
    StatusDocument,
    VerifyDocument,
)
from dateshard.documents.replay import ReplayDocument
from dateshard.documents.reporting import ReportDocument, ShowDocument
from dateshard.documents.request_judging import RequestsJudgeDocument
from dateshard.documents.request_prediction import RequestsPredictDocument
from dateshard.documents.runs import (
    CompareDocument,
    JudgedRunsDocument,
    RunRow,
    RunsRemovedDocument,
    SeedsDocument,
    TailDocument,
)
from dateshard.documents.serving import JobAnswer, JobsAnswer, StartAnswer, TokenDocument, TokenListRow
from dateshard.documents.training import EstimateDocument, TrainDocument

DOCUMENTS: dict[str, Any] = {
    "plan": PlanDocument,
    "preprocess": PreprocessDocument,
    "status": StatusDocument,
    "verify": VerifyDocument,
    "drop": DropDocument,
    "clean": CleanDocument,
    "export": ExportDocument,
    "train": TrainDocument,
    "estimate": EstimateDocument,
    "bench epoch": BenchEpochDocument,
    "train seeds": SeedsDocument,
    "evaluate": EvaluateDocument,
    "evaluate runs": JudgedRunsDocument,
    "backtest": BacktestDocument,
    "predict": PredictDocument,
    "export-model": ExportModelDocument,
    "requests predict": RequestsPredictDocument,
    "requests judge": RequestsJudgeDocument,
    "runs": list[RunRow],
    "runs rm": RunsRemovedDocument,
    "compare": CompareDocument,
    "tail": TailDocument,
    "replay": ReplayDocument,
    "report": ReportDocument,
    "show": ShowDocument,
    "checkpoints list": CheckpointsListDocument,
    "checkpoints info": CheckpointInfoDocument,
    "checkpoints verify": CheckpointsVerifyDocument,
    "checkpoints load": CheckpointLoadDocument,
    "checkpoints export": CheckpointExportDocument,
    "checkpoints copy": CheckpointCopyDocument,
    "checkpoints clean": CheckpointsCleanDocument,
    "checkpoints pin": CheckpointPinDocument,
    "checkpoints unpin": CheckpointPinDocument,
    "config show": ConfigDocument,
    "config check": ConfigCheckDocument,
    "doctor": DoctorDocument,
    "token create": TokenDocument,
    "token list": list[TokenListRow],
    "jobs list": JobsAnswer,
    "jobs start": StartAnswer,
    "jobs status": JobAnswer,
    "error": ErrorDocument,
    "inspect": InspectDocument,
    "statistics": StatisticsDocument,
    "diff": DiffDocument,
}


def document_schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of one command's document; keys that it does not name are refused.

    Raises:
        KeyError: no command of that name prints JSON.
    """
    schema = TypeAdapter(DOCUMENTS[name]).json_schema(mode="serialization")
    for section in [schema, *schema.get("$defs", {}).values()]:
        if "properties" in section:
            section["additionalProperties"] = False
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": f"dateshard {name} --json"}
