"""The rivals of a model, each as a forecast: the last observed value, seasons, the node's own mean, tuned ridges.

Legend: B batch, P target steps, N nodes, F numeric targets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, counted
from dateshard.trainer.assessment.category_baselines import Guess, guesses, season_of
from dateshard.trainer.assessment.example_windows import mapped
from dateshard.trainer.assessment.forecaster import Forecast
from dateshard.trainer.assessment.input_rivals import HELD, WindowDesign, fit_logistic, fit_ridge, fit_window_ridge
from dateshard.trainer.assessment.own_rival import OwnRival, RivalQuantiles, load_function, reach_of
from dateshard.trainer.bounds import bounds_of
from dateshard.trainer.config import Trainer, code_of_baseline
from dateshard.trainer.data.batch import Batch, BatchForm
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.window_chunks import cut_runs, windows_of
from dateshard.trainer.data.window_dates import InstantOf
from dateshard.trainer.metrics import Form
from dateshard.trainer.models.naive import repeated
from dateshard.trainer.models.ridge import Chosen, Grid, Ridge, fit, tuning_notes
from dateshard.trainer.setup import (
    Selected,
    choose_columns,
    class_counts,
    evaluation_shuffle,
    make_reader,
    order_of,
    shuffle_of,
    window_of,
)

KNOWN = re.compile(r"mean|majority|logistic|repeat|seasonal:[1-9]\d{0,11}|ridge(:[1-9]\d{0,11}|:last)?")
TRIED = 2  # windows that a function of the user's own is asked for before anything long begins
FIXED = "ridge:last"  # stands beside every ridge: tuning can lose to it where the data drift
DAY_NS = 86_400_000_000_000
BATCH_BYTES = 256 << 20  # of windows that are judged at a time; no season is a usual baseline that takes more for one

Numbers = Callable[[Batch], torch.Tensor]  # -> [B, P, N, F], the numeric targets alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all predictors of one evaluation share.

    Attributes:
        columns: its targets are the numeric ones alone, in the order of their heads.
        targets: places of all targets among the features, in the order of the configuration.
        level: of the intervals that are judged.
        scored: the nodes whose errors count; None: all.
    """

    config: Trainer
    dataset: Dataset
    columns: Selected
    window: Window
    split: str
    form: Form
    targets: tuple[int, ...]
    level: float
    scored: slice | None = None

    def judged(self, batch: Batch) -> Batch:
        """The batch with the targets of other nodes as if they were not observed."""
        if self.scored is None:
            return batch
        seen = torch.zeros_like(batch.target_BPNF, dtype=torch.bool)
        own = batch.observed_BPNF
        seen[:, :, self.scored] = True if own is None else own[:, :, self.scored]
        return replace(batch, observed_BPNF=seen)

    @property
    def of_inputs(self) -> bool:
        """Whether `ridge` is of all inputs of a window: where its length varies, or a target's own past tells what comes."""
        return bool(self.window.interval) or any(self.dataset.features[place].ahead for place in self.targets)

    def wanted(self, reach: int) -> BatchForm:
        """Batches of all features and `reach` steps of history."""
        window = replace(self.window, history=reach) if self.window.horizon else self.window
        everything = tuple(range(len(self.dataset.features)))
        return BatchForm(
            window=window, inputs=everything, targets=self.targets, codes=True, known=True, futures=self.columns.futures
        )


