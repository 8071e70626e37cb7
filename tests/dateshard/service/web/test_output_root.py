"""Paths of clients: below the root, whatever they hold, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dateshard.service.web.output_root import OutputRoot
from dateshard.service.web.problems import ProblemError
from dateshard.shardstore.errors import UsageError

WORDS = st.sampled_from(
    ["..", ".", "", "/", "//", "~", "models", "other", "link", "\x00", "\n", "a" * 300, "\ud800", "深度", "C:", "\\"]
)
PATHS = st.one_of(
    st.lists(WORDS, max_size=8).map("/".join),
    st.text(max_size=60),
    st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=6).map(lambda names: "/models/" + "/".join(names)),
)


def world(folder: Path) -> OutputRoot:
    """A root with a link out of it, a link in a circle, and a neighbour whose name begins like its own."""
    root = folder / "root"
    root.mkdir()
    (folder / "root_of_another").mkdir()
    (root / "link").symlink_to(folder / "root_of_another")
    (root / "circle").symlink_to(root / "circle")
    (root / "inside").symlink_to(root / "a")
    return OutputRoot.of(f"/models={root}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> OutputRoot:
    return world(tmp_path_factory.mktemp("roots"))


def check(root: OutputRoot, text: str) -> bool:
    """Whether a path is followed; then it leads below the root, also when every link is."""
    try:
        folder = root.below(text)
    except ProblemError as error:
        return [error.status, error.errors[0].field] != [422, "output_path"]
    assert folder.is_relative_to(root.folder)
    assert folder.resolve().is_relative_to(root.folder)
    assert folder != root.folder
    return True


@given(text=PATHS)
@example(text="/models/../etc")
@example(text="/models_of_another/x")
@example(text="link/x")
@settings(max_examples=300)
def test_no_path_leads_out_of_the_root(root: OutputRoot, text: str) -> None:
    check(root, text)


@pytest.mark.slow
@given(text=PATHS)
@settings(max_examples=10_000)
def test_none_of_ten_thousand_paths_leads_out_of_the_root(root: OutputRoot, text: str) -> None:
    check(root, text)


@pytest.mark.parametrize(
    ("text", "followed"),
    [
        ("/models/deep_learning_model", True),
        ("深度/模型", True),
        ("a/b/../c", False),
        ("/models", False),
        ("/models/", False),
        ("", False),
        (".", False),
        ("/etc/passwd", False),
        ("/models2/x", False),
        ("link", False),
        ("link/x", False),
        ("circle/x", False),
        ("inside/x", True),
        ("~/x", False),
        ("a\x00b", False),
    ],
)
def test_a_path_is_followed_or_refused(root: OutputRoot, text: str, followed: bool) -> None:
    assert check(root, text) == followed


def test_a_root_without_a_name_is_called_by_its_own_path(tmp_path: Path) -> None:
    root = OutputRoot.of(str(tmp_path))
    assert root.below(f"{tmp_path}/x") == root.below("x") == tmp_path / "x"
    for text in ("models=x", "/models=", "/a/../b=x"):
        with pytest.raises(UsageError, match="Write it like /models=data/models"):
            OutputRoot.of(text)
