"""The page of the house: made of the source, whole, and with the arrows that the imports draw."""

from __future__ import annotations

from pathlib import Path

from dateshard.documents.rooms_page import rooms_page
from tests.test_architecture import FILES, ROOT

PAGE = (ROOT / "docs" / "rooms.md").read_text()


def test_the_page_is_what_the_modules_say() -> None:
    """`make docs` writes it."""
    assert rooms_page(ROOT) == PAGE


def test_every_module_stands_on_the_page_once() -> None:
    for path in FILES:
        local = path.relative_to(ROOT)
        if local.parts[:2] not in {("dateshard", floor) for floor in ("pipeline", "shardstore", "trainer")}:
            line = f"## {local.parent}\n" if path.stem == "__init__" else f"](../{local}): "
            assert PAGE.count(line) == 1, local


def test_an_arrow_is_an_import_of_another_room_by_any_of_its_spellings(tmp_path: Path) -> None:
    house = {
        "shardstore/__init__.py": '"""The contract."""\n',
        "shardstore/disk/__init__.py": '"""Files."""\n',
        "shardstore/disk/lock.py": '"""Locks\n\nand more."""\nimport dateshard.shardstore.disk\n',
        "pipeline/__init__.py": '"""Preparing."""\ndef f():\n    from dateshard.shardstore import disk\n',
        "trainer/__init__.py": '"""Training."""\nimport json\n\nimport dateshard.shardstore.disk.lock\n',
        "dateshard/__init__.py": '"""The door."""\nfrom dateshard import shardstore\nfrom dateshard.pipeline import f\n',
    }
    for name, text in house.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "dateshard" / "trainer").symlink_to("../trainer")
    rooms = dict(section.split("\n", 1) for section in rooms_page(tmp_path).split("\n## ")[1:])
    assert {name: text.partition("→ ")[2].partition("\n")[0] for name, text in rooms.items()} == {
        "shardstore": "",
        "shardstore/disk": "",
        "pipeline": "shardstore/disk",
        "trainer": "shardstore/disk",
        "dateshard": "shardstore, pipeline",
    }
    assert "- [lock](../shardstore/disk/lock.py): Locks\n" in rooms["shardstore/disk"]
