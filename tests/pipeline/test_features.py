"""Scales, fills and categories through the whole offline stage."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from dateshard.pipeline.clean import clean
from dateshard.pipeline.config import FeatureConfig
from dateshard.settings import validate
from dateshard.shardstore.errors import DamagedError, DumpError, StoreError, UsageError
from dateshard.shardstore.scaling.histogram import bins_of, representatives

Make = Callable[..., Any]
SPLIT = {"train": "..2024-03-03", "validation": "2024-03-04.."}
FIRST, LAST = dt.date(2024, 3, 1), dt.date(2024, 3, 5)


def prepared(make_world: Make, **speed: Any) -> Any:
    world = make_world(5, split=SPLIT)
    world.tree["pipeline"]["features"]["speed"] |= speed
    assert world.prepare().failed == {}
    return world


def shards(world: Any) -> dict[dt.date, str]:
    return {date: entry.parts[0].id for date, entry in world.open().manifest.dates.items()}


def unscaled(world: Any, dates: list[dt.date]) -> np.ndarray:
    """Raw cells of 'speed' [T, N] of a store whose feature has no scale, NaN where not observed."""
    dataset, found = world.open(), []
    for date in dates:
        values, observed = dataset.map(date), dataset.map(date, "observed")
        found.append(values[..., 0] if observed is None else np.where(observed[..., 0], values[..., 0], np.nan))
    return np.concatenate(found).astype(np.float64)


@pytest.mark.parametrize("per", ["feature", "node"])
@pytest.mark.parametrize("method", ["minmax", "robust"])
def test_shards_are_scaled_by_numbers_of_the_training_cells_alone(make_world: Make, method: str, per: str) -> None:
    world = prepared(make_world, scale="none", fill="none", fill_limit=None)
    raw, train = unscaled(world, sorted(world.rows)), unscaled(world, sorted(world.rows)[:3])
    world.tree["pipeline"]["features"]["speed"] |= {"scale": method, "scale_per": per}
    assert world.prepare().measured == 0
    found = unscaled(world, sorted(world.rows))
    for node in range(3):
        cells = train[:, [node]] if per == "node" else train
        cells = cells[~np.isnan(cells)]
        low, spread = cells.min(), np.ptp(cells)
        if method == "robust":
            quartiles = statistics.quantiles(representatives(bins_of(cells)).tolist(), n=4, method="inclusive")
            low, spread = quartiles[1], quartiles[2] - quartiles[0]
        np.testing.assert_allclose(found[:, node], (raw[:, node] - low) / spread, rtol=1e-5, atol=1e-5)


def test_switching_to_robust_reads_no_dump_and_equals_a_fresh_store(make_world: Make) -> None:
    world = prepared(make_world)
    for date in world.rows:
        world.dump(date).unlink()
    world.tree["pipeline"]["features"]["speed"]["scale"] = "robust"
    finished = world.prepare()
    assert (finished.measured, finished.written, finished.failed) == (0, 5, {})
    switched = world.open().manifest
    assert not [error for _, error in world.open().verify(full=True) if error]
    for date in world.rows:
        world.write(date)
    world.tree["dataset"] = "fresh"
    world.prepare()
    fresh = world.open().manifest
    assert (fresh.statistics, fresh.dates) == (switched.statistics, switched.dates)


def test_a_histogram_is_taken_for_those_who_ask_and_only_them(make_world: Make) -> None:
    world = prepared(make_world)
    assert not list(world.store.rglob("histogram.i64"))
    world.tree["pipeline"]["features"]["speed"]["scale"] = "minmax"
    statistics_before = world.open().manifest.statistics
    world.prepare()
    assert world.open().manifest.statistics == statistics_before
    assert not list(world.store.rglob("histogram.i64"))
    world.tree["pipeline"]["features"]["speed"]["scale"] = "robust"
    world.prepare()
    folders = {path.relative_to(world.store).parts[0] for path in world.store.rglob("histogram.i64")}
    assert folders == {"partials", "statistics"}
    assert len(list((world.store / "partials").rglob("histogram.i64"))) == 3  # the training dates


def test_a_flipped_bit_in_a_histogram_is_found_and_mended_without_a_dump(make_world: Make) -> None:
    world = prepared(make_world, scale="robust")
    before = world.open().manifest
    partial = world.store / "partials" / str(FIRST)
    for path in (*partial.rglob("histogram.i64"), *(world.store / "statistics").rglob("histogram.i64")):
        data = bytearray(path.read_bytes())
        data[-8] ^= 1  # a count
        path.chmod(0o644)
        path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"histogram.i64: size or hash is not what was committed"):
        _ = world.open().scale
    broken = sorted(name.split("/")[0] for name, error in world.open().verify(full=True) if error)
    assert broken == ["partials", "statistics"]
    assert world.prepare(refit=True).measured == 0
    assert world.open().manifest == before
    assert [error for _, error in world.open().verify(full=True) if error] == []
    assert (world.open().scale.spread_NF > 0).all()


@pytest.mark.parametrize("method", ["zscore", "minmax", "robust"])
def test_validation_values_never_move_a_scale_a_mean_or_a_vocabulary(make_world: Make, method: str) -> None:
    world = with_kinds(make_world, scale=method, fill="mean")
    before = world.open()
    for date in sorted(world.rows)[3:]:
        world.rows[date] = [(t, node, 1e5 + index, 1e5) for index, (t, node, *_) in enumerate(world.rows[date])]
        world.kinds[date] = ["another"] * len(world.rows[date])
        world.write(date)
    world.prepare(refit=True)
    after = world.open()
    assert (after.manifest.statistics, after.manifest.vocabularies) == (
        before.manifest.statistics,
        before.manifest.vocabularies,
    )
    changed = [date for date in world.rows if after.manifest.dates[date] != before.manifest.dates[date]]
    assert changed == sorted(world.rows)[3:]


def test_quartiles_that_cannot_be_told_apart_stop_the_command_and_the_old_generation_stays(make_world: Make) -> None:
    world = prepared(make_world)
    for date, rows in world.rows.items():
        world.rows[date] = [(t, node, 1e6 + (speed or 0), volume) for t, node, speed, volume in rows]
        world.write(date)
    world.prepare(refit=True)
    before = world.open()
    world.tree["pipeline"]["features"]["speed"]["scale"] = "robust"
    with pytest.raises(UsageError, match=r"robust cannot scale feature 'speed'"):
        world.prepare()
    assert world.open().generation == before.generation
    world.tree["pipeline"]["features"]["speed"]["scale"] = "zscore"
    assert world.prepare().failed == {}
    assert world.open().manifest == before.manifest


@pytest.mark.parametrize("setting", [{"clip": [-1.5, 1.5]}, {"fill": "mean", "fill_limit": 2}, {"fill_limit": 1}])
def test_a_clip_or_another_fill_scales_every_date_again_from_what_was_measured(
    make_world: Make, setting: dict[str, Any]
) -> None:
    world = prepared(make_world)
    before = world.open().manifest
    world.tree["pipeline"]["features"]["speed"] |= setting
    finished = world.prepare()
    assert (finished.measured, finished.written + finished.unchanged) == (0, 5)
    after = world.open().manifest
    assert after.statistics == before.statistics
    assert after.normalise != before.normalise
    assert world.prepare().generation == finished.generation  # what was loaded equals what was committed
    if "clip" in setting:
        values = world.open().map(FIRST)[..., 0]
        assert (values.min(), values.max()) == (-1.5, 1.5)


def test_a_value_that_float32_cannot_hold_scaled_fails_its_date(make_world: Make) -> None:
    world = make_world(5, split=SPLIT)
    for date, rows in world.rows.items():
        world.rows[date] = [(t, node, (speed or 0) * 1e-9, volume) for t, node, speed, volume in rows]
        world.write(date)
    t, node, _, volume = world.rows[LAST][-1]
    world.rows[LAST].append((t + 1, node, 3e38, volume))
    world.write(LAST)
    failed = world.prepare().failed
    assert list(failed) == [LAST]
    assert isinstance(failed[LAST], DumpError)
    hour = f"{dt.datetime.fromtimestamp(t / 1e9, dt.UTC):%Y-%m-%dT%H}:00:00+00:00"
    assert str(failed[LAST]).startswith(f"{world.dump(LAST)}, date {LAST}, column 'speed': ")
    assert f"float32 cannot hold it scaled (feature 'speed', at {hour}, node {node}). Correct" in str(failed[LAST])
    world.tree["pipeline"]["features"]["speed"]["clip"] = [-10, 10]
    assert world.prepare().failed == {}
    assert world.open().map(LAST)[..., 0].max() == 10


# ---- categories


def with_kinds(make_world: Make, dates: int = 5, aggregate: str = "last", **speed: Any) -> Any:
    """A world whose dumps have a column of kinds beside: 'car', 'bus' or nothing; from the fourth date on 'tram' too."""
    world = make_world(dates, split=SPLIT)
    world.kinds = {}
    plain = world.write

    def write(date: dt.date) -> None:
        plain(date)
        header, *lines = world.dump(date).read_text().splitlines()
        lines = [f"{line},{kind}" for line, kind in zip(lines, world.kinds[date], strict=True)]
        world.dump(date).write_text("\n".join([f"{header},kind", *lines, ""]))

    for index, (date, rows) in enumerate(world.rows.items()):
        generator = np.random.default_rng([7, index])
        choice = ["car", "bus", "", "", "", *(["tram"] if index > 2 else [])]
        world.kinds[date] = generator.choice(choice, len(rows)).tolist()
    world.write = write
    for date in world.rows:
        write(date)
    world.tree["pipeline"]["features"] |= {"kind": {"categorical": True, "aggregate": aggregate}}
    world.tree["pipeline"]["features"]["speed"] = {"aggregate": "last", **speed}
    assert world.prepare().failed == {}
    return world


def kinds_by_hand(world: Any, date: dt.date, pick: int) -> np.ndarray:
    """[T, N] texts, '' where no record of the cell has one; records stand in file order, one an instant."""
    dataset = world.open()
    day, names = dataset.manifest.day(date), dataset.nodes.names
    cells: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for (instant, node, *_), kind in zip(world.rows[date], world.kinds[date], strict=True):
        if kind:
            cells.setdefault(((instant - day.start) // day.step, names.index(node)), []).append((instant, kind))
    out = np.full((day.num_steps, len(names)), "", dtype=object)
    for cell, found in cells.items():
        out[cell] = sorted(found)[pick][1]
    return out


@pytest.mark.parametrize(("aggregate", "pick"), [("last", -1), ("first", 0)])
def test_a_shard_holds_codes_of_the_training_vocabulary(make_world: Make, aggregate: str, pick: int) -> None:
    world = with_kinds(make_world, aggregate=aggregate)
    dataset = world.open()
    assert dataset.vocabularies.names == {"kind": ("bus", "car")}
    seen = set()
    for date in world.rows:
        texts = kinds_by_hand(world, date, pick)
        wanted = np.vectorize({"": 0, "bus": 1, "car": 2, "tram": 0}.get)(texts)
        assert dataset.map(date)[..., 2].tolist() == wanted.tolist()
        assert (dataset.map(date, "observed")[..., 2] == (texts != "")).all()  # an unseen category was observed
        seen |= set(texts.ravel().tolist())
    assert seen == {"", "bus", "car", "tram"}


def test_categories_that_training_never_saw_are_counted_by_date_and_feature(make_world: Make) -> None:
    world = with_kinds(make_world)
    world.kinds[LAST] = ["tram", "boat"] * (len(world.rows[LAST]) // 2) + ["bus"] * (len(world.rows[LAST]) % 2)
    world.write(LAST)
    assert world.prepare().unknown_categories[LAST]["kind"].count == 2
    said = world.run("preprocess", "-c", str(world.config_file()), "--force").stdout
    assert "categories of 'kind' that the training data lacks get code 0: up to 2 on 2024-03-04..2024-03-05" in said


def test_another_vocabulary_after_a_refit_normalises_every_date_and_equals_a_fresh_store(make_world: Make) -> None:
    world = with_kinds(make_world)
    before = world.open().manifest
    world.kinds[FIRST] = ["aaa" if kind == "bus" else kind for kind in world.kinds[FIRST]]
    world.write(FIRST)
    world.prepare()
    kept = world.open()
    assert kept.manifest.vocabularies == before.vocabularies  # frozen: the new category has code 0
    assert kept.manifest.normalise == before.normalise
    world.prepare(refit=True)
    after = world.open()
    assert after.vocabularies.names == {"kind": ("aaa", "bus", "car")}
    assert after.manifest.normalise != before.normalise
    assert all(shards(world)[date] != part for date, part in _parts(before).items())
    world.tree["dataset"] = "fresh"
    world.prepare()
    assert _parts(world.open().manifest) == _parts(after.manifest)
    assert world.open().manifest.vocabularies == after.manifest.vocabularies


def _parts(manifest: Any) -> dict[dt.date, str]:
    return {date: entry.parts[0].id for date, entry in manifest.dates.items()}


def test_only_the_vocabulary_decides_when_nothing_else_of_the_statistics_moves(make_world: Make) -> None:
    """Renamed categories leave every count as it is: the shards' identity must move with the names alone."""
    world = with_kinds(make_world)
    before = world.open().manifest
    for date in sorted(world.rows)[:3]:
        world.kinds[date] = [kind.replace("bus", "zug") for kind in world.kinds[date]]
        world.write(date)
    world.prepare(refit=True)
    after = world.open().manifest
    assert after.vocabularies != before.vocabularies
    assert after.normalise != before.normalise
    moments = [world.open(g).statistics.merged.moments_6NF.tobytes() for g in (1, world.open().generation)]
    assert moments[0] == moments[1]


