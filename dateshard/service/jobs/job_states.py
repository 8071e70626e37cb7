"""The states of a job, and which of them a request may move it to.

queued -> starting -> running -> completed | early_stopped | failed
starting, running -> pausing -> paused          starting, running, pausing -> stopping -> stopped
a process that is gone without a word -> interrupted
paused, stopped, interrupted, failed -> queued  (resume: from its last checkpoint)
"""

from __future__ import annotations

from dateshard.shardstore.errors import DateshardError

ACTIVE = ("starting", "running", "pausing", "stopping")  # there is, or may be, a process
RESUMABLE = ("paused", "stopped", "interrupted", "failed")
DONE = ("completed", "early_stopped")
AT_REST = (*RESUMABLE, *DONE)
STATES = ("queued", *ACTIVE, *AT_REST)
LAST_EVENT = dict.fromkeys(DONE, "complete")  # the type of the event that ends a stream; others are called by the state

MOVES: dict[str, dict[str, str]] = {
    "pause": {"queued": "paused", "starting": "pausing", "running": "pausing"},
    "resume": dict.fromkeys(RESUMABLE, "queued"),
    "stop": {
        **dict.fromkeys(("starting", "running", "pausing"), "stopping"),
        **dict.fromkeys(("queued", "paused", "interrupted"), "stopped"),
    },
    "delete": dict.fromkeys(AT_REST, "deleted"),
}


class IllegalMoveError(DateshardError):
    """A request that a job in its state cannot follow."""

    kind = "state"

    def __init__(self, job: str, act: str, state: str) -> None:
        legal = ", ".join(MOVES[act])
        super().__init__(f"{job} is {state}; {act} is for a job that is {legal}")
        self.state = state


def moved(job: str, act: str, state: str) -> str:
    """Returns the state that a request moves a job to.

    Raises:
        IllegalMoveError: a job in this state cannot do that.
    """
    if (there := MOVES[act].get(state)) is None:
        raise IllegalMoveError(job, act, state)
    return there
