"""Commands whose every step is worth an accident: one row in `SCENES` each.

A scene is a folder with dumps, a configuration and `before/` (what `data/` holds when the command begins), and what an
undisturbed run leaves. Each accident happens in a fresh copy of it, and `judge` says what is wrong afterwards.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.identity import canonical
from dateshard.shardstore.manifest import generations
from dateshard.shardstore.pinning.pins import judge_pins
from dateshard.shardstore.pinning.runs_id import runs_id
from dateshard.trainer import checkpoint, loop
from dateshard.trainer.runs.start import New, start
from tests.conftest import World, build_world
from tests.kit.events import FIRST, event_world, make_records
from tests.kit.events import write as write_events
from tests.kit.states import State, committed, content, differing, files_below, left_behind
from tests.kit.zygote import MAIN, WRITER, Zygote

STORE, RUN = Path("data/shards/world"), Path("data/runs/cut")
DATE = dt.date(2024, 3, 1)  # the date whose dump changes
PREPARE = ("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
TRAIN = ("train", "-c", "config.yaml", "--run", "cut", "-q")
BOTH = {"train": "2024-03-01..2024-03-02"}


Look = Callable[[Path], State | None]
Position = tuple[int, ...]


@dataclass(slots=True)
class Scene:
    """One command and what may be there afterwards.

    Attributes:
        observe: what is there, verified, as {name: bytes}; None if nothing was committed. It raises where anything is
            torn.
        again: the command that ends the work after an accident.
        partway: states between the old and the new are allowed, as long as every single thing is one of them: a
            training with the checkpoints so far, a cleaning that has not removed everything yet.
        look: what a reader sees while the command runs (`observe`, unless that would race with it).
        final: all that an undisturbed run leaves (`observe`, unless more can be compared then).
        protocol: a bad one that everything is run with.
        position: how far a thing of this name is, where what is there may never fall behind what was there.
        forgets: older things go as newer ones come.
        known: all that may ever be there.
        threads: those that change what is on disk.
        old, new, end, seen: what these find before (old, seen[0]) and after an undisturbed run (new, end, seen[1]).
    """

    name: str
    folder: Path
    words: tuple[str, ...]
    observe: Look
    again: Callable[[Path], tuple[str, ...]]
    partway: bool = False
    look: Look | None = None
    final: Look | None = None
    protocol: str | None = None
    position: Callable[[str], Position] | None = None
    forgets: bool = False
    known: State = field(default_factory=dict)
    threads: tuple[str, ...] = (MAIN,)
    old: State | None = None
    new: State = field(default_factory=dict)
    end: State | None = None
    seen: tuple[State | None, State | None] = (None, None)
    seconds: float = 0.0

    def fresh(self, name: str) -> Path:
        """A working directory of that name in the state before the command."""
        cwd = self.folder / name
        shutil.rmtree(cwd, ignore_errors=True)  # of an accident that the harness failed in
        cwd.mkdir()
        shutil.copy(self.folder / "config.yaml", cwd)
        if (self.folder / "before").exists():
            shutil.copytree(self.folder / "before", cwd / "data")
        return cwd

    def learn(self, zygote: Zygote) -> None:
        """Notes what is there before and after an undisturbed run, and how long it takes."""
        cwd = self.fresh("undisturbed")
        look, final = self.look or self.observe, self.final or self.observe
        self.old, before = self.observe(cwd), look(cwd)
        began = time.monotonic()
        ended = zygote.run(self.words, cwd, protocol=self.protocol)
        self.seconds = time.monotonic() - began
        assert ended.code == 0, ended.err
        self.new, self.end, self.seen = self.observe(cwd) or {}, final(cwd), (before, look(cwd))
        assert self.new != self.old
        shutil.rmtree(cwd)
        self.known = {**self.new, **(self.old or {})}
        if self.forgets:
            cwd = self.fresh("everything")
            ended = zygote.run(self.words, cwd, protocol="nothing goes")
            assert ended.code == 0, ended.err
            self.known |= self.observe(cwd) or {}
            assert len(self.known) > len(self.new)
            shutil.rmtree(cwd)

    def place(self, found: State | None) -> Position:
        """The furthest of all that is there; () where nothing is."""
        return max(map(self.position, found), default=()) if self.position and found else ()

    def judge(self, cwd: Path, *, acknowledged: bool = False, floor: Position = ()) -> str | None:
        """What is wrong with what an accident left behind; None if it is the old state or the new one, whole.

        Args:
            acknowledged: the command had said success before: only the new state is right.
            floor: how far what was there had come before.
        """
        try:
            found = self.observe(cwd)
        except Exception as error:  # whatever a reader would meet
            return f"{type(error).__name__}: {error}"
        if found == self.new:
            return None
        if acknowledged:
            return f"acknowledged, and gone: {differing(found or {}, self.new)}"
        if self.place(found) < floor:
            return f"{floor} was there, now {self.place(found)}"
        if self.partway:
            strange = [name for name, data in (found or {}).items() if self.known.get(name) != data]
            return f"neither old nor new: {strange}" if strange else None
        if found == self.old or (found and self.old and same(found, self.old)) or (found and same(found, self.new)):
            return None
        return f"neither the old state nor the new: {differing(found or {}, self.new)}"

    def finish(self, zygote: Zygote, cwd: Path) -> str | None:
        """Ends the work without faults; what then differs from an undisturbed run."""
        ended = zygote.run(self.again(cwd), cwd, protocol=self.protocol)
        if ended.code != 0:
            return f"afterwards exit {ended.code}: {ended.err}"
        try:
            found = (self.final or self.observe)(cwd) or {}
        except Exception as error:
            return f"afterwards {type(error).__name__}: {error}"
        if names := differing(found, self.end or {}):
            return f"afterwards other bytes: {names}"
        left = [path.name for path in (cwd / STORE / "staging").glob("*")]
        return f"left in staging: {left}" if left else None


def same(one: State, other: State) -> bool:
    """Equal, but for the numbers of copies: a folder that could not be read is published again as `<id>-2`."""
    return _unnumbered(one) == _unnumbered(other)


def _unnumbered(state: State) -> State:
    found = {}
    for name, data in state.items():
        if name in (".json", ".sources.json"):
            text = canonical(json.loads(data)["content"]).decode()
            data = re.sub(r'("id":"|"parquet":\[")([0-9a-f]+)-\d+', r"\1\2", text).encode()
        found[re.sub(r"-\d+(?=/[^/]*$|/(?:values|time|observed)/)", "", name)] = data
    return found


def observe_store(cwd: Path) -> State | None:
    """The current generation, verified."""
    return committed(cwd / STORE)


def observe_kept(cwd: Path) -> State | None:
    """All generations that are there, each verified, and the names of everything that is published."""
    found: State = {}
    for number in generations(cwd / STORE):
        dataset = Dataset.open(cwd / STORE, number)
        assert [(name, str(error)) for name, error in dataset.verify() if error] == []
        found |= {f"{number}:{name}": data for name, data in content(dataset).items()}
    for kind in ("staged", "partials", "shards", "nodes", "statistics", "manifests", "pins"):
        files = (path for path in (cwd / STORE / kind).rglob("*") if path.is_file() and path.name != "lock")
        found |= {str(path.relative_to(cwd / STORE)): path.read_bytes() for path in files}
    return found


def observe_cleaned_store(cwd: Path) -> State | None:
    """The same, of which the generation is never missing that a run on a disk that is not there needs."""
    assert 1 in generations(cwd / STORE), "the generation of a run that may live is gone"
    return observe_kept(cwd)


def observe_checkpoints(cwd: Path) -> State | None:
    """All checkpoints of the run that are listed, verified to the last byte; its runs folder's id is whole, or absent."""
    runs_id(cwd / RUN.parent)
    found, passed = checkpoint.scan(cwd / RUN / "checkpoints")
    assert passed == []
    state = {}
    for one in found:
        checkpoint.read_files(one)
        state |= {f"{one.name}/{name}": (one.folder / name).read_bytes() for name in ("manifest.json", *one.files)}
    return state


