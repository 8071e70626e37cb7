"""Makes docs/performance.md, and the table of figures in README.md, of the newest result of each kind in bench/results/.

    python bench/performance_page.py      `make bench` ends with it

No figure of the page is written by hand. A kind without a result is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.dated import Where, cell, kept  # noqa: E402
from bench.goals import goals  # noqa: E402

BEGIN, END = "<!-- made by bench/performance_page.py -->", "<!-- end of what is made -->"
THEIRS = "times dateshard's"  # heads a column of what another takes; below 1 it is quicker
ABOUT = """# What it costs

The newest result of each kind in [bench/results](../bench/results), as the scripts in `bench/` printed them, with the date and
the load of the machine: `make bench` measures dateshard and the limits of the machine again, `make bench-peers` other
libraries beside it (each in an environment of its own, made by pip), and both make this page anew. CPU seconds are those of
the whole process with its start unless a table says otherwise. Figures of different days or machines cannot be compared;
those in one table were measured by turns.
"""
SECTIONS: dict[str, dict[str, str]] = {
    "Reading": {
        "reader": "One resident block, blocks that are read again every epoch, and mapped files, beside memcpy and torch's "
        "DataLoader in the same process.",
        "reading-peers": "The same windows from other libraries. litdata, MDS and LanceDB store every window, "
        "24 to 192 times the bytes of the series; the others cut windows out of it. The first batch of an epoch is not counted.",
        "reading-limits": "A billion windows, and the memory that blocks hold beside their budget.",
        "rereading": "An epoch from shards beside an epoch from daily CSV, read again for every date or for every batch, and "
        "the memory of a reader beside that of all windows stacked.",
        "epoch": "An epoch of training, and the same steps fed one batch that never changes: what reading and its order cost.",
    },
    "Preparing": {
        "preparing": "Daily dumps of raw rows to verified, durable shards with global statistics, beside the bare parse of the "
        "same files.",
        "preparing-peers": "The same rows through other libraries, which hash nothing and make nothing durable.",
        "workers": "Two workers against one, beside two processes that share nothing, each over half of the dates.",
        "growth": "A store of thousands of dates: nothing to do, one more date, all normalised again.",
        "memory-limit": "What `preprocess --memory-limit` holds beside the limit, on dates that are larger.",
        "memory": "Much more data than memory, under RLIMIT_DATA.",
    },
    "Cost against size": {"costs": "From 1x to 100x in dates, rows, nodes and windows."},
    "Many nodes": {
        "nodes-and-dates": "100,000 nodes and dates of 96 steps, about 8.6 million rows a date: whole commands."
    },
    "Commands": {"startup": "What a command costs before its work."},
    "Training": {
        "small-step": "An epoch of a tiny model, validation, metrics and checkpoints included, beside a plain loop over tensors.",
        "saving": "What a checkpoint costs.",
        "metrics": "Exact metrics over a whole epoch.",
        "forecasters": "One DLinear from daily CSVs, in four libraries.",
    },
}


def page(results: Path) -> str:
    """The whole page."""
    parts, wins = [ABOUT, *goals(results)], list[str]()
    for section, kinds in SECTIONS.items():
        shown = [(newest, about, kind) for kind, about in kinds.items() for newest in kept(results, kind)[-1:]]
        if not shown:
            continue
        parts.append(f"## {section}\n")
        for result, about, kind in shown:
            parts += [f"**{about}** [{result.path.name}](../bench/results/{result.path.name}): {result.about}\n"]
            parts += [f"{table}\n" for table in result.tables]
            if kind == "costs":
                parts += [
                    f"![Cost against {what}](images/cost-{what}.svg)\n"
                    for what in ("dates", "rows", "nodes", "windows")
                ]
            wins += [_won(result.path.name, row, head) for row in result.rows for head in row if _below_one(row, head)]
    if wins:
        parts += ["## Where others need less\n", *wins]
    return "\n".join(parts).rstrip("\n") + "\n"


def _below_one(row: Mapping[str, str], head: str) -> bool:
    return head.startswith(THEIRS) and float(row[head].replace(",", "")) < 1


def _won(name: str, row: Mapping[str, str], head: str) -> str:
    case, how = next(iter(row.values())), head.removeprefix(THEIRS).strip()
    what = f"{row['who']} takes {row[head]} of what dateshard takes{how and f' ({how} imports)'}"
    return f"- {case}: {what} ([{name}](../bench/results/{name}))."


def readme_table(results: Path) -> str:
    """The rows of README.md: those whose results are there."""
    lines = ["| what | dateshard | beside it, in the same run |", "|---|---|---|"]
    for what, kind, ours, others in README:
        for result in kept(results, kind)[-1:]:
            beside = [(name, cell(result, where)) for name, where in others.items()]
            if row := cell(result, ours):
                lines.append(f"| {what} | {row} | {'; '.join(name.format(value) for name, value in beside if value)} |")
    return "\n".join(lines)


def _reader(shape: str, way: str) -> Where:
    return "CPU us a window (min - max)", {"shape": shape, "way": way}


def _peer(windows: str, who: str, head: str = THEIRS) -> Where:
    return head, {"windows": windows, "who": who}


def _prepared(suffix: str, who: str, head: str = "CPU s a date, whole process") -> Where:
    return head, {"format": suffix, "who": who}


def _growth(what: str) -> Where:
    return "CPU s: least (median, most)", {"what": what}


def _nodes(command: str, dates: int) -> Where:
    return f"100,000 nodes, {dates} dates", {"command": command}


_BESIDE = {"memcpy {}": "memcpy", "DataLoader {}": "torch DataLoader"}
_OTHERS = {
    "torch DataLoader": "torch DataLoader",
    "grain": "grain",
    "LanceDB": "LanceDB",
    "MDS": "MosaicML MDS",
    "litdata": "litdata",
}
_TABLES = {
    "duckdb": "duckdb",
    "polars, two passes": "polars, two passes",
    "pandas": "pandas",
    "dask": "dask",
    "HF datasets": "HF",
}
_SHAPES = {"197 kB": "big", "77 kB": "mid", "12 kB": "ett", "5 kB": "long"}
_SUFFIXES = {"CSV": "csv", "Parquet": "parquet"}
_COMMANDS = {
    "preprocess, everything": "`preprocess`", "train": "`train`, as many batches", "evaluate": "`evaluate` of a date",
    "predict": "`predict`", "report RUN": "`report RUN`",
}  # fmt: skip
_WORKERS = "times faster than `1, one thread`"
README: list[tuple[str, str, Where, Mapping[str, Where]]] = [
    *(
        (f"shuffled windows of {size} from one resident block, CPU us each", "reader", _reader(shape, "resident block"),
         {name: _reader(shape, way) for name, way in _BESIDE.items()})
        for size, shape in _SHAPES.items() if shape != "long"
    ),
    ("77 kB, from blocks that are read again every epoch", "reader", _reader("mid", "blocks reloaded"), {}),
    *(
        (f"{size} beside other libraries, CPU us each", "reading-peers", _peer(_SHAPES[size], "dateshard", "CPU us a window"),
         {f"{name} {{}} times": _peer(_SHAPES[size], who) for name, who in _OTHERS.items()})
        for size in ("77 kB", "5 kB")
    ),
    ("an epoch from shards / the same steps fed one fixed batch, CPU", "epoch", ("ratio: median (min - max)", {"": "CPU s"}), {}),
    *(
        (f"a date of 3.03 M rows from {name} to shards, CPU s", "preparing-peers", _prepared(suffix, "dateshard"),
         {"polars only reads it in {}": _prepared(suffix, "polars, bare parse")}
         | {f"{told} {{}} times as much": _prepared(suffix, who, THEIRS) for told, who in _TABLES.items()})
        for name, suffix in _SUFFIXES.items()
    ),
    ("two workers against one, times faster", "workers", (_WORKERS, {"workers": "2"}),
     {"two processes that share nothing {}": (_WORKERS, {"workers": "half of the dates each"})}),
    ("`preprocess` with nothing to do over 3,650 dates, CPU s", "growth", _growth("nothing: many"),
     {"over 14 dates {}": _growth("nothing: few")}),
    ("`preprocess` of one new date beside 3,650, CPU s", "growth", _growth("append: many"),
     {"beside 14 {}": _growth("append: few")}),
    ("opening a dataset of 3,650 dates, CPU s", "growth", _growth("`Dataset.open`"), {}),
    *(
        (f"100,000 nodes, 30 dates of 96 steps: {told}", "nodes-and-dates", _nodes(command, 30),
         {"5 dates {}": _nodes(command, 5)})
        for command, told in _COMMANDS.items()
    ),
]  # fmt: skip


def main() -> None:
    """Writes the page, and the table of README.md."""
    results = ROOT / "bench" / "results"
    (ROOT / "docs" / "performance.md").write_text(page(results))
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{readme_table(results)}\n{END}{after}")


if __name__ == "__main__":
    main()