def test_carrying_on_a_category_stops_at_its_limit(make_world: Make) -> None:
    world = with_kinds(make_world)
    plain = world.open().map(FIRST)[..., 2].copy()
    missing = ~world.open().map(FIRST, "observed")[..., 2]
    world.tree["pipeline"]["features"]["kind"] |= {"fill": "forward", "fill_limit": 1}
    assert world.prepare().measured == 0
    carried = world.open().map(FIRST)[..., 2]
    wanted = plain.copy()
    wanted[1:] = np.where(missing[1:] & ~missing[:-1], plain[:-1], plain[1:])
    assert missing.sum() > 3
    assert carried.tolist() == wanted.tolist()


def test_a_store_without_categories_names_no_vocabulary_and_has_no_folder_of_them(make_world: Make) -> None:
    world = prepared(make_world)
    text = (world.store / "manifests" / "g00000001.json").read_text()
    assert "vocabular" not in text
    assert "categorical" not in text
    assert "clip" not in text
    assert not (world.store / "vocabularies").exists()
    assert world.open().vocabularies.names == {}


def test_a_damaged_vocabulary_is_refused_and_mended_and_cleaning_keeps_the_good_one(make_world: Make) -> None:
    world = with_kinds(make_world)
    (path,) = world.store.glob("vocabularies/*/vocabularies.json")
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good.replace(b"car", b"cat"))
    with pytest.raises(DamagedError, match=r"vocabularies.json"):
        _ = world.open().vocabularies
    broken = [name for name, error in world.open().verify() if error]
    assert broken == [f"vocabularies/{world.open().manifest.vocabularies}"]
    with pytest.raises(StoreError, match="refit-statistics"):
        world.prepare(force=True)
    world.prepare(refit=True)
    assert world.open().vocabularies.names == {"kind": ("bus", "car")}
    clean(world.settings.preparing(), world.store, 1, dry_run=False)
    assert [error for _, error in world.open().verify(full=True) if error] == []