def pinned(cwd: Path) -> State:
    """How many pins of the run are there; each finds it."""
    looks = judge_pins(cwd / STORE)
    assert all(look.there for look in looks), looks
    return {"pins": str([look.pin.run for look in looks]).encode()}


def observe_while_they_go(cwd: Path) -> State | None:
    """The same beside a process that removes some: one that is gone by now need not be whole."""
    state: State = {}
    for folder in (cwd / RUN / "checkpoints").glob("checkpoint_epoch_*"):
        if folder.suffix == ".pth":
            continue
        try:
            one = checkpoint.inspect(folder)
            checkpoint.read_files(one)
            found = {f"{one.name}/{name}": (folder / name).read_bytes() for name in ("manifest.json", *one.files)}
        except (OSError, StoreError):
            if folder.exists():
                raise
            continue
        state |= found
    return state


def position(name: str) -> Position:
    """Epoch and batch of a checkpoint or a file of it."""
    found = re.match(r"checkpoint_epoch_(\d+)_batch_(\d+)", name)
    assert found, name
    return int(found[1]), int(found[2])


def continue_run(cwd: Path) -> tuple[str, ...]:
    """Before run.json there is no run: the same command begins it."""
    return ("train", "--resume", "cut", "-q") if (cwd / RUN / "run.json").exists() else TRAIN


