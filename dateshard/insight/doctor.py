"""What `dateshard doctor` looks at: this installation, and whether this machine and its disk do what the store needs.

Each check says what it found, and what to do where that is not good. A probe writes into a temporary folder beside the
data and takes it away again.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import mmap
import os
import platform
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.errors import counted

STANDS_ON = {  # distribution: module
    "torch": "torch",
    "numpy": "numpy",
    "polars": "polars",
    "pyarrow": "pyarrow",
    "zarr": "zarr",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "xxhash": "xxhash",
    "click": "click",
    "rich": "rich",
    "ruamel.yaml": "ruamel.yaml",
    "psutil": "psutil",
}
MOST_TOLD = 120  # characters of dates in ranges
FEW_BYTES, LEAST_FILES, LEAST_MAPS = 1 << 30, 4096, 65530
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "vboxsf", "drvfs")
REINSTALL = "Install it again: python -m pip install -c constraints.txt dateshard"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `ok`, `warn` (it works, with less) or `fail`."""

    name: str
    level: str
    value: str
    todo: str = ""


def examine(data: Path) -> Iterator[Check]:
    """All checks, the installation first."""
    yield _python()
    yield from _places()
    wanted = _requirements()
    for distribution, module in STANDS_ON.items():
        yield _library(distribution, module, wanted.get(distribution))
    yield from _guarded("accelerator", _torch)
    yield from _guarded("time zones", _time_zones)
    yield _encoding()
    yield from _guarded("memory", _memory)
    yield from _limits()
    yield from _disk(data)


def examine_configuration(files: Sequence[str], overrides: Sequence[str]) -> Iterator[Check]:
    """Whether a configuration is right, and whether its dumps and its store are there."""
    from dateshard.places import shards_folder
    from dateshard.settings.resolved import check

    settings, faults = check(files, overrides)
    for fault in faults:
        yield Check("configuration", "fail", str(fault))
    if settings is None or faults:
        return
    yield Check("configuration", "ok", f"{', '.join(files)}: dataset {settings.dataset}")
    if settings.pipeline is not None:
        pipeline = settings.pipeline
        yield from _guarded("dumps", lambda: _dumps(pipeline.source.path))
    yield from _guarded("store", lambda: _store(shards_folder(settings.dataset)))


def _dumps(path: str) -> Check:
    from dateshard.pipeline.raw.dumps import find_dumps, find_files, is_one_file, no_match
    from dateshard.shardstore.times.calendar import collapse

    if is_one_file(path):
        count, sentence = len(find_files(path)), f"one table of many dates: {path}"
    else:
        dumps = find_dumps(path)
        count, sentence = len(dumps), f"{counted(len(dumps), 'date')}: {collapse(dumps)}"
    if count:
        return Check("dumps", "ok", sentence if len(sentence) < MOST_TOLD else counted(count, "date"))
    return Check("dumps", "warn", no_match(path), "Correct pipeline.source.path, or the folder you are in")


def _store(root: Path) -> Check:
    from dateshard.shardstore.dataset import Dataset
    from dateshard.shardstore.errors import NotThereError, StoreError

    try:
        dataset = Dataset.open(root)
    except NotThereError:
        return Check("store", "ok", f"nothing prepared yet in {root}", to_run("preprocess", config=True))
    except StoreError as error:
        return Check("store", "fail", str(error))
    return Check("store", "ok", f"{root}: generation {dataset.generation}, {counted(len(dataset.days), 'date')}")


def _guarded(name: str, look: Callable[[], Check]) -> Iterator[Check]:
    """A check that stands on a library, which may be the very thing that is broken."""
    try:
        yield look()
    except Exception as error:
        yield Check(name, "fail", f"{type(error).__name__}: {error}".splitlines()[0], "Mend what fails above first")


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check(
        "python", "ok" if good else "fail", platform.python_version(), "" if good else "Use Python 3.11 or newer"
    )


def _places() -> Iterator[Check]:
    """Where this package lies, and others of its name on the path: they win as soon as the path's order changes."""
    own = Path(__file__).resolve().parent.parent
    yield Check("dateshard", "ok", str(own))
    for folder in dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path):
        for path in (folder / "dateshard" / "__init__.py", folder / "dateshard.py"):
            if path.exists() and path.resolve().parent != own:
                todo = "Uninstall it, or use an environment of its own: it may win the import elsewhere"
                yield Check("another dateshard", "warn", str(path), todo)


def _requirements() -> dict[str, str]:
    """Returns {distribution: least version} as this package declares them; nothing where it is not installed."""
    try:
        declared = importlib.metadata.requires("dateshard") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    matches = (re.match(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)(?!.*extra)", text) for text in declared)
    return {match[1]: match[2] for match in matches if match}


def _library(distribution: str, module: str, least: str | None) -> Check:
    try:
        import_module(module)
        installed = importlib.metadata.version(distribution)
    except Exception as error:
        return Check(distribution, "fail", f"{type(error).__name__}: {error}".splitlines()[0], REINSTALL)
    if least and _numbers(installed) < _numbers(least):
        return Check(distribution, "fail", f"{installed}, {least} or newer is needed", REINSTALL)
    return Check(distribution, "ok", installed)


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version.split("+")[0])[:3]]


