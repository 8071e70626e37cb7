"""The page of a run that became a model of requests draws its trace, its forecasts and its intervals."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dateshard.cli import run
from dateshard.places import data_in
from dateshard.reports.run import gather
from dateshard.reports.run_page import run_report
from dateshard.requests.request_sections import request_lines, request_sections
from dateshard.trainer.runs.start import locate
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.trained_trace import TrainedTrace


def test_the_page_of_a_model_of_requests_has_the_trace_the_forecasts_and_the_coverage(trained: TrainedTrace) -> None:
    name = next(path.name for path in trained.models.glob("cpu_lstm_*") if path.is_dir())
    with data_in(trained.data):
        training, _ = locate(name, trained.data / "runs")
        page = run_report(gather(training), request_sections(training.folder))
        lines = request_lines(training.folder)
    for section in ("The trace", "The next request", "Intervals over time", "Baselines"):
        assert f"<h2>{section}</h2>" in page
    for title in ("Requests a minute", "gap: coverage over time", "request_tokens: forecast and what came"):
        assert f'aria-label="{title}"' in page
    assert "1,089 records of trace.csv (BurstGPT)" in page
    assert "NaN" not in page
    assert "inside the 90% intervals of" in lines[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_the_page_is_no_wider_than_a_desk_or_a_phone(trained: TrainedTrace) -> None:
    name = next(path.name for path in trained.models.glob("cpu_lstm_*") if path.is_dir())
    with data_in(trained.data):
        assert run(["report", name, "--out", str(Path.cwd() / "report.html")]) == 0
    widths = (1000, 390)  # in frames: headless windows are never as narrow as a phone
    frames = "".join(f'<iframe src="report.html" style="width:{width}px;border:0"></iframe>' for width in widths)
    measure = "[0, 1].map((k) => frames[k].document.documentElement.scrollWidth).join(' ')"
    script = f"<script>addEventListener('load', () => {{ document.body.dataset.wide = {measure}; }});</script>"
    Path("framed.html").write_text(frames + script)
    switches = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom")
    asked = ["chromium", *switches, "--virtual-time-budget=3000", Path("framed.html").absolute().as_uri()]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    wide = re.search(r'data-wide="(\d+) (\d+)"', done.stdout)
    assert wide, done.stderr
    assert all(int(pixels) <= width for pixels, width in zip(wide.groups(), widths, strict=True)), wide.groups()


def test_the_page_of_minutes_has_their_quantiles(trained: TrainedTrace) -> None:
    name = next(path.name for path in trained.models.glob("cpu_minutes_*") if path.is_dir())
    sections = request_sections(trained.data / "runs" / name)
    assert [heading for _, heading, _ in sections] == ["Intervals ahead"]
    assert 'aria-label="count: forecast and what came"' in sections[0][2][0]


def test_another_run_has_none_of_it(tmp_path: Path) -> None:
    assert request_sections(tmp_path) == []
    (tmp_path / "request_model.json").write_text('{"folder": "/nowhere"}')
    assert request_sections(tmp_path) == []