def change_dump(world: World, date: dt.date = DATE, by: float = 7.0) -> None:
    """Another dump for one date: every speed is so much higher."""
    world.rows[date] = [(at, node, None if x is None else x + by, y) for at, node, x, y in world.rows[date]]
    world.write(date)


Prepare = Callable[[World], None]  # runs preprocess in the world's folder


def first(folder: Path, prepare: Prepare) -> Scene:
    """The first preprocess of two dates."""
    build_world(folder, 2, split=BOTH).config_file()
    return Scene("preprocess", folder, PREPARE, observe_store, lambda _: PREPARE)


def _changed(folder: Path, prepare: Prepare) -> None:
    """Two dates, prepared; then another dump for the first."""
    world = build_world(folder, 2, split=BOTH)
    world.config_file()
    prepare(world)
    change_dump(world)


def _events(folder: Path) -> World:
    """Two dates of events, cut by session, whose sessions are divided."""
    records = {date: make_records(date, 30, ("a", "b", "c"), 5) for date in (FIRST, FIRST + dt.timedelta(days=1))}
    split = {"by": "session", "train": 0.6, "validation": 0.4}
    world = event_world(folder, records, cut=True, split=split)
    world.config_file()
    return world


def events(folder: Path, prepare: Prepare) -> Scene:
    """The first preprocess of two dates of events."""
    _events(folder)
    return Scene("events", folder, PREPARE, observe_store, lambda _: PREPARE)


def events_rerun(folder: Path, prepare: Prepare) -> Scene:
    """One date of events again after its dump changed: other instants, other values, a session less."""
    world = _events(folder)
    prepare(world)
    write_events(world, FIRST, make_records(FIRST, 25, ("a", "b"), 6))
    words = (*PREPARE, str(FIRST), "--force")
    return Scene("events_rerun", folder, words, observe_store, lambda _: words)


def rerun(folder: Path, prepare: Prepare) -> Scene:
    """One date again after its dump changed."""
    _changed(folder, prepare)
    words = (*PREPARE, str(DATE), "--force")
    return Scene("rerun", folder, words, observe_store, lambda _: words)


def refit(folder: Path, prepare: Prepare) -> Scene:
    """The statistics again, and with them every shard."""
    _changed(folder, prepare)
    words = (*PREPARE, "--refit-statistics")
    return Scene("refit", folder, words, observe_store, lambda _: words)


def formats(folder: Path, prepare: Prepare) -> Scene:
    """Two dates in Zarr, which become Parquet."""
    world = build_world(folder, 2, split=BOTH)
    world.config_file()
    prepare(world)
    words = (*PREPARE, "pipeline.store.formats=[parquet]")
    return Scene("formats", folder, words, observe_store, lambda _: words)


def training(name: str, folder: Path, prepare: Prepare, **checkpoint: object) -> Scene:
    """Two epochs of four batches, with saves within each and one after each."""
    split = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}
    world = build_world(folder, 3, split=split, training={"epochs": 2, "batch_size": 8}, checkpoint=checkpoint)
    world.config_file()
    prepare(world)
    return Scene(
        *(name, folder, TRAIN, observe_checkpoints, continue_run),
        partway=True,
        final=lambda cwd: left_behind(cwd / RUN) | pinned(cwd),
        position=position,
        threads=(MAIN, WRITER),
    )


