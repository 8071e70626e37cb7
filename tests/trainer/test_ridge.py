"""Ridge against its windows written out: the sums, the solutions, the choice, and that nothing else moves a bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from shardstore.errors import UsageError
from trainer import gram
from trainer.batch import Wanted
from trainer.evaluate import evaluate
from trainer.gram import Windows, accumulate, masked_targets, reaching, scaled_means, windows_of
from trainer.loop import Ended, EpochDone, Saved, train
from trainer.models import ridge
from trainer.models.ridge import Grid, Joint, Masked, Ridge, Tuning, choose, fit, solve
from trainer.order import Run, Window
from trainer.session import make_reader, order_of
from trainer.shuffle import Shuffle
from trainer.stop import Interrupted

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-07", "validation": "2024-03-08", "test": "2024-03-09..2024-03-10"}
PENALTIES = (1e-6, 1e-3, 0.1, 3.0)


def never() -> bool:
    return False


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def written_out(world: Any, split: str, window: Window) -> list[Rows]:
    """X [R, H], Y [R, P] and what is observed of Y, float64, per target: every window through the reader."""
    dataset, config = world.open(), world.settings.trainer
    everything = tuple(range(len(dataset.features)))
    order = order_of(dataset, split, window, 16, Shuffle(None, None), None)
    found: list[list[Rows]] = [[] for _ in everything]
    for batch in make_reader(config, dataset, order, Wanted(window, everything, everything)).batches(0):
        seen = torch.ones_like(batch.target_BPNF) if batch.observed_BPNF is None else batch.observed_BPNF
        for feature in everything:
            parts = (batch.history_BHNF, batch.target_BPNF, seen)
            x, y, m = (part[..., feature].double().permute(0, 2, 1).flatten(0, 1).numpy() for part in parts)
            found[feature].append((x, y, m.astype(bool)))
    return [tuple(np.concatenate(part) for part in zip(*rows, strict=True)) for rows in found]  # type: ignore[misc]


def plain_solution(x: np.ndarray, y: np.ndarray, tuning: Tuning) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares on normalised rows, with sqrt(penalty x rows) times the unit matrix below; a forecast of rows."""

    def reference(rows: np.ndarray) -> np.ndarray:
        own = rows[:, -tuning.history :]
        return {"none": np.zeros(len(own)), "last": own[:, -1], "mean": own.mean(1)}[tuning.normalisation]

    def inputs(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([rows[:, -tuning.history :] - reference(rows)[:, None], np.ones(len(rows))])

    size = tuning.history + 1
    below = np.eye(size) * np.sqrt(tuning.penalty * len(x))
    below[-1, -1] = 0.0
    stacked = np.vstack([inputs(x), below]), np.concatenate([y - reference(x), np.zeros(size)])
    weight = np.linalg.lstsq(*stacked, rcond=None)[0]
    return lambda rows: inputs(rows) @ weight + reference(rows)


def prepared(make_world: Make, **options: Any) -> Any:
    world = make_world(options.pop("dates", 10), split=options.pop("split", SPLIT), **options)
    world.prepare()
    return world


SHAPES = {
    "one step": Window(12, 6),
    "stride 2": Window(12, 6, 2),
    "stride 5": Window(12, 6, 5),
    "stride of the horizon": Window(12, 6, 6),
    "stride above the horizon": Window(7, 3, 5),
    "stride above the history": Window(4, 6, 5),
    "stride above the window": Window(3, 2, 7),
    "long": Window(30, 9),
}


SMALL = {"CHUNK_BYTES": 40 * 24, "WRITTEN_BYTES": 1000, "LAG_STEPS": 5}
MEANS = (0.25, -0.5)


@pytest.mark.parametrize("window", SHAPES.values(), ids=SHAPES)
def test_sums_are_those_of_the_windows_written_out(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, window: Window
) -> None:
    """Two segments, a clock change in one, a third of the cells missing; in one chunk and in many."""
    split = {"train": ["2024-03-07..2024-03-12", "2024-03-14..2024-03-15"], "test": "2024-03-16"}
    world = prepared(make_world, first="2024-03-07", zone="America/New_York", gaps=(4,), missing=0.3, split=split)
    windows, rows = windows_of(world.open(), "train", window, (0, 1)), written_out(world, "train", window)
    assert len(windows.runs) > 1
    for constants in ({}, SMALL):
        for name, value in constants.items():
            monkeypatch.setattr(gram, name, value)
        for kind in (Joint, Masked):
            equations: dict[int, Any] = {k: kind(window) for k in range(2)}
            accumulate(windows, equations, MEANS, never)
            for feature, (x, y, seen) in enumerate(rows):
                wanted = seen if kind is Masked else np.ones_like(seen)
                compare(equations[feature], x - MEANS[feature], y - MEANS[feature], wanted)


def compare(equations: Any, x: np.ndarray, y: np.ndarray, seen: np.ndarray) -> None:
    """Every system's sums against those of written-out rows."""
    for system in equations.systems(range(y.shape[1])):
        for column, step in enumerate(system.steps):
            own, target = x[seen[:, step]], y[seen[:, step], step]
            size = max(1.0, float(np.abs(own.T @ own).max()))
            assert system.count == len(own) > 0
            for found, wanted in (
                (system.gram_HH, own.T @ own),
                (system.total_H, own.sum(0)),
                (system.cross_HQ[:, column], own.T @ target),
                (system.level_Q[column], target.sum()),
                (system.square_Q[column], target @ target),
            ):
                np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize(("hour", "masked"), [(11, set()), (12, {0}), (7 * 24 - 1, {0}), (7 * 24, set())])
def test_masked_targets_are_those_that_miss_a_step_some_window_forecasts(
    make_world: Make, hour: int, masked: set[int]
) -> None:
    """The first window of history 12 forecasts from hour 12 on, the last training date ends with hour 167."""
    world = make_world(10, missing=0.0, split=SPLIT)
    begin = min(row[0] for rows in world.rows.values() for row in rows)
    for date, rows in world.rows.items():
        gone = [(i - begin) // (3600 * 10**9) == hour and node == "n1" for i, node, *_ in rows]
        world.rows[date] = [(*row[:2], None, row[3]) if out else row for row, out in zip(rows, gone, strict=True)]
        world.write(date)
    world.prepare()
    assert masked_targets(windows_of(world.open(), "train", Window(12, 6), (0, 1)), never) == masked
    assert masked_targets(windows_of(world.open(), "train", Window(12, 6), (1,)), never) == set()


GRID = Grid(PENALTIES, (12, 5, 1))


def brute_force(train_rows: Rows, held_rows: Rows, tunings: list[Tuning]) -> dict[Tuning, float]:
    """Mean squared error on the observed targets of `held_rows` of every tuning, from rows written out."""
    (x, y, seen), (held_x, held_y, held_seen) = train_rows, held_rows
    errors = {}
    for tuning in tunings:
        squares = []
        for step in range(y.shape[1]):
            rows, held = seen[:, step], held_seen[:, step]
            forecast = plain_solution(x[rows], y[rows, step], tuning)
            squares.append((forecast(held_x[held]) - held_y[held, step]) ** 2)
        errors[tuning] = float(np.concatenate(squares).mean())
    return errors


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_what_is_chosen_is_what_a_search_over_written_out_windows_finds(
    make_world: Make, missing: float, stride: int
) -> None:
    world = prepared(make_world, missing=missing)
    window = Window(12, 6, stride)
    train_windows, held = (windows_of(world.open(), split, window, (1, 0)) for split in ("train", "validation"))
    model = Ridge(12, 6, (1, 0))
    chosen = fit(model, train_windows, held, GRID, never)
    rows = {split: written_out(world, split, window) for split in ("train", "validation")}
    tunings = GRID.tunings(12)
    assert len(tunings) == 3 * 3 * len(PENALTIES)
    for target, feature in enumerate((1, 0)):
        plain = brute_force(rows["train"][feature], rows["validation"][feature], tunings)
        assert chosen[target].errors == pytest.approx(plain, rel=1e-6)
        best = min(plain, key=plain.__getitem__)
        assert plain[chosen[target].tuning] == pytest.approx(plain[best], rel=1e-9)
        assert model.tunings()[target] == chosen[target].tuning
        x, y, seen = rows["train"][feature]
        history = torch.zeros(len(x), 12, 1, 2, dtype=torch.float64)
        history[:, :, 0, feature] = torch.from_numpy(x)
        forecast = model(history)[:, :, 0, target].numpy()
        for step in range(6):
            own = plain_solution(x[seen[:, step]], y[seen[:, step], step], chosen[target].tuning)
            np.testing.assert_allclose(forecast[:, step], own(x), atol=1e-6)


@pytest.mark.parametrize("normalisation", ["none", "last", "mean"])
@pytest.mark.parametrize("history", [12, 5, 1])
def test_a_tuning_is_solved_as_least_squares_solves_it(make_world: Make, history: int, normalisation: str) -> None:
    world, window = prepared(make_world), Window(12, 6)
    windows = windows_of(world.open(), "train", window, (0,))
    equations = Masked(window)
    accumulate(windows, {0: equations}, [0.0], never)
    x, y, seen = written_out(world, "train", window)[0]
    for penalty in (1e-4, 0.1, 10.0):
        tuning = Tuning(history, normalisation, penalty)
        weight, bias = solve(equations, tuning, 6, never)
        assert weight.shape == (history, 6)
        for step in range(6):
            rows = seen[:, step]
            wanted = plain_solution(x[rows], y[rows, step], tuning)(x)
            np.testing.assert_allclose((x[:, -history:] @ weight.numpy() + bias.numpy())[:, step], wanted, atol=1e-9)


def test_without_a_penalty_it_is_ordinary_least_squares_also_where_columns_depend_on_each_other(
    make_world: Make,
) -> None:
    """Less their mean, the steps of a window sum to zero."""
    world, window = prepared(make_world, missing=0.0), Window(6, 2)
    for normalisation in ("none", "last", "mean"):
        equations = Joint(window)
        accumulate(windows_of(world.open(), "train", window, (1,)), {0: equations}, [0.0], never)
        x, y, _ = written_out(world, "train", window)[1]
        tuning = Tuning(6, normalisation, 0.0)
        weight, bias = solve(equations, tuning, 2, never)
        wanted = plain_solution(x, y[:, 0], tuning)(x)
        np.testing.assert_allclose((x @ weight.numpy() + bias.numpy())[:, 0], wanted, atol=1e-7)


def test_an_offset_of_thousands_costs_no_digits(make_world: Make) -> None:
    """The scaled mean is subtracted before anything is multiplied."""
    world = make_world(10, split=SPLIT)
    world.tree["pipeline"]["features"]["volume"]["scale"] = "none"
    for date, rows in world.rows.items():
        world.rows[date] = [(i, node, speed, v + 1e5) for i, node, speed, v in rows]
        world.write(date)
    world.tree["pipeline"]["features"]["volume"] |= {"aggregate": "mean", "fill": "forward"}
    world.prepare()
    window = Window(12, 6)
    means = scaled_means(world.open(), [1])
    assert means == pytest.approx([1e5 + 19.5], abs=2)
    train_windows, held = (windows_of(world.open(), split, window, (1,)) for split in ("train", "validation"))
    tuning = Tuning(12, "none", 0.1)
    model = Ridge(12, 6, (0,))
    fit(model, train_windows, held, Grid((0.1,), (12,), ("none",)), never)
    x, y, seen = written_out(world, "train", window)[1]
    x, y = x - means[0], y - means[0]
    for step in range(6):
        wanted = plain_solution(x[seen[:, step]], y[seen[:, step], step], tuning)(x)
        found = model(torch.from_numpy(x + means[0])[..., None, None])[:, step, 0, 0].numpy() - means[0]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_without_validation_windows_it_is_the_whole_history_and_the_smallest_penalty(make_world: Make) -> None:
    world = prepared(make_world, split={"train": "2024-03-01..2024-03-10"})
    window = Window(12, 6)
    train_windows, held = (windows_of(world.open(), split, window, (0, 1)) for split in ("train", "validation"))
    assert held.runs == ()
    chosen = fit(Ridge(12, 6, (0, 1)), train_windows, held, Grid((1.0, 0.01, 0.1)), never)
    assert [(one.tuning, one.errors) for one in chosen] == [(Tuning(12, "none", 0.01), {})] * 2


def test_a_step_that_was_never_observed_gets_finite_weights(make_world: Make) -> None:
    """And a target that never moves."""
    world = prepared(make_world)
    windows = windows_of(world.open(), "train", Window(12, 6), (0,))
    equations = Masked(Window(12, 6))
    accumulate(windows, {0: equations}, [0.0], never)
    for part in (equations.gram, equations.total, equations.cross, equations.count, equations.level, equations.square):
        part[2] = 0.0
    weight, bias = solve(equations, Tuning(12, "none", 0.0), 6, never)
    assert not weight[:, 2].any()
    assert not bias[2].any()
    assert torch.isfinite(weight).all()
    still = Joint(Window(12, 6))
    accumulate(windows, {0: still}, [0.0], never)
    still.gram, still.total = torch.full((18, 18), 0.25 * still.count), torch.full((18,), 0.5 * still.count)
    still.gram, still.total = still.gram.double(), still.total.double()
    for normalisation in ("none", "last", "mean"):
        weight, bias = solve(still, Tuning(12, normalisation, 0.0), 6, never)
        forecast = torch.full((12,), 0.5, dtype=torch.float64) @ weight + bias
        np.testing.assert_allclose(forecast, 0.5, atol=1e-9)


def test_ridge_on_a_dataset_equals_numpy_on_its_raw_rows(make_world: Make, plain: Make) -> None:
    """From dumps to weights by two ways that share nothing."""
    world = prepared(make_world)
    train_windows, held = (windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation"))
    model = Ridge(12, 6, (0, 1))
    fit(model, train_windows, held, Grid((0.01,), (12,), ("none",)), never)
    windows = plain(world).windows("train", 12, 6)
    for feature in range(2):
        x = np.array([w.scaled[:12, n, feature] for w in windows for n in range(3)])
        for step in range(6):
            y = np.array([w.scaled[12 + step, n, feature] for w in windows for n in range(3)])
            seen = np.array([bool(w.observed[12 + step, n, feature]) for w in windows for n in range(3)])
            forecast = plain_solution(x[seen], y[seen], Tuning(12, "none", 0.01))
            weight = model.weight[feature, :, step].numpy()
            np.testing.assert_allclose(x @ weight[:-1] + weight[-1], forecast(x), atol=1e-6)


LOADINGS: dict[str, Any] = {
    "mapped": {"policy": "mapped"},
    "streaming": {"policy": "streaming"},
    "two days a batch": {"days_per_batch": 2},
    "a small budget": {"memory_budget": 100_000, "days_per_batch": 1},
}


def trained(session: Any, should_stop: Callable[[], bool] = never) -> list[Any]:
    return list(train(session, should_stop))


def test_the_weights_are_the_same_bytes_every_time_whatever_loading_says(make_world: Make, session_of: Make) -> None:
    world = prepared(make_world, model={"name": "ridge"})
    first = session_of(world)
    events = trained(first)
    threads = torch.get_num_threads()
    for number, loading in enumerate([{}, *LOADINGS.values()]):
        torch.set_num_threads(1 + number % 2)
        world.tree["trainer"]["loading"] = loading
        world.tree["trainer"]["training"]["batch_size"] = 7
        again = session_of(world)
        trained(again)
        for name, tensor in first.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], tensor), (loading, name)
        assert torch.get_num_threads() == 1 + number % 2
    torch.set_num_threads(threads)
    done = next(event for event in events if isinstance(event, EpochDone))
    best = [min(one.values()) for one in errors_of(world)]
    counts = [int(seen.sum()) for _, _, seen in written_out(world, "validation", Window(12, 6))]
    assert done.val_loss == pytest.approx(np.average(best, weights=counts), rel=1e-6)


def errors_of(world: Any) -> list[dict[Tuning, float]]:
    windows = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    grid = Grid(world.settings.trainer.model.penalties)
    return [one.errors for one in fit(Ridge(12, 6, (0, 1)), *windows, grid, never)]


class Patience:
    """Says stop at the n-th time of asking."""

    def __init__(self, times: int) -> None:
        self.left, self.asked = times, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.left


def test_a_stop_at_any_question_leaves_the_model_alone_and_the_next_call_ends_in_the_same_bytes(
    make_world: Make, session_of: Make
) -> None:
    world = prepared(make_world, model={"name": "ridge", "penalties": [0.01, 1.0], "histories": [12, 4]})
    whole, counting = session_of(world), Patience(10**9)
    trained(whole, counting)
    assert counting.asked > 100
    for times in range(0, counting.asked, 17):
        session = session_of(world)
        first = trained(session, Patience(times))
        assert isinstance(first[-1], Ended)
        assert isinstance(first[-2], Saved)
        assert first[-1].why == "stopped"
        assert session.state.batch == 0 or session.model.weight.any()
        if session.state.batch == 0:
            assert not session.model.weight.any()
        second = trained(session)
        assert second[-1].why == "epochs"
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(session.model.state_dict()[name], tensor), (times, name)


def test_fit_asks_while_it_reads_while_it_multiplies_and_while_it_solves(make_world: Make) -> None:
    world = prepared(make_world)
    windows = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    few, many = (Patience(10**9) for _ in range(2))
    fit(Ridge(12, 6, (0, 1)), *windows, Grid((0.1,), (12,), ("none",)), few)
    fit(Ridge(12, 6, (0, 1)), *windows, Grid(PENALTIES, (12,), ("none",)), many)
    assert many.asked - few.asked == 2 * 6 * (len(PENALTIES) - 1)  # both are masked: each solve asks
    for times in range(0, few.asked, 7):
        with pytest.raises(Interrupted):
            fit(Ridge(12, 6, (0, 1)), *windows, Grid((0.1,), (12,), ("none",)), Patience(times))


def test_fit_runs_on_one_thread_and_puts_the_number_back_also_where_it_is_stopped(make_world: Make) -> None:
    world = prepared(make_world)
    windows = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(2)
    try:
        with pytest.raises(Interrupted):
            fit(Ridge(12, 6, (0, 1)), *windows, GRID, lambda: seen.append(torch.get_num_threads()) or len(seen) > 90)
        assert torch.get_num_threads() == 2
        assert set(seen) == {1}
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_brings_back_what_was_chosen(make_world: Make, session_of: Make) -> None:
    from trainer import checkpoint
    from trainer.state import restore

    world = prepared(make_world, model={"name": "ridge", "penalties": [0.5, 2.0], "histories": [9, 3]})
    session = session_of(world)
    saved = next(event for event in trained(session) if isinstance(event, Saved))
    again = session_of(world)
    assert {tuning.history for tuning in again.model.tunings()} == {0}
    restore(again, checkpoint.find(saved.folder.parent, "latest")[0])
    assert again.model.tunings() == session.model.tunings()
    assert {tuning.history for tuning in again.model.tunings()} <= {9, 3}
    result = evaluate(
        session.config, world.open(), split="test", baselines=["ridge"], model=("ridge (model)", again.model)
    )
    rows = {row.name: row for row in result.rows}
    assert rows["ridge"].scaled == rows["ridge (model)"].scaled
    for feature, tuning in zip(("speed", "volume"), again.model.tunings(), strict=True):
        for name in ("ridge", "ridge (model)"):
            note = next(note for note in result.notes if note.startswith(f"{name}: ") and feature in note)
            assert str(tuning) in note
    assert "ridge: the best of 12 on validation, for each target" in result.notes


def test_a_ridge_that_looks_further_back_forecasts_the_same_windows(make_world: Make) -> None:
    """Its training windows are those of the configured window that have so much history: the stride's phase stays."""
    world = prepared(make_world, window={"history": 12, "horizon": 6, "stride": 5}, model={"histories": [30]})
    config = world.settings.trainer
    result = evaluate(config, world.open(), split="test", baselines=["ridge", "ridge:30"], model=None)
    rows = {row.name: row for row in result.rows}
    assert rows["ridge"].scaled["count"] == rows["ridge:30"].scaled["count"]
    assert any("ridge:30: " in note and "history 30" in note for note in result.notes)
    assert any("ridge: " in note and "history 12" in note for note in result.notes)
    near, far = (windows_of(world.open(), "train", Window(12, 6, 5), (0,), reach).runs for reach in (12, 30))
    assert [set(anchors(run)) for run in far] == [{a for a in anchors(run) if a >= 30} for run in near]
    with pytest.raises(UsageError, match="steps back"):
        evaluate(config, world.open(), split="train", baselines=["ridge:30"], model=None)
    with pytest.raises(UsageError, match="no training window has 500 steps"):
        evaluate(config, world.open(), split="test", baselines=["ridge:500"], model=None)


def test_a_ridge_of_a_shorter_history_is_the_whole_one_with_that_history_alone(make_world: Make) -> None:
    world = prepared(make_world, window={"history": 12, "horizon": 6, "stride": 5})
    config = world.settings.trainer
    shorter = config.model_copy(update={"model": config.model.model_copy(update={"histories": (4,)})})
    short, whole = (
        evaluate(given, world.open(), split="test", baselines=[name], model=None).rows[0].scaled
        for given, name in ((shorter, "ridge:4"), (shorter, "ridge"))
    )
    assert short["mse"] == pytest.approx(whole["mse"], rel=1e-12)


def anchors(run: Run) -> range:
    return range(run.first, run.first + 5 * run.count, 5)


def test_reaching_drops_anchors_and_moves_none() -> None:
    runs = [Run(0, 12, 4, 0, 1), Run(1, 40, 2, 1, 2), Run(2, 12, 2, 2, 3)]
    assert reaching(runs, 20, 5) == (Run(0, 22, 2, 0, 1), Run(1, 40, 2, 1, 2))
    assert reaching(runs, 12, 5) == tuple(runs)


def test_a_history_whose_equations_do_not_fit_memory_is_cut_and_said_so(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared(make_world)
    monkeypatch.setattr(ridge, "EQUATION_BYTES", 16 * 6 * 7**2)
    result = evaluate(world.settings.trainer, world.open(), split="test", baselines=["ridge"], model=None)
    assert sum("equations of more than 7 steps of history" in note for note in result.notes) == 2
    found = result.rows[0].scaled["mse"]
    monkeypatch.undo()
    config = world.settings.trainer
    same = config.model_copy(update={"model": config.model.model_copy(update={"histories": (7, 3, 1)})})
    whole = evaluate(same, world.open(), split="test", baselines=["ridge"], model=None)
    assert found == pytest.approx(whole.rows[0].scaled["mse"], rel=1e-9)


def test_targets_in_groups_are_solved_as_together(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = prepared(make_world)
    windows = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    together, apart = (Ridge(12, 6, (0, 1)) for _ in range(2))
    fit(together, *windows, Grid(PENALTIES), never)
    monkeypatch.setattr(ridge, "EQUATION_BYTES", 16 * 6 * 12**2)
    passes = []
    monkeypatch.setattr(ridge, "accumulate", lambda given, own, *rest: passes.append(accumulate(given, own, *rest)))
    fit(apart, *windows, Grid(PENALTIES), never)
    assert len(passes) == 4
    assert torch.equal(together.weight, apart.weight)


def test_choose_takes_the_first_of_equals() -> None:
    empty, one = Joint(Window(3, 2)), Joint(Window(3, 2))
    one.count, one.gram = 1.0, torch.zeros(5, 5, dtype=torch.float64)
    tunings = Grid((0.1, 1.0)).tunings(3)
    assert choose(one, one, tunings, never)[0] == tunings[0] == Tuning(3, "none", 0.1)
    assert choose(one, empty, tunings, never) == (tunings[0], {})


def test_the_default_grid_is_the_whole_history_a_half_a_quarter_and_an_eighth() -> None:
    assert Grid((0.1,)).lengths(168) == [168, 84, 42, 21]
    assert Grid((0.1,)).lengths(3) == [3, 1]
    assert Grid((0.1,), (24, 168, 500)).lengths(168) == [168, 24]
    assert len(Grid((0.1, 0.1), (2, 2), ("last", "last")).tunings(5)) == 1


def test_windows_do_not_depend_on_loading(make_world: Make) -> None:
    world = prepared(make_world, loading={"days_per_batch": 1})
    windows: Windows = windows_of(world.open(), "train", Window(12, 6), (0,))
    assert [(run.first, run.count) for run in windows.runs] == [(12, 7 * 24 - 12 - 5)]