@dataclass(slots=True, kw_only=True)
class Baselines:
    """The baselines of one evaluation.

    Attributes:
        reach: steps of history that the one that looks back furthest needs.
        errors: {split: scaled squared error of `ridge` on the windows that it was fitted and chosen on}.
        own: the user's functions among them.
    """

    setting: Setting
    reach: int
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    _ridges: dict[int, tuple[Ridge, Ridge]] = field(default_factory=dict)
    own: dict[str, OwnRival] = field(default_factory=dict)

    @staticmethod
    def of(names: Sequence[str], setting: Setting) -> Baselines:
        """Makes those of the given names that apply to these targets and this window; a ridge is fitted.

        Raises:
            UsageError: a baseline does not exist, or is of other targets.
        """
        made = Baselines(setting=setting, reach=setting.window.history)
        places = {}
        for head in setting.form.categorical:
            place, target = setting.targets[head.targets[0]], setting.form.targets[head.targets[0]]
            places[head.name] = (place, class_counts(setting.dataset, place, len(target.categories)))
        fitting = made._fitting(names)
        made.own = {name: made._tried(name) for name in fitting if code_of_baseline(name) is not None}
        for name in fitting:
            made._add(name, places)
        return made

    def _tried(self, name: str) -> OwnRival:
        """A function of the user's own, after two windows of the split have shown that it works."""
        setting, history = self.setting, reach_of(name, self.setting.window.history)
        assert setting.form.units is not None, "form_of always gives them"
        assert history is not None, "it is a baseline of one's own"
        rival = OwnRival(
            name=name,
            function=load_function(name),
            dataset=setting.dataset,
            targets=setting.columns.targets,
            units=setting.form.units,
            bounds_2F=bounds_of(setting.config, setting.dataset, setting.columns.targets),
            history=history,
            steps=setting.window.target_steps,
            levels=tuple(round(share, 12) for share in ((1 - setting.level) / 2, 0.5, (1 + setting.level) / 2)),
        )
        order = order_to_judge(setting.config, setting.dataset, setting.window, setting.split)
        refuse_reach(order, history, setting.window)
        few, wanted = replace(order, batch_size=TRIED), setting.wanted(max(history, setting.window.history))
        reader = make_reader(mapped(setting.config), setting.dataset, few, wanted)
        batch = next(iter(reader.batches(0)))
        with torch.no_grad():
            rival(InstantOf(setting.dataset, few, wanted.window).on(batch, range(batch.size)))
        return replace(rival, quantiles=RivalQuantiles())

    def _fitting(self, baselines: Sequence[str]) -> list[str]:
        """The names that apply; `mean` brings `majority` along for categories, `ridge` the fixed one."""
        setting, names = self.setting, list(dict.fromkeys(baselines))
        if unknown := [name for name in names if not KNOWN.fullmatch(name) and code_of_baseline(name) is None]:
            raise _unknown(unknown[0])
        for name in names:
            _refuse_meaningless(name, setting.config, setting.dataset)
        if setting.form.categorical and "mean" in names and "majority" not in names:
            names.insert(names.index("mean") + 1, "majority")
        if not setting.window.horizon:
            return self._of_inputs(names)
        if "ridge" in names and FIXED not in names and not setting.of_inputs:
            names.insert(names.index("ridge") + 1, FIXED)
        if not setting.form.numbers:
            if own := [name for name in names if code_of_baseline(name) is not None]:
                raise _unknown(own[0])
            names = [name for name in names if name.partition(":")[0] not in ("mean", "ridge")]
        return names

    def _of_inputs(self, names: list[str]) -> list[str]:
        """What applies at horizon 0: `ridge` is one of the inputs there, and brings `logistic` along for categories."""
        form = self.setting.form
        if form.categorical and "ridge" in names and "logistic" not in names:
            names.insert(names.index("ridge") + 1, "logistic")
        numbers, categories = ("mean", "ridge") if form.numbers else (), ("majority", "logistic")
        if any(name not in ("mean", "ridge", "majority", "logistic") for name in names):
            self.notes.append(
                "horizon 0: the baselines that look back (repeat, seasonal, ridge:STEPS, your own) do not apply"
            )
        return [name for name in names if name in (*numbers, *(categories if form.categorical else ()))]

    def _add(self, name: str, places: Mapping[str, tuple[int, Sequence[int]]]) -> None:
        setting, season = self.setting, season_of(name)
        chosen = self._guesses(name, places) if places else None
        numbers: Numbers | None = None
        if setting.form.numbers and not (name in ("majority", "logistic") and places):
            numbers = self._numbers(name)
        elif chosen is None:
            raise _unknown(name)
        self.reach = max(self.reach, season or 1, reach_of(name, setting.window.history) or 1)
        self.forecasts[name] = _joined(setting.form, numbers, chosen or {})

    def _guesses(self, name: str, places: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, Guess] | None:
        setting = self.setting
        if name != "logistic":
            return guesses(name, places, setting.window.target_steps, setting.window.history)
        inputs = setting.columns.inputs
        return {head: fit_logistic(setting.dataset, inputs, place) for head, (place, _) in places.items()}

    def _numbers(self, name: str) -> Numbers:
        setting, units = self.setting, self.setting.form.units
        assert units is not None, "form_of always gives them"
        steps, mean, targets = setting.window.target_steps, units.mean_scaled_NF, list(setting.columns.targets)
        if name in self.own:
            return self.own[name]
        if name == "mean":
            return lambda batch: mean.expand(batch.size, steps, -1, -1)
        if (season := season_of(name)) is not None:
            reach = max(season, setting.window.history)
            return lambda batch: repeated(batch, targets, (reach, season, steps), mean)
        if name == "ridge" and not setting.window.horizon:
            forecast, penalties = fit_ridge(
                setting.dataset, setting.columns.inputs, targets, setting.config.model.penalties
            )
            named = ", ".join(f"{penalty:g}" for penalty in sorted(set(penalties)))
            self.notes.append(f"ridge: of the inputs at the same step, penalty {named} a row")
            return forecast
        if name == "ridge" and setting.of_inputs:
            return self._window_ridge()
        if name.startswith("ridge"):
            return self._ridge(name)
        raise _unknown(name)

    def _window_ridge(self) -> Numbers:
        """The ridge of all inputs of a window's last records."""
        setting = self.setting
        config, dataset, window, columns = setting.config, setting.dataset, setting.window, setting.columns
        num_targets = len(columns.targets) * window.target_steps
        design = WindowDesign.of(dataset, columns.inputs, window, num_targets)
        every = tuple(range(len(dataset.features)))
        wanted = BatchForm(window=window, inputs=every, targets=columns.targets, known=True)
        train, held = (order_to_judge(config, dataset, window, split) for split in ("train", "validation"))
        if not held.num_windows:
            train, held = (replace(train, runs=runs) for runs in cut_runs(train.runs, window.stride, HELD))
        orders = {"train": train, "held": held}
        forecast, penalties = fit_window_ridge(
            design, lambda split: make_reader(config, dataset, orders[split], wanted).batches(0), config.model.penalties
        )
        named = ", ".join(f"{penalty:g}" for penalty in sorted(set(penalties)))
        fewer = f" of the last {counted(design.records, 'record')}" if design.records < window.history else ""
        self.notes.append(f"ridge: of all inputs{fewer}, penalty {named} a row")
        return forecast

    def _ridge(self, name: str) -> Numbers:
        """The tuned or the fixed ridge of the targets' own history, up to its reach of it."""
        targets, length = list(self.setting.columns.targets), name.partition(":")[2]
        reach = int(length) if length.isdecimal() else self.setting.window.history
        self.reach = max(self.reach, reach)
        if reach not in self._ridges:
            self._ridges[reach] = self._fit(name, reach)
        ridge = self._ridges[reach][1 if name == FIXED else 0]
        if name == FIXED:
            self._tell(name, ridge)

        def forecast(batch: Batch) -> torch.Tensor:
            known = None if batch.known_BHNF is None else batch.known_BHNF[:, -reach:][..., targets]
            answer: torch.Tensor = ridge(batch.history_BHNF[:, -reach:][..., targets], None, known)
            return answer

        return forecast

    def _fit(self, name: str, reach: int) -> tuple[Ridge, Ridge]:
        """Returns (the tuned ridge, the one less its last value and of the whole history), from the same sums."""
        setting, config = self.setting, self.setting.config.model
        window, targets = setting.window, setting.columns.targets
        train, held = (windows_of(setting.dataset, split, window, targets, reach) for split in ("train", "validation"))
        if not train.runs:
            what = f"baseline '{name}': no training window has {counted(reach, 'step')} of history"
            raise UsageError(what, todo="Name a shorter one in --baselines, or leave it out")
        tuned, fixed = (Ridge(reach, window.horizon, tuple(range(len(targets)))) for _ in range(2))
        grid = Grid(config.penalties, config.histories, config.normalisations)
        grids = [grid, Grid(config.penalties, (reach,), ("last",))]
        chosen, _ = fit([tuned, fixed], train, held, grids, lambda: False)
        if name != FIXED:
            self._tell(name, tuned)
            self._tell_choice(name, reach, chosen, len(grid.tunings(reach)))
        if name == "ridge":
            self.errors = _pooled(chosen)
        return tuned, fixed

    def _tell(self, name: str, ridge: Ridge) -> None:
        names = self.setting.columns.target_names
        self.notes.extend(f"{name}: {note}" for note in tuning_notes(names, ridge.tunings()))

    def _tell_choice(self, name: str, reach: int, chosen: Sequence[Chosen], tried: int) -> None:
        if any(choice.scores for choice in chosen):
            held = "validation and " if any(choice.errors["validation"][1] for choice in chosen) else ""
            each = ", for each target" if len(chosen) > 1 else ""
            self.notes.append(f"{name}: the best of {tried} on {held}the last quarter of training{each}")
        else:
            self.notes.append(f"{name}: no windows to choose on")
        for target, choice in zip(self.setting.columns.target_names, chosen, strict=True):
            if choice.longest < reach:
                what = f"{name}: {target}: equations of more than {choice.longest} steps of history exceed 1 GiB"
                self.notes.append(what)


