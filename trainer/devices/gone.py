"""What a process meets when another one, with which it trains a run, is no longer there."""

from __future__ import annotations

from dateshard.shardstore.errors import DateshardError

GONE = "another process of this training is gone"


class ProcessGoneError(DateshardError):
    """An exchange with the other processes failed, most often because one of them ended. The first one saves, and ends."""

    exit_code = 75
