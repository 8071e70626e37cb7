"""The last line of a test run says how many tests could not be run because nothing can be traced here."""

from __future__ import annotations

import pytest

NO_STRACE = "strace is not installed (Debian: apt-get install strace)"
NOT_ALLOWED = "processes may not be traced here"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Counts the tests that were skipped for one of these reasons; the summary is printed already."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", ()) if isinstance(report.longrepr, tuple)]
    for reason in (NO_STRACE, NOT_ALLOWED):
        count = sum(text.endswith(reason) for text in reasons)
        if count:
            reporter.write_line(
                f"NOT RUN: {count} of the tests of failing system calls and sudden ends, because {reason}"
            )
