"""Charts as numbers: where lines begin, what their marks and labels say."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from dateshard.reports.charts import TOP, apart, joined, profile
from dateshard.reports.curves import along, hours, target_steps
from dateshard.reports.forecasts import DrawnWindow, forecast_chart

HOUR = 3600.0
DAY = 1_709_251_200.0  # 2024-03-01T00:00Z


@pytest.mark.parametrize(("count", "every"), [(6, 1), (7, 1), (8, 2), (14, 2), (35, 5), (36, 10), (70, 10), (71, 20)])
def test_at_most_seven_target_steps_are_marked_by_a_round_number(count: int, every: int) -> None:
    axis = target_steps(count)
    assert axis.marks == tuple((k - 1, str(k)) for k in range(every, count + 1, every))
    assert axis.labels[-1] == f"step {count}"


def test_a_forecast_is_drawn_from_its_first_target_step_and_told_beside_the_truth() -> None:
    window = DrawnWindow(
        first=DAY,
        step=HOUR,
        zone="UTC",
        horizon_from=4,
        truth=[1.0, 2.0, None, 4.0, 5.0, 6.0],
        lines=[("mlp", "a", [5.5, 6.5])],
    )
    drawn = forecast_chart(window, "one window")
    (truth,) = re.findall(r'class="ink line" d="M([\d.]+),[\d.]+L([\d.]+),[^"]*M([\d.]+),', drawn)
    (forecast,) = re.findall(r'class="a line" d="M([\d.]+),[\d.]+L([\d.]+),', drawn)
    step = float(truth[1]) - float(truth[0])
    assert float(truth[2]) == pytest.approx(float(truth[0]) + 3 * step, abs=0.2)
    assert [float(x) for x in forecast] == pytest.approx([float(truth[0]) + k * step for k in (4, 5)], abs=0.2)
    labels = re.findall(r'data-labels="([^"]*)"', drawn)[0].split("|")
    assert labels[2] == "Fri 2024-03-01 02:00 · truth not observed"
    assert labels[5] == "Fri 2024-03-01 05:00 · truth 6, mlp 6.5"


def test_a_long_window_is_written_shorter_and_drawn_the_same() -> None:
    rng = np.random.default_rng(1)
    points = [(62 + 0.85 * k, 100 + 80 * float(rng.uniform(-1, 1))) for k in range(500)]
    path = joined(points)
    first, steps = path.removeprefix("M").split("l")
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", steps)]
    places = np.cumsum([[*map(float, first.split(","))], *zip(numbers[::2], numbers[1::2], strict=True)], axis=0)
    assert np.abs(places - np.array(points)).max() < 0.051
    assert len(path) < 0.7 * len("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points))
    window = DrawnWindow(
        first=DAY, step=0.01, zone="UTC", horizon_from=0, truth=[*map(float, range(500))], lines=[], undated=False
    )
    labels = re.findall(r'data-labels="([^"]*)"', forecast_chart(window, "long"))[0].split("|")
    assert len(labels) == 125
    assert (labels[0], labels[-1]) == ("00:00:00.020 · truth 2", "00:00:04.980 · truth 498")


def test_categories_are_called_by_their_names() -> None:
    window = DrawnWindow(
        first=DAY,
        step=HOUR,
        zone="UTC",
        horizon_from=1,
        truth=[1.0, 3.0, 2.0],
        lines=[("mlp", "a", [3.0, 0.0])],
        categories=("bus", "car", "tram"),
    )
    labels = re.findall(r'data-labels="([^"]*)"', forecast_chart(window, "kinds"))[0].split("|")
    assert [label.partition(" · ")[2] for label in labels] == [
        "truth bus",
        "truth tram, mlp tram",
        "truth car, mlp 0",
    ]


@pytest.mark.parametrize("values", [[0.0] * 6, [1.0] * 6, [0.5, 0.51, 0.52, 0.9, 0.91, 0.0], np.linspace(0, 1, 40)])
@pytest.mark.parametrize("draw", ["along", "profile"])
def test_names_stand_beside_their_lines_inside_the_chart_and_cover_no_other(draw: str, values: list[float]) -> None:
    lines = [(f"seasonal of the line {k}", "c", np.full(24, v)) for k, v in enumerate(values)]
    lines[-1] = ("model", "b", lines[-1][2])
    drawn = along(hours(), lines, "title") if draw == "along" else profile(lines, "title")
    names = re.findall(r'<text class="label name [abc]" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', drawn)
    assert [name for *_, name in names if name == "model"]
    assert len({name for *_, name in names}) == len(names) == min(len(lines), 13)
    places = sorted(float(y) - 4 for _, y, _ in names)
    assert min(b - a for a, b in pairwise(places)) >= 12.9
    assert places[0] >= TOP - 0.1
    assert places[-1] <= 176.1


def test_a_name_that_has_room_stands_at_its_line_and_a_crowd_around_its_middle() -> None:
    assert apart([20.0, 60.0, 61.0, 120.0], 10, 170, 13) == pytest.approx([20, 54, 67, 120])
    assert apart([168.0, 169.0, 170.0], 10, 170, 13) == pytest.approx([144, 157, 170])
    assert apart([], 10, 170) == []
