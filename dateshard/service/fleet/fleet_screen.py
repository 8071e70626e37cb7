"""What the judge prints: the terms of the replay, a table of replica-hours at matched misses, and a verdict."""

from __future__ import annotations

from dateshard.service.fleet.fleet_judgement import Judgement, spans, verdict
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen, number


def terms(judgement: Judgement, *, chosen_capacity: bool) -> list[str]:
    """The sentences above the table."""
    service, (days, mean) = judgement.service, spans(judgement)
    note = " (chosen: the busiest interval needs up to ten; measure yours and give --capacity)" * chosen_capacity
    return [
        f"replayed: {days:.1f} days, {mean:,.0f} work a second on the mean "
        f"({service.input_weight:g} an input token, {service.output_weight:g} an output token)",
        f"a replica: {number(service.capacity)} work a second{note}, cold start {service.cold_start:g} s",
        f"a request may wait {service.objective:g} s; at most {judgement.most_missed:.2%} of them wait longer",
    ]


def rows_of(judgement: Judgement) -> list[list[str]]:
    """The table: of each predictor its cheapest setting at matched misses."""
    rows = [["predictor", "replica-hours", "beside the minimum", "missed", "dial"]]
    for name, setting in judgement.at_matched_misses().items():
        if setting is None:
            least = min(each.missed for each in judgement.curves[name])
            rows.append([name, "-", "-", f"{least:.2%} at least", "not reached"])
            continue
        above = setting.hours / judgement.lowest.hours - 1
        rows.append([name, f"{setting.hours:,.1f}", f"{above:+.1%}", f"{setting.missed:.2%}", setting.dial])
    lowest = judgement.lowest
    rows.append(["zero-lag minimum", f"{lowest.hours:,.1f}", "", f"{lowest.missed:.2%}", "all is known, no cold start"])
    return rows


def show(judgement: Judgement, screen: Screen, *, chosen_capacity: bool) -> None:
    """Prints all of it."""
    for sentence in terms(judgement, chosen_capacity=chosen_capacity):
        screen.explain(sentence)
    screen.table(rows_of(judgement), right=(1, 2, 3))
    screen.explain(verdict(judgement))
    left = [name for name, each in judgement.at_matched_misses().items() if each and each.left > 0]
    if left:
        screen.explain(f"work still waits at the end of the replay of {', '.join(left)}")
    if holes := int((~judgement.load.seen_K[judgement.load.first :]).sum()):
        screen.explain(f"{counted(holes, 'interval')} touched a hole of the trace and were left out")
