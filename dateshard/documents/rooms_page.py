"""The page of the house, docs/rooms.md: every room with its modules' first lines, and which room imports which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FLOORS = ("shardstore", "pipeline", "trainer", "dateshard")
HEAD = """# Rooms

Every package (called a room) with the packages that it imports (→) and its modules, each with the first line of its
docstring. `make docs` writes this page. Of the four top-level packages, each imports only those above it on this page. To find
where something is done, search here.
"""


def rooms_page(root: Path) -> str:
    """Makes the whole page from the source below `root`."""
    trees = {path: ast.parse((root / path).read_text()) for path in _files(root)}
    rooms = {path.parent for path in trees}
    return "\n".join([HEAD, *(_room(room, trees, rooms) for room in sorted(rooms, key=_place))])


def _files(root: Path) -> Iterator[Path]:
    """Finds the modules of the floors; the links in `dateshard` lead to floors of their own."""
    for floor in FLOORS:
        for path in sorted((root / floor).rglob("*.py")):
            local = path.relative_to(root)
            if floor != "dateshard" or len(local.parts) < 3 or local.parts[1] not in FLOORS:
                yield local


def _place(room: Path) -> tuple[int, Path]:
    return FLOORS.index(room.parts[0]), room


def _room(room: Path, trees: dict[Path, ast.Module], rooms: set[Path]) -> str:
    """Draws one room: its own sentence, its arrows, a line a module."""
    here = [path for path in trees if path.parent == room]
    arrows = {there for path in here for name in _imported(trees[path]) if (there := _room_of(name, rooms)) != room}
    lines = [f"## {room}\n", f"{_sentence(trees.get(room / '__init__.py'))}\n"]
    if known := sorted(arrows - {None}, key=lambda there: _place(there) if there else (0, room)):
        lines.append(f"→ {', '.join(map(str, known))}\n")
    modules = [path for path in here if path.stem != "__init__"]
    return "\n".join([*lines, *(f"- [{path.stem}](../{path}): {_sentence(trees[path])}" for path in modules)]) + "\n"


def _sentence(tree: ast.Module | None) -> str:
    """Takes the first line of a module's docstring."""
    return ((ast.get_docstring(tree) if tree else None) or "").split("\n")[0]


def _imported(tree: ast.Module) -> Iterator[str]:
    """Walks the full names of what a module imports from this house, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dateshard":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dateshard")


def _room_of(name: str, rooms: set[Path]) -> Path | None:
    """Finds the deepest room that an imported name stands in."""
    parts = name.split(".")
    parts = parts[1:] if len(parts) > 1 and parts[1] in FLOORS else parts
    for length in range(len(parts), 0, -1):
        if (room := Path(*parts[:length])) in rooms:
            return room
    return None


if __name__ == "__main__":
    Path("docs/rooms.md").write_text(rooms_page(Path()))
