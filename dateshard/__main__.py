"""`dateshard` and `python -m dateshard`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; every error of ours becomes one sentence and its exit code."""
    from dateshard.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