def test_cleaning_removes_vocabularies_that_no_generation_names(make_world: Make) -> None:
    world = with_kinds(make_world)
    world.kinds[FIRST] = ["aaa"] * len(world.rows[FIRST])
    world.write(FIRST)
    world.prepare(refit=True)
    assert len(list((world.store / "vocabularies").iterdir())) == 2
    clean(world.settings.preparing(), world.store, 1, dry_run=False)
    (left,) = (world.store / "vocabularies").iterdir()
    assert left.name == world.open().manifest.vocabularies


def test_more_categories_than_float32_has_codes_are_refused(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dateshard.pipeline.acts.MOST_CODES", 2)
    world = with_kinds(make_world)
    world.kinds[FIRST] = ["aaa"] * len(world.rows[FIRST])
    world.write(FIRST)
    with pytest.raises(UsageError, match=r"feature 'kind' has 3 categories, float32 holds 2 codes"):
        world.prepare(refit=True)


def test_stores_with_categories_and_quantiles_are_equal_whatever_the_workers(
    make_world: Make, tmp_path: Path, tree_of: Any
) -> None:
    world = with_kinds(make_world, scale="robust", scale_per="node", fill="mean", fill_limit=2, clip=[-3, 3])
    world.tree["dataset"] = "other"
    world.prepare(num_workers=2)
    one, other = (tree_of(tmp_path / "data" / "shards" / name) for name in ("world", "other"))
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == {"manifests/g00000001.json"}  # it names its dataset


# ---- configuration

WRONG = [
    ({"fill_limit": 3}, "fill_limit has no effect while fill is none"),
    ({"clip": [1, -1]}, "clip must be [low, high] with low below high (got [1.0, -1.0])"),
    ({"scale": "minmax", "clip": [1, 1]}, "clip must be [low, high] with low below high"),
    ({"clip": [0, float("inf")]}, "finite number"),
    ({"range": [5, 5]}, "range must be [low, high] with low below high (got [5.0, 5.0])"),
    ({"range": [7, 5]}, "range must be [low, high] with low below high"),
    ({"range": [None, None]}, "range names no bound"),
    ({"outside": "drop"}, "outside: drop has no effect without a range"),
    ({"aggregate": "count", "range": [0, 1]}, "range has no effect on a count of records: it needs a column"),
    (
        {"aggregate": "median"},
        "'mean', 'sum', 'min', 'max', 'first', 'last', 'count', 'difference', 'gap' or 'calendar'",
    ),
    ({"categorical": True, "aggregate": "mean"}, "aggregate must be last or first (got mean)"),
    ({"categorical": True, "fill": "mean"}, "fill must be none or forward (got mean)"),
    ({"categorical": True, "fill": "zero"}, "fill must be none or forward (got zero)"),
    ({"categorical": True, "scale": "zscore"}, "scale must be none (got zscore)"),
    ({"categorical": True, "transform": "log1p"}, "transform must be none (got log1p)"),
    ({"categorical": True, "scale_per": "node"}, "scale_per: node has no effect on a categorical feature"),
    ({"categorical": True, "clip": [0, 1]}, "clip has no meaning"),
    ({"categorical": True, "range": [0, 1]}, "range has no meaning"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[str(sorted(given)) for given, _ in WRONG])
def test_settings_that_contradict_each_other_are_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FeatureConfig.model_validate(given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"categorical": True},
        {"categorical": True, "fill": "forward", "fill_limit": 2},
        {"range": [None, 5], "outside": "clip"},
        {"scale": "robust", "clip": [-3, 3], "fill": "mean", "fill_limit": 2},
        {"aggregate": "count", "column": "speed", "range": [0, 1], "outside": "null"},
    ],
)
def test_settings_written_out_are_read_again_as_they_are(given: dict[str, Any]) -> None:
    config = FeatureConfig.model_validate(given)
    assert FeatureConfig.model_validate(config.model_dump(mode="json")) == config
    assert not config.categorical or (config.aggregate, config.scale) == ("last", "none")