def _pooled(chosen: Sequence[Chosen]) -> dict[str, float]:
    """Returns {split: squared error over all targets}."""
    sums = {
        split: [sum(column) for column in zip(*(c.errors[split] for c in chosen), strict=True)]
        for split in chosen[0].errors
    }
    return {split: total / count for split, (total, count) in sums.items() if count}


def _joined(form: Form, numbers: Numbers | None, chosen: Mapping[str, Guess]) -> Forecast:
    """A baseline's forecast by head: its numbers cut by their heads, and its guesses."""
    sizes = {head.name: len(head.targets) for head in form.heads if head.loss != "cross_entropy"}

    def forecast(batch: Batch) -> dict[str, torch.Tensor]:
        by_head = {name: guess(batch) for name, guess in chosen.items()}
        if numbers is not None:
            parts = torch.split(numbers(batch), list(sizes.values()), dim=-1)
            by_head |= dict(zip(sizes, parts, strict=True))
        return by_head

    return forecast


def _unknown(name: str) -> UsageError:
    if name in ("majority", "logistic"):
        return UsageError(f"baseline '{name}' is for categorical targets, and there is none", todo="Take mean")
    if code_of_baseline(name) is not None:
        return UsageError(f"baseline '{name}' is for numeric targets, and there is none", todo="Leave it out")
    known = "repeat, mean, majority, logistic, seasonal:STEPS, ridge, ridge:last, ridge:STEPS, my_module:forecast"
    return UsageError(f"there is no baseline '{name}'", todo=f"Choose from {known}")


