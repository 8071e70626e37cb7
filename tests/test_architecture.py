"""The design held by the code's own text: floors, sizes, names, lazy imports, and what may never be called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dateshard.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FLOORS = {
    "shardstore": {"shardstore"},
    "pipeline": {"pipeline", "shardstore"},
    "trainer": {"trainer", "shardstore"},
    "dateshard": {"dateshard", "pipeline", "trainer", "shardstore"},
}
FILES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))
TESTS = sorted(path for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py"))
MOST_IN_A_PACKAGE = 20
MOST_BY_POSITION = 4  # fields of a dataclass
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60  # a place to look, not a measure of what is readable
NO_NOUNS = {"utils", "helpers", "base", "common", "core", "managers", "factories", "callbacks", "misc"}
PRINTING = r"(?<!def )(?<![\w.])print\(|click\.(secho|echo|echo_via_pager)\(|sys\.std(out|err)\.write"
NO_SENTENCE = re.compile(
    r"[^A-Z]"  # a shape, a literal or a name: what becomes of it?
    r"|(Raises|Returns|Yields|Args|Memory):"  # a section alone
    r"|(Of|As|By|For|From(?! now)|In|On|At|Over|Per|With|Within|Without|Beside|Not|Else|Also|Likewise|None)\b"
    r"|(The same|Those|Its|Their)\b"  # than what?
)
HEAVY = ("numpy", "torch", "polars", "pyarrow", "zarr", "pydantic")


@cache
def parsed(path: Path) -> ast.Module:
    """A file's tree, which nobody changes."""
    return ast.parse(path.read_text())


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """No later test's garbage collector walks the trees."""
    yield
    parsed.cache_clear()


def shown(path: Path) -> str:
    """A file as a failure names it."""
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> list[str]:
    """All imported modules and names as written, in functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def floor(name: str) -> str | None:
    """The floor that an imported name stands on; None: another library's."""
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    return None if first != "dateshard" else second if second in FLOORS else "dateshard"


def test_a_file_imports_only_its_own_floor_and_those_below() -> None:
    above = {
        shown(path): {floor(name) for name in imports(parsed(path))} - {None} - FLOORS[path.relative_to(ROOT).parts[0]]
        for path in FILES
    }
    assert {path: floors for path, floors in above.items() if floors} == {}


def module(path: Path) -> str:
    """The name that a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "dateshard" else ("dateshard", *parts))


MODULES = {module(path): path for path in FILES}
PACKAGES = sorted(name for name, path in MODULES.items() if path.stem == "__init__")


def members(package: str) -> set[str]:
    """The modules and packages directly in a package; the three floors below are in `dateshard`."""
    return {name for name in MODULES if name.rpartition(".")[0] == package}


def arrows(package: str) -> dict[str, set[str]]:
    """Which members of a package import which others, with all that is in them; what only types need is left out."""
    found: dict[str, set[str]] = {name: set() for name in members(package)}
    for name, path in MODULES.items():
        if not name.startswith(f"{package}."):
            continue
        here = ".".join(name.split(".")[: package.count(".") + 2])
        for imported in imported_at_work(path):
            there = ".".join(imported.split(".")[: package.count(".") + 2])
            if there in found and there != here:
                found[here].add(there)
    return found


@cache
def imported_at_work(path: Path) -> tuple[str, ...]:
    """What a file imports but for its types."""
    body = [
        node for node in parsed(path).body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    return tuple(imports(ast.Module(body, [])))


def test_a_package_is_small_enough_to_be_seen_at_once() -> None:
    sizes = {package: len(members(package)) for package in PACKAGES}
    assert {package: size for package, size in sizes.items() if size > MOST_IN_A_PACKAGE} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_rooms_of_a_package_import_each_other_in_no_circle(package: str) -> None:
    """A room that imports nothing else in its package is taken away, again and again, until none is left."""
    left = arrows(package)
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, {name: others & left.keys() for name, others in left.items()}


def test_tests_mirror_the_packages() -> None:
    for floor_name in FLOORS:
        folders = {path.parent for path in (ROOT / "tests" / floor_name).rglob("test_*.py")}
        assert folders
        assert all((ROOT / folder.relative_to(ROOT / "tests")).is_dir() for folder in folders)


def test_everything_is_imported_by_the_one_name() -> None:
    """Beside the repository `trainer` can be imported too: that would be every module a second time."""
    others = set(FLOORS) - {"dateshard"}
    second = {
        shown(path): {name for name in imports(ast.parse(path.read_text())) if name.partition(".")[0] in others}
        for path in (*FILES, *TESTS)
    }
    assert {path: names for path, names in second.items() if names} == {}


def unreadable(path: Path) -> Iterator[str]:
    """What of a file is too long, or named by nothing that it holds."""
    if (lines := path.read_text().count("\n")) > MAX_FILE_LINES:
        yield f"{shown(path)}: {lines} lines"
    if path.stem in NO_NOUNS:
        yield f"{shown(path)}: its name"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1 - (ast.get_docstring(node) or "").count("\n")
            if lines > MAX_FUNCTION_LINES:
                yield f"{shown(path)}: {node.name}, {lines} lines"


def test_files_and_functions_stay_readable() -> None:
    assert [fault for path in FILES for fault in unreadable(path)] == []


def undocumented(path: Path) -> Iterator[str]:
    """The module itself and its public functions and classes, where they have no docstring."""
    tree = parsed(path)
    if not ast.get_docstring(tree):
        yield shown(path)
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield f"{shown(path)}: {node.name}"


def test_public_things_say_what_they_are() -> None:
    assert [name for path in FILES for name in undocumented(path)] == []


def unnamed(path: Path) -> list[str]:
    """The dataclasses of a file that have more than `MOST_BY_POSITION` fields and take them by position."""
    return [
        node.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
        and any(re.match(r"dataclass\b(?!.*kw_only=True)", ast.unparse(mark)) for mark in node.decorator_list)
        and sum(isinstance(line, ast.AnnAssign) for line in node.body) > MOST_BY_POSITION
    ]


def test_more_than_four_fields_are_given_by_name() -> None:
    """A figure in another one's place mostly has the same type: nothing else would notice."""
    assert {shown(path): names for path in FILES if (names := unnamed(path))} == {}


