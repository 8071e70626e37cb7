"""Ridge against its windows written out: the sums, the solutions, the choice, and that nothing else moves a bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.data import window_chunks
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import DateRun, Window
from dateshard.trainer.data.shuffle import Shuffle
from dateshard.trainer.data.window_chunks import WindowRuns, cut, masked_targets, reaching, windows_of
from dateshard.trainer.loop import Ended, EpochDone, Saved, train
from dateshard.trainer.models import ridge, ridge_gram
from dateshard.trainer.models.ridge import Chosen, Grid, Joint, Judging, Masked, Ridge, Tuning, fit, solve
from dateshard.trainer.models.ridge_gram import accumulate, scaled_means
from dateshard.trainer.setup import make_reader, order_of
from dateshard.trainer.stop import Interrupted

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-07", "validation": "2024-03-08", "test": "2024-03-09..2024-03-10"}
PENALTIES = (1e-6, 1e-3, 0.1, 3.0)


def never() -> bool:
    return False


Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def written_out(world: Any, split: str, window: Window) -> list[Rows]:
    """X [R, H + 1], its last column the newest observed value, Y [R, P], what is observed of Y and of the history, per
    target: every window through the reader, in date order, a row a node."""
    dataset, config = world.open(), world.settings.trainer
    everything = tuple(range(len(dataset.features)))
    order = order_of(dataset, split, window, 16, Shuffle(None, None), None)
    found: list[list[Rows]] = [[] for _ in everything]
    for batch in make_reader(
        config, dataset, order, BatchForm(window=window, inputs=everything, targets=everything, known=True)
    ).batches(0):
        seen = torch.ones_like(batch.target_BPNF) if batch.observed_BPNF is None else batch.observed_BPNF
        known = torch.ones_like(batch.history_BHNF) if batch.known_BHNF is None else batch.known_BHNF
        for feature in everything:
            parts = (batch.history_BHNF, batch.target_BPNF, seen, known)
            x, y, m, k = (part[..., feature].double().permute(0, 2, 1).flatten(0, 1).numpy() for part in parts)
            found[feature].append((with_newest(x, k), y, m.astype(bool), k.astype(bool)))
    return [tuple(np.concatenate(part) for part in zip(*rows, strict=True)) for rows in found]  # type: ignore[misc]


def with_newest(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Row by row the last value that is known; where none is, the last one."""
    newest = [row[np.flatnonzero(seen)[-1]] if seen.any() else row[-1] for row, seen in zip(x, known, strict=True)]
    return np.column_stack([x, newest])


