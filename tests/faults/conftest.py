"""A lab to damage, and scenes to have accidents in, each shared by all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import tracing
from tests.kit.accidents import Play
from tests.kit.flips import MARK, SEED, Lab, quick_folder
from tests.kit.zygote import shared


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with quick_folder() as folder:
        yield Lab(folder, SEED)


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Lab]:
    """The lab with nothing damaged; the test stands in its folder, and no payload may have run there."""
    with lab.inside():
        lab.restore()
        yield lab
        assert not Path(MARK).exists(), "a payload ran"


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """With two zygotes, for two cores."""
    if reason := tracing.why_not():
        pytest.skip(reason)
    return Play(tmp_path_factory.mktemp("scenes"), [shared(), shared(1)])
