"""`dateshard` and `python -m dateshard`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line; every error of ours becomes one sentence and its exit code."""
    # Threads that spin long while they wait make an epoch ten times slower as soon as somebody else uses a core
    # (docs/decisions/0007). It must be said before torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    from dateshard.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
