"""What the pages say can be followed: their links lead somewhere, their commands, configurations and Python are real."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from ruamel.yaml import YAML

import dateshard
from dateshard.cli import root
from dateshard.settings import validate

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [page for page in PAGES if page.parent.name != "decisions"]
NAMES = [page.relative_to(ROOT).as_posix() for page in GUIDES]
ROOMS = ("dateshard", "pipeline", "shardstore", "trainer")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`(dateshard [^`]+)`")
LINE = re.compile(r"^ {4}(dateshard [^|]*?)(?: {2,}.*)?$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    """A page without its fenced blocks, in which brackets are no links."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names by which a link reaches the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).lower()) for text in headings)
    return {text.strip().replace(" ", "-") for text in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    links = [link for link in LINK.findall(without_blocks(page.read_text())) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / unquote(name)).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(text: str) -> Iterator[list[str]]:
    """The words after `dateshard` of each command that a page shows, in a line of its own or within a sentence."""
    for shown in (*SPAN.findall(text), *LINE.findall(text)):
        first = shown.split(" #")[0].replace("[", "").replace("]", "")  # what may be left out
        words = shlex.split(first)[1:]
        if words and not words[0].isupper() and words[0] != "...":
            yield words


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_that_a_page_shows_is_one(name: str) -> None:
    for words in commands((ROOT / name).read_text()):
        command: click.Command = root
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            inner = command.get_command(click.Context(command), rest.pop(0))
            assert inner is not None, words
            command = inner
        command.make_parser(click.Context(command, **root.context_settings)).parse_args(rest)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_that_a_page_shows_is_valid(name: str) -> None:
    """A part of one is laid over that of the README. YAML of Kubernetes and Prometheus is theirs."""
    (whole,) = (text for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if kind == "yaml")
    for kind, text in BLOCK.findall((ROOT / name).read_text()):
        shown = YAML(typ="safe", pure=True).load(text) if kind == "yaml" else None
        if shown and not shown.keys() & {"apiVersion", "scrape_configs"}:
            tree = shown if "dataset" in shown else {**YAML(typ="safe", pure=True).load(whole), **shown}
            assert validate(tree).dataset == tree["dataset"]


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_compiles_and_names_what_dateshard_has(name: str) -> None:
    for kind, text in BLOCK.findall((ROOT / name).read_text()):
        if kind == "python" and name != "docs/python.md":  # that page is made of the code, and has signatures
            compile(text, name, "exec")
            for attribute in re.findall(r"\bdateshard\.([A-Z]\w+)", text):
                assert hasattr(dateshard, attribute), attribute


def test_every_error_that_the_page_of_questions_explains_is_one_that_the_code_says() -> None:
    page = (ROOT / "docs" / "questions.md").read_text().split("## What an error means")[1]
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    sources = " ".join(path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    assert len(messages) > 10
    assert [message for message in messages if message not in sources] == []
