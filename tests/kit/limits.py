"""What a test may take. Processor time is limited, never time by the clock: the machine may have other work.

A wait for another process has a bound too, which no load reaches: it only turns a hang into a failure.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

CPU_SECONDS = 300.0  # of this process, a test; `@pytest.mark.cpu_seconds(n)` allows another figure
PATIENCE_SECONDS = 1500.0  # for anything that must happen in another process or thread


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fails a test that uses more processor time than it may."""
    mark = item.get_closest_marker("cpu_seconds")
    allowed = float(mark.args[0]) if mark else CPU_SECONDS

    def end(*_: object) -> None:
        pytest.fail(f"more than {allowed:g} s of processor time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, allowed)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
