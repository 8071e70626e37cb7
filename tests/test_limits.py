"""The limits of tests themselves."""

from __future__ import annotations

import time

import pytest
import torch


def spin() -> None:
    while True:
        pass


@pytest.mark.cpu_seconds(0.2)
def test_a_test_that_uses_more_processor_time_than_it_may_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"more than 0\.2 s of processor time"):
        spin()


@pytest.mark.cpu_seconds(0.2)
def test_waiting_uses_none() -> None:
    time.sleep(0.3)
    assert torch.get_num_threads() == 1