TWO_HALVES = {"__init__", "config"}  # of a package, and of the two halves of a configuration


def test_a_file_has_a_name_of_its_own() -> None:
    """The command line and its documents apart: there a file is called by its commands."""
    places: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        room, _, last = name.rpartition(".")
        if path.stem not in TWO_HALVES and room not in ("dateshard.cli", "dateshard.documents"):
            places.setdefault(last, []).append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


VAGUE = {"told", "found", "one", "part"}


def vague(path: Path) -> list[str]:
    """What a file binds to a name that fits everything: results, arguments, fields, functions."""
    named = []
    for node in ast.walk(parsed(path)):
        bound = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id
        given = isinstance(node, ast.arg) and node.arg
        defined = isinstance(node, ast.FunctionDef) and node.name
        if name := (bound or given or defined):
            named += [name] if name in VAGUE else []
    return named


def test_a_result_is_named_by_what_it_holds() -> None:
    assert {shown(path): names for path in FILES if (names := vague(path))} == {}


def is_sentence(line: str) -> bool:
    """Whether a docstring's first line is whole by itself: it names what it speaks of, says something of it, and ends."""
    return (
        NO_SENTENCE.match(line) is None
        and re.search(r"[.!?]['\")`]?$", line) is not None
        and len(re.split(r"\.(?:\s|$)", line)[0].split()) > 2  # two words are a name ("One date.") or lack an object
    )


@pytest.mark.parametrize(
    "line",
    [
        "Raises:",
        "By content.",
        "Of the finite cells of one date.",
        "Those of a node list.",
        "The same for people.",
        "[T, N] values after the transform.",
        "`plan --json`.",
        "commits.jsonl tells people what came when.",
        "Writes whole blocks straight to the disk, where the",
        "Adds one.",
    ],
)
def test_half_a_sentence_is_told_from_a_whole_one(line: str) -> None:
    assert not is_sentence(line)
    assert is_sentence("The id of a node list, made of its content.")
    assert is_sentence("Refuses to read on once the generation was cleaned away.")


def test_a_docstring_begins_with_a_whole_sentence() -> None:
    """A private function's too, where it has one."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    offenders = []
    for path in FILES:
        nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, documented)]
        lines = [text.splitlines()[0] for node in nodes if (text := ast.get_docstring(node))]
        offenders += [f"{shown(path)}: {line}" for line in lines if not is_sentence(line)]
    assert not offenders, "\n".join(offenders)


def test_only_the_device_file_names_cuda() -> None:
    naming = {shown(path) for path in FILES if re.search(r"\bcuda\b", path.read_text())}
    assert naming == {"trainer/devices/device.py"}


def test_text_is_printed_in_one_place() -> None:
    """Where it is escaped; beside it a group's own help, and CSV as it is."""
    printing = {shown(path) for path in FILES if re.search(PRINTING, path.read_text())}
    assert printing == {"dateshard/terminal/screen.py", "dateshard/cli/checkpoints.py", "dateshard/cli/predicting.py"}


def test_commands_in_messages_are_made_in_one_place() -> None:
    """As the reader types them, quoted. Written out they stand in docstrings, help, schemas, and pages read elsewhere."""
    named = re.compile(rf"\bdateshard ({'|'.join(COMMANDS)})\b")
    written = set()
    for path in FILES:
        nodes = list(ast.walk(parsed(path)))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [
            n.value
            for n in nodes
            if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docstrings
        ]
        written |= {shown(path) for text in texts if named.search(text)}
    pages = {f"dateshard/reports/{page}_page.py" for page in ("data_report/data", "judged")}
    assert written == {"dateshard/cli/__init__.py", "dateshard/documents/configuring.py", *pages}


def test_locks_are_taken_in_one_place() -> None:
    taking = {shown(path) for path in FILES if "flock(" in path.read_text()}
    assert taking == {
        "shardstore/disk/lock.py",
        "trainer/checkpoint/removal.py",
        "dateshard/insight/doctor.py",
    }  # let go; tried out


def test_rows_of_dates_are_read_in_one_place() -> None:
    reading = {shown(path) for path in FILES if re.search(r"\.read_observed\(", path.read_text())}
    dumps = "pipeline/recent/dates_from_dumps.py"  # it is such a place, for dates without a shard
    assert reading == {"shardstore/dataset.py", dumps}  # others call read_span, read_rows or read_day


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, click; from dateshard.cli import COMMANDS, root, run;"
        "groups = {n: root.get_command(None, n) for n in COMMANDS};"
        "calls = [[], *([n] for n in COMMANDS)];"
        "calls += [[n, c] for n, g in groups.items() if isinstance(g, click.Group) for c in g.commands];"
        "codes = [run([*call, '--help']) for call in calls];"
        f"heavy = [m for m in {HEAVY} if m in sys.modules];"
        "sys.exit(f'imported {heavy}' if heavy or any(codes) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: dateshard") > 15


def test_the_makefile_calls_nothing_but_the_command_and_its_tools() -> None:
    recipes = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t@$(BIN)/")]
    assert recipes
    assert all(re.match(r"\t@\$\(BIN\)/(dateshard|python|ruff)\b", line) for line in recipes)


def test_a_public_class_has_a_name_of_its_own() -> None:
    found: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