def plain_solution(x: np.ndarray, y: np.ndarray, tuning: Tuning) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares on normalised rows, with sqrt(penalty x rows) times the unit matrix below; a forecast of rows."""

    def reference(rows: np.ndarray) -> np.ndarray:
        own = rows[:, -1 - tuning.history : -1]
        return {"none": np.zeros(len(own)), "last": rows[:, -1], "mean": own.mean(1)}[tuning.normalisation]

    def inputs(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([rows[:, -1 - tuning.history : -1] - reference(rows)[:, None], np.ones(len(rows))])

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
    given, rows = windows_of(world.open(), "train", window, (0, 1)), written_out(world, "train", window)
    assert len(given.runs) > 1
    for constants in ({}, SMALL):
        for name, value in constants.items():
            monkeypatch.setattr(window_chunks if name == "CHUNK_BYTES" else ridge_gram, name, value)
        for kind in (Joint, Masked):
            equations: dict[int, Any] = {k: kind(window) for k in range(2)}
            accumulate(given, equations, MEANS, never)
            for feature, (x, y, seen, _) in enumerate(rows):
                wanted = seen if kind is Masked else np.ones_like(seen)
                own = x if kind is Masked else np.column_stack([x[:, :-1], x[:, -2]])  # all is taken as observed
                compare(equations[feature], own - MEANS[feature], y - MEANS[feature], wanted)


def test_sums_of_pieces_add_up_to_those_of_all_windows(make_world: Make) -> None:
    """The pieces hold every window once, in date order, whatever dates are missing."""
    split = {"train": ["2024-03-07..2024-03-12", "2024-03-14..2024-03-15"]}
    world, window = prepared(make_world, first="2024-03-07", gaps=(4,), missing=0.3, split=split), Window(12, 6, 5)
    given = windows_of(world.open(), "train", window, (0, 1))
    pieces = cut(given, (0.75, 0.125, 0.125))
    whole, *anchors_of = (
        [(run.segment, anchor) for run in one.runs for anchor in anchors(run)] for one in (given, *pieces)
    )
    assert [anchor for part in anchors_of for anchor in part] == whole
    assert [len(part) for part in anchors_of] == [20, 3, 3]
    for kind in (Joint, Masked):
        together, added = kind(window), kind(window)
        accumulate(given, {0: together}, MEANS, never)
        for one in pieces:
            fresh = kind(window)
            accumulate(one, {0: fresh}, MEANS, never)
            added.merge(fresh)
        for left, right in zip(together.systems(range(6)), added.systems(range(6)), strict=True):
            assert left.count == right.count
            for name in ("gram_JJ", "total_J", "cross_JQ", "level_Q", "square_Q"):
                np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-12, atol=1e-10)


def compare(equations: Any, x: np.ndarray, y: np.ndarray, seen: np.ndarray) -> None:
    """Every system's sums against those of written-out rows."""
    for system in equations.systems(range(y.shape[1])):
        for column, step in enumerate(system.steps):
            own, target = x[seen[:, step]], y[seen[:, step], step]
            size = max(1.0, float(np.abs(own.T @ own).max()))
            assert system.count == len(own) > 0
            for found, wanted in (
                (system.gram_JJ, own.T @ own),
                (system.total_J, own.sum(0)),
                (system.cross_JQ[:, column], own.T @ target),
                (system.level_Q[column], target.sum()),
                (system.square_Q[column], target @ target),
            ):
                np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize(("hour", "masked"), [(4, set()), (5, {0}), (7 * 24 - 1, {0}), (7 * 24, set())])
