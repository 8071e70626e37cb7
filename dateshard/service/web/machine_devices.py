"""A job may train in as many processes as this machine has cores, or accelerators where it trains on those."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from dateshard.service.web.problems import field_problem
from dateshard.shardstore.errors import UsageError, counted
from dateshard.trainer.config import Trainer
from dateshard.trainer.devices.unshared import refuse_unshared

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # without one of these, torch finds no accelerator
COUNT = "import os; from dateshard.trainer.devices import device; os.write(1, b'%d' % device.count_accelerators())"
WAIT_SECONDS = 60


def choose_devices(asked: int | str, trainer: Trainer) -> int:
    """The number of processes that a start asks for, `all` being every accelerator.

    Raises:
        ProblemError: this machine has not so many, or what is trained cannot be shared.
    """
    if asked == 1:
        return 1
    device = trainer.training.device
    on_cores = device == "cpu" or (device == "auto" and not count_accelerators())
    if on_cores and asked != "all":
        have, what = len(os.sched_getaffinity(0)), "core"
    else:
        have, what = count_accelerators(), "accelerator"
    number = have if asked == "all" else int(asked)
    if number > have or not have:
        has = f"this machine has {counted(have, what) if have else f'no {what}'}"
        raise field_problem("devices", f"{asked} is more than {has}" if have else has)
    try:
        refuse_unshared(trainer, number)
    except UsageError as error:
        raise field_problem("devices", f"{error.what}; leave it out") from None
    return number


def count_accelerators() -> int:
    """How many accelerators torch finds here; none where it could not be asked, which the next start tries again."""
    if not any(Path(driver).exists() for driver in DRIVERS):
        return 0
    try:
        return _ask_torch()
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


@cache  # an answer stays, a failure is none
def _ask_torch() -> int:
    """Asks in a process of its own: the server never imports torch."""
    return int(
        subprocess.run([sys.executable, "-c", COUNT], capture_output=True, timeout=WAIT_SECONDS, check=True).stdout
    )