def test_the_documented_example_is_a_valid_configuration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    tree = YAML(typ="safe", pure=True).load(text.split("```yaml")[1].split("```")[0])
    features = validate(tree).preparing().features
    assert features["delay"].bounds == (-120, 1800)
    assert features["carrier"].aggregate == "last"


def test_an_open_end_of_a_range_is_infinite() -> None:
    assert FeatureConfig.model_validate({"range": [0, None]}).bounds == (0, float("inf"))
    assert FeatureConfig.model_validate({"range": [None, 9]}).bounds == (-float("inf"), 9)
    assert FeatureConfig().bounds is None


@pytest.mark.parametrize("beyond", [39.999, 80.001])
def test_a_declared_range_includes_its_ends(make_world: Make, beyond: float) -> None:
    world = make_world(2, missing=0)
    world.tree["pipeline"]["features"]["speed"] |= {"range": [40, 80], "outside": "refuse"}
    for date, rows in world.rows.items():
        world.rows[date] = [(i, node, 40.0 if k % 2 else 80.0, volume) for k, (i, node, _, volume) in enumerate(rows)]
        world.write(date)
    assert world.prepare().failed == {}
    last = max(world.rows)
    world.rows[last][7] = (*world.rows[last][7][:2], beyond, 1.0)
    world.write(last)
    assert list(world.prepare().failed) == [last]


def test_what_a_value_may_be_belongs_to_the_measuring_and_only_when_it_is_set(make_world: Make) -> None:
    world = make_world(1)

    def identities(**speed: Any) -> tuple[str, str]:
        world.tree["pipeline"]["features"]["speed"] = {"aggregate": "last", **speed}
        config = world.settings.preparing()
        return config.measure_identity(None), config.normalise_settings()

    plain = identities()
    assert identities(outside="refuse", range=None, clip=None) == plain
    several = [identities(range=r, outside=o)[0] for r in ([0, 1], [0, 2], [0, None]) for o in ("refuse", "clip")]
    assert len({plain[0], *several, identities(categorical=True)[0]}) == 8
    assert identities(range=[0, 1])[1] == plain[1]
    assert identities(clip=[0, 1])[0] == plain[0]
    assert len({plain[1], identities(clip=[0, 1])[1], identities(clip=[0, 2])[1], identities(fill="mean")[1]}) == 4