def usual(config: Trainer, dataset: Dataset) -> tuple[list[str], list[str]]:
    """Returns (the baselines of a configuration that names none, a note for each season that is left out).

    Seasons are a day and a week of the dataset's steps; a week of very many nodes does not fit into memory. Records that
    come when they come have none.
    """
    window = window_of(config)
    seasons, notes = list[str](), list[str]()
    if any(dataset.features[place].ahead for place in choose_columns(config, dataset).targets):
        notes.append("a target that looks ahead is not known in the history: repeat is left out")
        return ["mean", "ridge"], notes
    if not window.horizon:
        return ["mean", "ridge"], notes
    day = DAY_NS // dataset.manifest.step if dataset.manifest.step else 0
    for season in (day, 7 * day):
        num_bytes = window_bytes(dataset, max(season, window.history), window)
        if num_bytes > BATCH_BYTES:
            notes.append(f"seasonal:{season} left out: one window would take {num_bytes / 2**20:,.0f} MiB")
        elif season > 1:  # that of 1 is repeat
            seasons.append(f"seasonal:{season}")
    if window.interval:
        return ["repeat", "mean", "ridge"], notes
    return ["repeat", *seasons, "mean", "ridge"], notes


def _refuse_meaningless(name: str, config: Trainer, dataset: Dataset) -> None:
    """Refuses a baseline that would look ahead, or that has no meaning for these windows.

    Raises:
        UsageError: naming why.
    """
    targets = choose_columns(config, dataset).targets
    ahead = [dataset.features[place].name for place in targets if dataset.features[place].ahead]
    if ahead and name not in ("mean", "majority", "ridge"):
        what = f"baseline '{name}' is of a target's own past, and that of '{ahead[0]}' tells what comes"
        raise UsageError(what, todo="Take mean or ridge")
    if name.startswith("ridge:") and config.window.interval:
        what = f"baseline '{name}' needs windows of one length, and trainer.window.history is {config.window.history}"
        raise UsageError(what, todo="Take ridge, or a history of so many records")


def window_bytes(dataset: Dataset, reach: int, window: Window) -> int:
    """Memory of one window with so many steps of history: its values and its mask."""
    return 5 * dataset.row_values * (reach + window.horizon)


def order_to_judge(config: Trainer, dataset: Dataset, window: Window, split: str) -> Order:
    """Every window of a split, in date order."""
    shuffle = evaluation_shuffle(shuffle_of(config, dataset, window))
    return order_of(dataset, split, window, config.training.batch_size, shuffle, None)


def refuse_reach(order: Order, reach: int, window: Window) -> None:
    """Refuses a baseline that looks further back than some window has steps before it."""
    most = _history_of(order, window)
    if reach > most:
        raise UsageError(
            f"a baseline looks {counted(reach, 'step')} back, and the first windows of this split have "
            f"{counted(most, 'step')} before them",
            todo="Name a shorter season in --baselines, or raise trainer.window.history",
        )


def _history_of(order: Order, window: Window) -> int:
    """Steps that lie before every window's forecast: at least the model's own history."""
    return max(window.history, min((run.first - run.begin for run in order.runs), default=0))


def within_reach(
    config: Trainer, dataset: Dataset, split: str, baselines: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Returns (baselines that every window of the split has history for, a note for each other); for None the usual ones.

    A date that is missing begins a new stretch, whose first windows have no more than the model's history before them.
    """
    given, notes = (baselines, list[str]()) if baselines is not None else usual(config, dataset)
    window, kept = window_of(config), list[str]()
    most = _history_of(order_to_judge(config, dataset, window, split), window)
    for name in given:
        match = re.fullmatch(r".+:([1-9]\d{0,11})", name)
        if match and window.horizon and int(match[1]) > most:
            notes.append(f"{name} left out: the first windows have {counted(most, 'step')} before them")
        else:
            kept.append(name)
    return kept, notes
