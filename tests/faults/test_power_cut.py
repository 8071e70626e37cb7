"""Real power cuts: a loop-mounted ext4 is shut down under a committing writer, mounted again and read.

Root is needed; without it the test is skipped and says so. The control leaves the flush out and must be caught.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError
from tests.kit.limits import PATIENCE_SECONDS

SHUTDOWN, WITHOUT_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, as xfstests uses it
CUTS = 25


def call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE_SECONDS)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on an ext4 of its own."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(200 << 20)
    call("mkfs.ext4", "-q", str(image))
    try:
        call("mount", "-o", "loop", str(image), str(folder))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mount is not permitted: {error.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=False, timeout=PATIENCE_SECONDS)


def cut(disk: Path, seed: int, protocol: str) -> int:
    """Runs a writer, cuts the power at a random moment, mounts again; the last generation that was acknowledged."""
    (disk / "store").mkdir(exist_ok=True)
    script = Path(__file__).with_name("power_cut_writer.py")
    errors = (disk.parent / "writer.stderr").open("w")
    words = [sys.executable, str(script), str(disk), str(seed), protocol]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
    said: list[int] = []

    def listen() -> None:
        for line in writer.stdout or ():
            said.append(int(line))  # noqa: PERF401 - each must be seen at once

    reading = threading.Thread(target=listen, daemon=True)
    reading.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0.0, 0.6))
    descriptor = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
    os.close(descriptor)
    writer.kill()
    writer.wait(timeout=PATIENCE_SECONDS)
    reading.join(timeout=PATIENCE_SECONDS)
    errors.close()
    if writer.stdout:
        writer.stdout.close()
    call("umount", str(disk))
    call("mount", "-o", "loop", str(disk.parent / "image"), str(disk))
    assert said, (disk.parent / "writer.stderr").read_text()
    return said[-1]


def fault(disk: Path, acknowledged: int) -> str | None:
    """What is wrong with the store: torn files, or an acknowledged generation that is gone."""
    try:
        dataset = Dataset.open(disk / "store")
        damaged = [str(error) for _, error in dataset.verify() if error]
    except DateshardError as error:
        return str(error)
    if damaged:
        return damaged[0]
    return None if dataset.generation >= acknowledged else f"generation {acknowledged} lost, {dataset.generation} found"


@pytest.mark.slow
@pytest.mark.cpu_seconds(600)
def test_no_power_cut_tears_a_shard_or_loses_an_acknowledged_commit(disk: Path) -> None:
    for seed in range(CUTS):
        acknowledged = cut(disk, seed, "good")
        found = fault(disk, acknowledged)
        assert found is None, f"seed {seed}: {found}"


@pytest.mark.slow
@pytest.mark.cpu_seconds(600)
@pytest.mark.parametrize("protocol", ["no-flush", "without fsync"])
def test_the_harness_catches_a_writer_that_does_not_flush(disk: Path, protocol: str) -> None:
    faults = []
    for seed in range(CUTS):
        found = fault(disk, cut(disk, seed, protocol))
        if found:
            faults.append(found)
            shutil.rmtree(disk / "store", ignore_errors=True)  # without any flush it may be gone as a whole
    assert faults, "a harness that passes a bad protocol proves nothing"
