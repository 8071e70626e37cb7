"""Makes small mistakes in the source, one at a time, and says for each which test notices: `make mutants`.

    make mutants                  every change of changes.toml
    make mutants ONLY=resume      those with that word in their name or file

The working tree is never touched: every worker has a copy of it in a temporary folder, makes a change there, runs the
tests that the change names, and undoes it. A change that no test notices fails the run, and so does one whose text is no
longer in its file exactly once. A test that computes for too long counts as one that noticed.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
CHANGES = Path(__file__).with_name("changes.toml")
CPU_SECONDS = 90  # of one test process; the slowest of the list takes a fifth of it
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "ci")
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Change:
    """One mistake: `before` becomes `after` in `file`, and one of `tests` (pytest ids) fails."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change: `caught`, `survived` or `broken` (no test could run), and by which test or why."""

    change: Change
    verdict: str
    why: str


def load(path: Path = CHANGES) -> list[Change]:
    """Reads the changes of a TOML file."""
    rows = tomllib.loads(path.read_text())["change"]
    return [Change(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def stale(root: Path, changes: Iterable[Change]) -> list[str]:
    """Says what is wrong with a list: texts that are not in their file exactly once, tests that do not exist."""
    wrong, names = [], set[str]()
    for change in changes:
        path = root / change.file
        count = path.read_text().count(change.before) if path.is_file() else 0
        if count != 1 or change.before == change.after:
            wrong.append(f"{change.name}: {count} times in {change.file}: {change.before}")
        if change.name in names:
            wrong.append(f"{change.name}: twice in the list")
        names.add(change.name)
        wrong += [f"{change.name}: no test {test}" for test in change.tests if not _exists(root, test)]
    return wrong


def _exists(root: Path, test: str) -> bool:
    file, _, name = test.partition("::")
    path, name = root / file, name.rpartition("::")[2].partition("[")[0]
    return path.is_file() and (not name or f"def {name}(" in path.read_text())


def tracked(root: Path) -> list[str]:
    """Lists the files of the working tree that git does not ignore."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and os.path.lexists(root / name)]


def copy_tree(root: Path, files: Iterable[str], target: Path) -> None:
    """Copies files and compiles them; a changed file is compiled again, however fast it changed."""
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name, follow_symlinks=False)
    compileall.compile_dir(target, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def pytest(copy: Path, words: Sequence[str], limit: int | None = None) -> tuple[int, str]:
    """Runs pytest in a copy of the tree; its exit code, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *PYTEST, "--basetemp", str(copy.with_name(f"{copy.name}-tests")), *words]
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        if limit is not None:
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, limit + 5))
        output, _ = process.communicate()
    return process.returncode, output


def play(copy: Path, change: Change, limit: int) -> Outcome:
    """Makes the change in the copy, runs its tests, and undoes it."""
    path = copy / change.file
    text = path.read_text()
    path.write_text(text.replace(change.before, change.after))
    try:
        code, output = pytest(copy, ["-x", *change.tests], limit)
    finally:
        path.write_text(text)
    failed = FAILED.search(output)
    if code == 0:
        return Outcome(change, "survived", output.strip().rpartition("\n")[2])
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Outcome(change, "caught", f"more than {limit} s of processor time")
    if code < 0:
        return Outcome(change, "caught", f"the test died of {signal.Signals(-code).name}")
    if code == 1 and failed:
        return Outcome(change, "caught", failed[1])
    return Outcome(change, "broken", f"pytest ended with {code}: {output.strip()[-400:]}")


def play_all(root: Path, files: Sequence[str], changes: Sequence[Change], jobs: int, limit: int) -> Iterator[Outcome]:
    """Plays changes in the order of the list, each worker in a copy of its own.

    Raises:
        RuntimeError: the tests fail before anything is changed.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as scratch:
        copies = SimpleQueue[Path]()
        for number in range(jobs):
            copy = Path(scratch, f"copy{number}")
            copy_tree(root, files, copy)
            copies.put(copy)
        tests = sorted({test for change in changes for test in change.tests})
        shared = ["--numprocesses", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
        code, output = pytest(copy, [*shared, *tests])
        if code != 0:
            raise RuntimeError(f"the tests fail before anything is changed:\n{output}")

        def next_free(change: Change) -> Outcome:
            free = copies.get()
            try:
                return play(free, change, limit)
            finally:
                copies.put(free)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(next_free, changes)


def main(root: Path, files: Sequence[str], changes: Sequence[Change], jobs: int = 2, limit: int = CPU_SECONDS) -> int:
    """Plays all changes and prints a row for each; 1 unless every one of them is caught."""
    if wrong := stale(root, changes):
        print(*wrong, sep="\n")
        print(f"{len(wrong)} faults in the list: nothing was run")
        return 1
    counts = dict.fromkeys(("caught", "survived", "broken"), 0)
    try:
        for outcome in play_all(root, files, changes, jobs, limit):
            counts[outcome.verdict] += 1
            change = outcome.change
            print(f"{outcome.verdict:8}  {change.file:32}  {change.name}  <- {outcome.why}", flush=True)
    except RuntimeError as error:
        print(error)
        return 1
    print(f"{len(changes)} changes: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return int(counts["caught"] != len(changes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="changes with this word in their name or file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    chosen = [change for change in load() if given.only in change.name or given.only in change.file]
    if not chosen:
        parser.error(f"no change has '{given.only}' in its name or file")
    sys.exit(main(ROOT, tracked(ROOT), chosen, given.jobs))