def test_masked_targets_are_those_that_miss_a_step_of_some_window(
    make_world: Make, hour: int, masked: set[int]
) -> None:
    """With stride 5 and a history of 7 the first window begins at hour 0 or, reaching from hour 12 on, at hour 5; the
    last training date ends with hour 167."""
    world = make_world(10, missing=0.0, split=SPLIT)
    begin = min(row[0] for rows in world.rows.values() for row in rows)
    for date, rows in world.rows.items():
        gone = [(i - begin) // (3600 * 10**9) == hour and node == "n1" for i, node, *_ in rows]
        world.rows[date] = [(*row[:2], None, row[3]) if out else row for row, out in zip(rows, gone, strict=True)]
        world.write(date)
    world.prepare()
    near = [
        replace(windows_of(world.open(), "train", Window(12, 6), targets), window=Window(7, 6))
        for targets in ((0, 1), (1,))
    ]
    assert masked_targets(near[0], never) == masked
    assert masked_targets(near[1], never) == set()


GRID = Grid(PENALTIES, (12, 5, 1))


def brute_force(train_rows: Rows, held_rows: Rows, tunings: list[Tuning]) -> dict[Tuning, float]:
    """Mean squared error on the observed targets of `held_rows` of every tuning, from rows written out."""
    (x, y, seen, _), (held_x, held_y, held_seen, _) = train_rows, held_rows
    errors = {}
    for tuning in tunings:
        squares = []
        for step in range(y.shape[1]):
            rows, held = seen[:, step], held_seen[:, step]
            forecast = plain_solution(x[rows], y[rows, step], tuning)
            squares.append((forecast(held_x[held]) - held_y[held, step]) ** 2)
        errors[tuning] = float(np.concatenate(squares).mean())
    return errors


def rolled(train_rows: Rows, held_rows: Rows, tunings: list[Tuning]) -> dict[Tuning, float]:
    """Mean logarithm of the errors on the last two eighths of training and, twice, on validation."""
    count = len(train_rows[0]) // 3
    edges = [3 * round(count * share) for share in (0.75, 0.875)] + [len(train_rows[0])]

    def part(low: int, high: int) -> Rows:
        return tuple(column[low:high] for column in train_rows)  # type: ignore[return-value]

    errors = [brute_force(part(0, low), part(low, high), tunings) for low, high in pairwise(edges)]
    errors += [brute_force(train_rows, held_rows, tunings)] * 2
    return {tuning: float(np.mean([np.log(one[tuning]) for one in errors])) for tuning in tunings}


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_what_is_chosen_is_what_a_rolling_search_over_written_out_windows_finds(
    make_world: Make, missing: float, stride: int
) -> None:
    """Of the tuned ridge the best of all, of the fixed one the best penalty for its history and its last value."""
    world = prepared(make_world, missing=missing)
    window = Window(12, 6, stride)
    train_windows, held = (windows_of(world.open(), split, window, (1, 0)) for split in ("train", "validation"))
    models, fixed = [Ridge(12, 6, (1, 0)) for _ in range(2)], Grid(PENALTIES, (12,), ("last",))
    both = fit(models, train_windows, held, [GRID, fixed], never)
    rows = {split: written_out(world, split, window) for split in ("train", "validation")}
    assert len(GRID.tunings(12)) == 3 * 3 * len(PENALTIES)
    for (model, chosen, grid), (target, feature) in product(
        zip(models, both, (GRID, fixed), strict=True), enumerate((1, 0))
    ):
        plain = rolled(rows["train"][feature], rows["validation"][feature], grid.tunings(12))
        assert chosen[target].scores == pytest.approx(plain, abs=1e-6)
        assert plain[chosen[target].tuning] == pytest.approx(min(plain.values()), abs=1e-9)
        assert model.tunings()[target] == chosen[target].tuning
        x, y, seen, known = rows["train"][feature]
        history, mask = torch.zeros(2, len(x), 12, 1, 2, dtype=torch.float64)
        history[:, :, 0, feature], mask[:, :, 0, feature] = torch.from_numpy(x[:, :-1]), torch.from_numpy(known)
        forecast = model(history, None, mask.bool())[:, :, 0, target].numpy()
        for step in range(6):
            own = plain_solution(x[seen[:, step]], y[seen[:, step], step], chosen[target].tuning)
            np.testing.assert_allclose(forecast[:, step], own(x), atol=1e-6)
        for split in ("train", "validation"):
            error = brute_force(rows["train"][feature], rows[split][feature], [chosen[target].tuning])
            total, count = chosen[target].errors[split]
            assert (total / count, count) == (
                pytest.approx(error[chosen[target].tuning]),
                rows[split][feature][2].sum(),
            )


@pytest.mark.parametrize("normalisation", ["none", "last", "mean"])
@pytest.mark.parametrize("history", [12, 5, 1])
def test_a_tuning_is_solved_as_least_squares_solves_it(make_world: Make, history: int, normalisation: str) -> None:
    world, window = prepared(make_world, missing=0.5), Window(12, 6)
    window_chunks = windows_of(world.open(), "train", window, (0,))
    equations = Masked(window)
    accumulate(window_chunks, {0: equations}, [0.0], never)
    x, y, seen, _ = written_out(world, "train", window)[0]
    assert (x[:, -1] != x[:, -2]).any()  # windows whose last step was not observed
    for penalty in (1e-4, 0.1, 10.0):
        tuning = Tuning(history, normalisation, penalty)
        weight, bias = solve(equations, tuning, 6, never)
        assert weight.shape == (history + 1, 6)
        for step in range(6):
            rows = seen[:, step]
            wanted = plain_solution(x[rows], y[rows, step], tuning)(x)
            np.testing.assert_allclose(
                (x[:, -1 - history :] @ weight.numpy() + bias.numpy())[:, step], wanted, atol=1e-7
            )


def test_without_a_penalty_it_is_ordinary_least_squares_also_where_columns_depend_on_each_other(
    make_world: Make,
) -> None:
    """Less their mean, the steps of a window sum to zero."""
    world, window = prepared(make_world, missing=0.0), Window(6, 2)
    for normalisation in ("none", "last", "mean"):
        equations = Joint(window)
        accumulate(windows_of(world.open(), "train", window, (1,)), {0: equations}, [0.0], never)
        x, y, *_ = written_out(world, "train", window)[1]
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
    fit([model], train_windows, held, [Grid((0.1,), (12,), ("none",))], never)
    x, y, seen, _ = written_out(world, "train", window)[1]
    x, y = x - means[0], y - means[0]
    for step in range(6):
        wanted = plain_solution(x[seen[:, step]], y[seen[:, step], step], tuning)(x)
        found = model(torch.from_numpy(x[:, :-1] + means[0])[..., None, None])[:, step, 0, 0].numpy() - means[0]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_without_validation_windows_the_last_quarter_of_training_decides(make_world: Make) -> None:
    world = prepared(make_world, split={"train": "2024-03-01..2024-03-10"})
    window = Window(12, 6)
    train_windows, held = (windows_of(world.open(), split, window, (0, 1)) for split in ("train", "validation"))
    assert held.runs == ()
    grid = Grid((1.0, 0.01, 0.1), (12,), ("none",))
    chosen = fit([Ridge(12, 6, (0, 1))], train_windows, held, [grid], never)[0]
    for target, (x, y, seen, _) in enumerate(written_out(world, "train", window)):
        edges = [3 * round(len(x) // 3 * share) for share in (0.75, 0.875)] + [len(x)]
        parts = [(x[low:high], y[low:high], seen[low:high], seen) for low, high in pairwise([0, *edges])]
        first = brute_force(parts[0], parts[1], grid.tunings(12))
        before = tuple(np.concatenate(columns) for columns in zip(*parts[:2], strict=True))
        second = brute_force(before, parts[2], grid.tunings(12))
        plain = {tuning: np.log(first[tuning] * second[tuning]) / 2 for tuning in first}
        assert chosen[target].scores == pytest.approx(plain, abs=1e-6)
        assert chosen[target].tuning == min(plain, key=plain.__getitem__)
        assert chosen[target].errors["validation"] == (0.0, 0.0)


def test_a_step_that_was_never_observed_gets_finite_weights(make_world: Make) -> None:
    """And a target that never moves."""
    world = prepared(make_world)
    window_chunks = windows_of(world.open(), "train", Window(12, 6), (0,))
    equations = Masked(Window(12, 6))
    accumulate(window_chunks, {0: equations}, [0.0], never)
    for part in equations._sums():
        part[2] = 0.0
    weight, bias = solve(equations, Tuning(12, "none", 0.0), 6, never)
    assert not weight[:, 2].any()
    assert not bias[2].any()
    assert torch.isfinite(weight).all()
    still = Joint(Window(12, 6))
    accumulate(window_chunks, {0: still}, [0.0], never)
    still.gram, still.total = torch.full((18, 18), 0.25 * still.count), torch.full((18,), 0.5 * still.count)
    still.gram, still.total = still.gram.double(), still.total.double()
    for normalisation in ("none", "last", "mean"):
        weight, bias = solve(still, Tuning(12, normalisation, 0.0), 6, never)
        forecast = torch.full((13,), 0.5, dtype=torch.float64) @ weight + bias
        np.testing.assert_allclose(forecast, 0.5, atol=1e-9)


def test_ridge_on_a_dataset_equals_numpy_on_its_raw_rows(make_world: Make, plain: Make) -> None:
    """From dumps to weights by two ways that share nothing."""
    world = prepared(make_world)
    train_windows, held = (windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation"))
    model = Ridge(12, 6, (0, 1))
    fit([model], train_windows, held, [Grid((0.01,), (12,), ("none",))], never)
    window_chunks = plain(world).windows("train", 12, 6)
    for feature in range(2):
        x = np.array([w.scaled[:12, n, feature] for w in window_chunks for n in range(3)])
        for step in range(6):
            y = np.array([w.scaled[12 + step, n, feature] for w in window_chunks for n in range(3)])
            seen = np.array([bool(w.observed[12 + step, n, feature]) for w in window_chunks for n in range(3)])
            forecast = plain_solution(np.column_stack([x, x[:, -1]])[seen], y[seen], Tuning(12, "none", 0.01))
            weight = model.weight[feature, :, step].numpy()
            np.testing.assert_allclose(
                x @ weight[:-1] + weight[-1], forecast(np.column_stack([x, x[:, -1]])), atol=1e-6
            )


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
    sums, counts = zip(*(choice.errors["validation"] for choice in choices_of(world)), strict=True)
    assert done.val_loss == pytest.approx(sum(sums) / sum(counts), rel=1e-6)


def choices_of(world: Any) -> list[Chosen]:
    window_chunks = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    return fit([Ridge(12, 6, (0, 1))], *window_chunks, [Grid(world.settings.trainer.model.penalties)], never)[0]


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
    for times in range(0, counting.asked, 31):
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
    window_chunks = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    few, many = (Patience(10**9) for _ in range(2))
    fit([Ridge(12, 6, (0, 1))], *window_chunks, [Grid((0.1,), (12,), ("none",))], few)
    fit([Ridge(12, 6, (0, 1))], *window_chunks, [Grid(PENALTIES, (12,), ("none",))], many)
    assert many.asked - few.asked == 3 * 2 * 6 * (
        len(PENALTIES) - 1
    )  # judged three times, both masked: each solve asks
    for times in range(0, few.asked, 7):
        with pytest.raises(Interrupted):
            fit([Ridge(12, 6, (0, 1))], *window_chunks, [Grid((0.1,), (12,), ("none",))], Patience(times))


def test_fit_runs_on_one_thread_and_puts_the_number_back_also_where_it_is_stopped(make_world: Make) -> None:
    world = prepared(make_world)
    window_chunks = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(2)
    try:
        with pytest.raises(Interrupted):
            fit(
                [Ridge(12, 6, (0, 1))],
                *window_chunks,
                [GRID],
                lambda: seen.append(torch.get_num_threads()) or len(seen) > 90,
            )
        assert torch.get_num_threads() == 2
        assert set(seen) == {1}
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_brings_back_what_was_chosen(make_world: Make, session_of: Make) -> None:
    from dateshard.trainer import checkpoint
    from dateshard.trainer.session import restore

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
    assert "ridge: the best of 12 on validation and the last quarter of training, for each target" in result.notes


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


def anchors(run: DateRun) -> range:
    return range(run.first, run.first + 5 * run.count, 5)


def test_reaching_drops_anchors_and_moves_none() -> None:
    runs = [
        DateRun(segment=0, first=12, count=4, first_day=0, last_day=1),
        DateRun(segment=1, first=40, count=2, first_day=1, last_day=2),
        DateRun(segment=2, first=12, count=2, first_day=2, last_day=3),
    ]
    assert reaching(runs, 20, 5) == (
        DateRun(segment=0, first=22, count=2, first_day=0, last_day=1),
        DateRun(segment=1, first=40, count=2, first_day=1, last_day=2),
    )
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
    window_chunks = [windows_of(world.open(), split, Window(12, 6), (0, 1)) for split in ("train", "validation")]
    together, apart = (Ridge(12, 6, (0, 1)) for _ in range(2))
    fit([together], *window_chunks, [Grid(PENALTIES)], never)
    monkeypatch.setattr(ridge, "EQUATION_BYTES", 16 * 6 * 12**2)
    passes = []
    monkeypatch.setattr(ridge, "accumulate", lambda given, own, *rest: passes.append(accumulate(given, own, *rest)))
    fit([apart], *window_chunks, [Grid(PENALTIES)], never)
    assert len(passes) == 2 * 4  # a pass over each piece of training, one over validation
    assert torch.equal(together.weight, apart.weight)


def test_the_first_of_equals_is_chosen() -> None:
    empty, one = Joint(Window(3, 2)), Joint(Window(3, 2))
    one.count, one.gram = 1.0, torch.zeros(5, 5, dtype=torch.float64)
    tunings = Grid((0.1, 1.0)).tunings(3)
    judging = Judging(tunings)
    judging.add(one, empty, 1, never)
    judging.add(empty, one, 1, never)
    assert judging.best(tunings[::-1]) == (Tuning(1, "mean", 0.1), {})  # nothing judged: the smallest penalty
    judging.add(one, one, 1, never)
    assert judging.best(tunings)[0] == tunings[0] == Tuning(3, "none", 0.1)


def test_the_default_grid_is_the_whole_history_a_half_a_quarter_and_an_eighth() -> None:
    assert Grid((0.1,)).lengths(168) == [168, 84, 42, 21]
    assert Grid((0.1,)).lengths(3) == [3, 1]
    assert Grid((0.1,), (24, 168, 500)).lengths(168) == [168, 24]
    assert len(Grid((0.1, 0.1), (2, 2), ("last", "last")).tunings(5)) == 1


def test_windows_do_not_depend_on_loading(make_world: Make) -> None:
    world = prepared(make_world, loading={"days_per_batch": 1})
    window_chunks: WindowRuns = windows_of(world.open(), "train", Window(12, 6), (0,))
    assert [(run.first, run.count) for run in window_chunks.runs] == [(12, 7 * 24 - 12 - 5)]