def _torch() -> Check:
    from dateshard.trainer.devices.device import describe

    kind, accelerator = describe()
    if accelerator:
        return Check("accelerator", "ok", accelerator)
    if kind == "cpu":
        return Check("accelerator", "ok", "none; torch is its CPU build")
    todo = "Without an accelerator the CPU build of torch is enough, and several GB smaller (README)"
    return Check("accelerator", "warn", f"none found; torch is built for {kind}", todo)


def _time_zones() -> Check:
    from dateshard.shardstore.errors import UsageError
    from dateshard.shardstore.times.calendar import day_of, parse_step

    try:
        hours = day_of(date(2024, 3, 10), "America/New_York", parse_step("1h")).num_steps
    except UsageError as error:
        return Check("time zones", "fail", str(error), "Install tzdata: python -m pip install tzdata")
    try:
        version = f"tzdata {importlib.metadata.version('tzdata')}"
    except importlib.metadata.PackageNotFoundError:
        version = "of this system"
    if hours != 23:
        return Check("time zones", "fail", f"New York's 2024-03-10 has {hours} hours, not 23", "Install tzdata again")
    return Check("time zones", "ok", version)


def _encoding() -> Check:
    names = {sys.getfilesystemencoding().lower(), (sys.stdout.encoding or "utf-8").lower()}
    if names <= {"utf-8", "utf8"}:
        return Check("text", "ok", "UTF-8")
    return Check("text", "warn", ", ".join(sorted(names)), "Set PYTHONUTF8=1: names may hold any character")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    return Check("memory", "ok", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free")


def _limits() -> Iterator[Check]:
    cores, threads = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    yield Check("cores", "ok", f"{cores}" + (f", OMP_NUM_THREADS={threads}" if threads else ""))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = hard != resource.RLIM_INFINITY and hard < LEAST_FILES
    todo = f"Raise it (ulimit -Hn {LEAST_FILES}): each mapped date takes one, else blocks are read" if few else ""
    limit = "no limit" if hard == resource.RLIM_INFINITY else f"{soft:,} (can be raised to {hard:,})"
    yield Check("open files", "warn" if few else "ok", limit, todo)
    try:
        maps = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        yield Check("memory maps", "warn", "this system does not say", "Use loading.policy: blocks for many dates")
        return
    few = maps < LEAST_MAPS
    todo = f"Raise it (sysctl vm.max_map_count={LEAST_MAPS}), or use loading.policy: blocks" if few else ""
    yield Check("memory maps", "warn" if few else "ok", f"{maps:,}", todo)


def _disk(data: Path) -> Iterator[Check]:
    there = next(path for path in (data, *data.absolute().parents) if path.exists())
    free = os.statvfs(there).f_bavail * os.statvfs(there).f_frsize
    todo = "Free some: preprocess stops with exit 28 when it is used up" if free < FEW_BYTES else ""
    yield Check("data", "ok", str(data.resolve()))
    yield Check("free disk", "warn" if todo else "ok", f"{free / 1e9:.1f} GB", todo)
    kind = _file_system(there)
    network = kind in NETWORK
    todo = "Locks and renames on a network disk depend on its server: keep data on a local disk" if network else ""
    yield Check("file system", "warn" if network else "ok", kind, todo)
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as folder:
            for name, probe in PROBES.items():
                yield _probe(name, probe, Path(folder))
    except OSError as error:
        yield Check(
            "writing", "fail", f"{there}: {error.strerror}", "Set DATESHARD_DATA to a folder that you may write"
        )


def _probe(name: str, probe: Callable[[Path], None], folder: Path) -> Check:
    todo = "The store needs it: set DATESHARD_DATA to a folder on a disk that has it (ext4, xfs, btrfs, tmpfs)"
    try:
        probe(folder)
    except (OSError, AssertionError) as error:
        what = getattr(error, "strerror", None) or str(error)
        return Check(name, "fail", what or "does not do what it says", todo)
    return Check(name, "ok", "works")


def _lock(folder: Path) -> None:
    with open(folder / "lock", "w") as first, open(folder / "lock", "w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise AssertionError("two holders of one lock")


def _link(folder: Path) -> None:
    (folder / "a").write_text("a")
    os.link(folder / "a", folder / "b")
    try:
        os.link(folder / "a", folder / "b")
    except FileExistsError:
        return
    raise AssertionError("a name was taken twice")


def _rename(folder: Path) -> None:
    (folder / "old").write_text("old")
    (folder / "new").write_text("new")
    (folder / "new").replace(folder / "old")
    assert (folder / "old").read_text() == "new", "the old file is still there"
    (folder / "from").mkdir()
    (folder / "from").rename(folder / "to")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _map(folder: Path) -> None:
    (folder / "mapped").write_bytes(b"12345678")
    with open(folder / "mapped", "rb") as file, mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == b"12345678", "other bytes than were written"


PROBES = {
    "lock (flock)": _lock,
    "link": _link,
    "rename": _rename,
    "fsync of a folder": _sync_folder,
    "read-only map": _map,
}


def _file_system(folder: Path) -> str:
    """Type of the file system that a folder is on, by the longest mount point above it."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    place = folder.resolve()
    above = [(len(m[1]), m[2]) for m in mounts if place.is_relative_to(m[1].replace("\\040", " "))]
    return max(above)[1] if above else "unknown"