def train(folder: Path, prepare: Prepare) -> Scene:
    """One save within each epoch; all stay."""
    return training("train", folder, prepare, save_freq=3)


def retain(folder: Path, prepare: Prepare) -> Scene:
    """Two saves an epoch, of which the last two stay and the best; that one is exported."""
    scene = training("retain", folder, prepare, save_freq=2, keep_last=2, export_pth="best")
    scene.forgets, scene.look = True, observe_while_they_go
    return scene


def clean(folder: Path, prepare: Prepare) -> Scene:
    """Five generations: two stay, and the first, whose run lies on a disk that is not there; the second's run is gone."""
    world = build_world(folder, 2, split=BOTH)
    world.config_file()
    for number in range(1, 6):
        prepare(world)
        change_dump(world)
        if number < 3:
            run = folder / ("disk", "data")[number - 1] / "runs" / f"run{number}"
            run.mkdir(parents=True)
            world.open().pin(run)
            run.rmdir()
    (folder / "disk").rename(folder / "not mounted")
    words = ("clean", "-c", "config.yaml", "--keep", "2", "-y")
    return Scene("clean", folder, words, observe_cleaned_store, lambda _: words, partway=True, look=observe_store)


def observe_cleaned(cwd: Path) -> State | None:
    """All checkpoints, of which the best and the newest are never missing."""
    state = observe_checkpoints(cwd) or {}
    for name in _first_and_last(cwd):
        assert f"{name}/manifest.json" in state, f"{name} is gone"
    return state


def observe_best_and_newest(cwd: Path) -> State | None:
    """What no cleaning may touch, while the others come and go."""
    found = [checkpoint.inspect(cwd / RUN / "checkpoints" / name) for name in _first_and_last(cwd)]
    for one in found:
        checkpoint.verify(one)
    return {one.name: (one.folder / "manifest.json").read_bytes() for one in found}


def _first_and_last(cwd: Path) -> list[str]:
    notes = [cwd / RUN / "checkpoints" / note for note in ("best_model.json", "latest.json")]
    return [json.loads(note.read_text())["checkpoint"] for note in notes]


def checkpoints(folder: Path, prepare: Prepare) -> Scene:
    """Six checkpoints with their exports, of which the best and the newest stay."""
    split = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}
    keep = {"save_freq": 2, "export_pth": "all"}
    world = build_world(folder, 3, split=split, training={"epochs": 3, "batch_size": 8}, checkpoint=keep)
    world.config_file()
    prepare(world)
    runs = folder / "data" / "runs"
    made = start(world.settings.trainer, "world", world.store, runs, resume="none", new=New(RUN.name))
    with closing(made):
        for _ in loop.train(made.session, lambda: False):
            pass
    words = ("checkpoints", "clean", RUN.name, "--keep-count", "1")
    return Scene(
        *("checkpoints", folder, words, observe_cleaned, lambda _: words),
        partway=True,
        look=observe_best_and_newest,
        final=lambda cwd: files_below(cwd / RUN / "checkpoints"),
    )


SCENES: dict[str, Callable[[Path, Prepare], Scene]] = {
    "preprocess": first,
    "events": events,
    "events_rerun": events_rerun,
    "rerun": rerun,
    "refit": refit,
    "formats": formats,
    "train": train,
    "retain": retain,
    "clean": clean,
    "checkpoints": checkpoints,
}


def make_scene(name: str, folder: Path, zygote: Zygote, protocol: str | None = None) -> Scene:
    """A scene in a new folder, with all that an undisturbed run tells.

    Args:
        protocol: a bad one of `controls.PROTOCOLS`, for everything that is run in it.
    """

    def prepare(world: World) -> None:
        ended = zygote.run((*PREPARE, "--refit-statistics"), world.folder, protocol=protocol)
        assert ended.code == 0, ended.err

    folder.mkdir(parents=True)
    scene = SCENES[name](folder, prepare)
    scene.protocol = protocol
    if (folder / "data").exists():
        (folder / "data").rename(folder / "before")
    scene.learn(zygote)
    return scene
