"""What the judge says, as the document of `requests judge --json`."""

from __future__ import annotations

import datetime as dt

from dateshard.documents.request_judging import DialRow, JudgedPredictor, RequestsJudgeDocument, Saving
from dateshard.service.fleet.fleet_judgement import Judgement, spans, verdict
from dateshard.service.fleet.fleet_load import SECOND
from dateshard.service.fleet.replica_hours import CONSTANT, DialSetting


def document_of(judgement: Judgement, file: str, page: str | None, *, capacity_given: bool) -> RequestsJudgeDocument:
    """Writes a judgement as the document."""
    load, service = judgement.load, judgement.service
    seen_J = load.seen_K[load.first :]
    return {
        "file": file,
        "dials_chosen_from": _written(load.start, load.tuning * load.interval),
        "replayed_from": _written(load.start, load.first * load.interval),
        "replayed_until": _written(load.start, len(load.seen_K) * load.interval),
        "intervals": int(seen_J.sum()),
        "left_out": int((~seen_J).sum()),
        "requests": judgement.requests,
        "mean_work": spans(judgement)[1],
        "service": {
            "capacity": service.capacity,
            "capacity_given": capacity_given,
            "input_weight": service.input_weight,
            "output_weight": service.output_weight,
            "cold_start": service.cold_start,
            "objective": service.objective,
            "length": service.interval,
            "fewest": service.fewest,
        },
        "most_missed": judgement.most_missed,
        "minimum": _row(judgement.lowest),
        "predictors": [_predictor(judgement, name) for name in judgement.curves],
        "skipped": dict(judgement.skipped),
        "cheapest": judgement.cheapest,
        "verdict": verdict(judgement),
        "page": page,
    }


def _predictor(judgement: Judgement, name: str) -> JudgedPredictor:
    chosen, matched = judgement.chosen[name], judgement.at_matched_misses()
    ours, constant = matched[name], matched[CONSTANT]
    saved: Saving | None = None
    if ours is not None and constant is not None and name != CONSTANT:
        low, high = judgement.saving(name) or (None, None)
        saved = {"share": 1 - ours.hours / constant.hours, "low": low, "high": high}
    return {
        "name": name,
        "chosen": _row(chosen) if chosen else None,
        "kept": judgement.kept(name),
        "matched": _row(ours) if ours else None,
        "saved": saved,
        "curve": [(setting.hours, setting.missed) for setting in judgement.curves[name]],
    }


def _row(setting: DialSetting) -> DialRow:
    return {"dial": setting.dial, "replica_hours": setting.hours, "missed": setting.missed}


def _written(start: int, seconds: int) -> str:
    return dt.datetime.fromtimestamp(start // SECOND + seconds, dt.UTC).isoformat()
