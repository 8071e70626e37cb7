"""What the judge prints: the terms of the replay, a table of replica-hours and misses, and a verdict."""

from __future__ import annotations

from dateshard.service.fleet.fleet_judgement import Judgement, spans, verdict
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen

HEADS = ("predictor", "dial", "hours", "to minimum", "missed", "matched hours")  # within 80 columns
NUMBERS = (2, 3, 4, 5)  # columns that stand to the right


def terms(judgement: Judgement, *, chosen_capacity: bool) -> list[str]:
    """The sentences above the table."""
    service, (days, mean) = judgement.service, spans(judgement)
    note = " (chosen: the busiest interval needs up to ten; measure yours and give --capacity)" * chosen_capacity
    load = judgement.load
    return [
        f"replayed: {days:.1f} days, {mean:,.0f} work a second on the mean "
        f"({service.input_weight:g} an input token, {service.output_weight:g} an output token)",
        f"a replica: {service.capacity:,.4g} work a second{note}, cold start {service.cold_start:g} s",
        f"a request may wait {service.objective:g} s; at most {judgement.most_missed:.2%} of them may wait longer",
        f"each dial was chosen on the {(load.first - load.tuning) * load.interval / 86_400:.1f} days before the replay; "
        "hours are replica-hours, matched ones those of the cheapest setting that keeps the misses in the replay itself, "
        "known with hindsight alone",
    ]


def rows_of(judgement: Judgement) -> list[list[str]]:
    """The table: of each predictor the setting that was chosen before, and the hours of the matched one."""
    rows, matched = [[*HEADS]], judgement.at_matched_misses()
    for name, chosen in judgement.chosen.items():
        best = matched[name]
        beside = "-" if best is None else f"{best.hours:,.1f}"
        if chosen is None:
            rows.append([name, "-", "-", "-", "-", beside])
            continue
        above = f"{chosen.hours / judgement.lowest.hours - 1:+.1%}"
        rows.append([name, chosen.dial, f"{chosen.hours:,.1f}", above, f"{chosen.missed:.2%}", beside])
    lowest = judgement.lowest
    rows.append(["zero-lag minimum", "", f"{lowest.hours:,.1f}", "", f"{lowest.missed:.2%}", ""])
    return rows


def remarks(judgement: Judgement) -> list[str]:
    """What else is to be known of the replay."""
    said = [f"{name} is not judged: {why}" for name, why in judgement.skipped.items()]
    if never := [name for name, each in judgement.chosen.items() if each is None]:
        said.append(
            f"missed more than {judgement.most_missed:.2%} before the replay, whatever the dial: {', '.join(never)}"
        )
    if broke := [name for name, each in judgement.chosen.items() if each and not judgement.kept(name)]:
        said.append(f"missed more than {judgement.most_missed:.2%} with the dial chosen before: {', '.join(broke)}")
    if left := [name for name, each in judgement.chosen.items() if each and each.left > 0]:
        said.append(f"work still waits at the end of the replay of {', '.join(left)}")
    if holes := int((~judgement.load.seen_K[judgement.load.first :]).sum()):
        said.append(f"{counted(holes, 'interval')} touched a hole of the trace and were left out")
    return said


def show(judgement: Judgement, screen: Screen, *, chosen_capacity: bool) -> None:
    """Prints all of it."""
    for sentence in terms(judgement, chosen_capacity=chosen_capacity):
        screen.explain(sentence)
    screen.table(rows_of(judgement), right=NUMBERS)
    for sentence in [*remarks(judgement), verdict(judgement)]:
        screen.explain(sentence)
