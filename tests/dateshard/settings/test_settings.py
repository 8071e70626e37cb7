"""The configuration: layers, places, and all faults at once in words."""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from dateshard.cli import run
from dateshard.settings import Settings, apply, load_settings, validate
from dateshard.shardstore.errors import UsageError

CONFIGS = Path(__file__).parents[3] / "configs"
BASE = """\
dataset: traffic
pipeline:
  source:
    path: raw/{date}.csv
    time: timestamp
    node: sensor
  step: 5m
  features:
    speed: {fill: forward, fill_limit: 12}
trainer:
  training: {epochs: 3}
  scheduler:
    type: step
    step_size: 30
"""
Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load(text, *more texts, overrides=[...]): each text is a file a.yaml, b.yaml, ... of its own."""

    def from_texts(*texts: str, overrides: list[str] = []) -> Settings:  # noqa: B006
        names = []
        for letter, text in zip("abcdef", texts, strict=False):
            Path(f"{letter}.yaml").write_text(textwrap.dedent(text))
            names.append(f"{letter}.yaml")
        return load_settings(names, overrides)

    return from_texts


def faults(load: Load, *texts: str, overrides: list[str] = []) -> list[str]:  # noqa: B006
    """The lines of the error that these texts give."""
    with pytest.raises(UsageError) as caught:
        load(*texts, overrides=overrides)
    return [line.strip() for line in str(caught.value).strip().splitlines()]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_in_the_repository_is_valid(path: Path) -> None:
    overlay = "dataset:" not in path.read_text()  # as low_memory.yaml: laid over another
    settings = load_settings([CONFIGS / "flights.yaml", path] if overlay else [path])
    assert settings.dataset
    assert settings.preparing().features


def test_each_half_is_read_with_its_defaults(load: Load) -> None:
    settings = load(BASE)
    assert settings.preparing().source.timezone == "UTC"
    assert settings.preparing().source.max_bad_fraction == 0
    assert settings.trainer.training.epochs == 3
    assert settings.trainer.training.batch_size == 32
    assert load("dataset: a").pipeline is None
    with pytest.raises(UsageError, match="no section `pipeline:`"):
        load("dataset: a").preparing()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("step_size: 30", "step_size: 0", "a.yaml:14:5: trainer.scheduler.step_size: must be greater than 0 (got 0)"),
        ("epochs: 3", "epoch: 3", "a.yaml:11:14: trainer.training.epoch: unknown key; did you mean 'epochs'?"),
        (
            "fill: forward",
            "fil: forward",
            "a.yaml:9:13: pipeline.features.speed.fil: unknown key; did you mean 'fill'?",
        ),
        ("dataset: traffic", "datasets: traffic", "a.yaml:1:1: datasets: unknown key; did you mean 'dataset'?"),
        (
            "step: 5m",
            "step: 5 min",
            "a.yaml:7:3: pipeline.step: '5 min' is not a step. Write it as 10ms, 30s, 5m, 1h or 1d; one millisecond is the least",
        ),
        ("    time: timestamp\n", "", "a.yaml:2:1: pipeline: layout grid needs source.time, the column of times"),
        (
            "    node: sensor",
            "    node: sensor\n    timezone: Mars/Base",
            "a.yaml:7:5: pipeline.source.timezone: 'Mars/Base' is not a time zone. "
            "Use an IANA name such as UTC or Europe/Berlin",
        ),
        (
            "fill: forward",
            "fill: none",
            "a.yaml:9:5: pipeline.features.speed: fill_limit has no effect while fill is none",
        ),
        (
            "  step: 5m",
            "  step: 5m\n  exclude: [2024-02-30]",
            "a.yaml:8:3: pipeline.exclude.0: '2024-02-30' is not a date. Write it as 2013-03-05 or 20130305",
        ),
    ],
)
def test_a_fault_is_told_with_file_line_column_and_path(load: Load, old: str, new: str, fault: str) -> None:
    assert old in BASE
    found = faults(load, BASE.replace(old, new))
    assert fault in found


def test_a_wrong_word_is_answered_with_the_right_ones(load: Load) -> None:
    (found,) = faults(load, BASE.replace("fill: forward, fill_limit: 12", "aggregate: average"))
    right = "'mean', 'sum', 'min', 'max', 'first', 'last', 'count', 'difference', 'gap' or 'calendar'"
    assert found.startswith(f"a.yaml:9:13: pipeline.features.speed.aggregate: must be {right}")
    assert found.endswith("(got 'average')")


@pytest.mark.parametrize(("loss", "hint"), [("rmse", "; did you mean 'mse'?"), ("of-which-nobody-heard", ".")])
def test_a_loss_that_does_not_exist_is_answered_with_those_that_do(load: Load, loss: str, hint: str) -> None:
    (found,) = faults(load, BASE.replace("{epochs: 3}", f"{{loss: {loss}}}"))
    names = "mse, mae, huber, quantile, poisson, negative_binomial, cross_entropy, or your own as my_module:loss"
    assert found == f"a.yaml:11:14: trainer.training.loss: no loss '{loss}'{hint} Use {names}"


def test_a_format_that_does_not_exist_is_refused_by_the_configuration(load: Load) -> None:
    (found,) = faults(load, BASE.replace("    node: sensor", "    node: sensor\n    format: excel"))
    names = "auto, csv, parquet, jsonl, arrow or my_module:read"
    assert found == f"a.yaml:7:5: pipeline.source.format: no format 'excel'; use {names}"


def test_yaml_null_is_taken_where_the_pages_say_null(load: Load) -> None:
    text = BASE.replace("    node: sensor", "    node: sensor\n    faults: {bad_number: null, not_finite: null}")
    text = text.replace("{fill: forward, fill_limit: 12}", "{range: [0, null], outside: null}")
    pipeline = load(text).preparing()
    assert pipeline == load(text.replace(": null", ': "null"')).preparing()
    assert (pipeline.features["speed"].outside, pipeline.source.faults.bad_number) == ("null", "null")
    schema = Settings.model_json_schema()["$defs"]
    assert {"type": "null"} in schema["FaultPolicy"]["properties"]["bad_number"]["anyOf"]  # for editors
    assert {"type": "null"} in schema["FeatureConfig"]["properties"]["outside"]["anyOf"]


def test_all_faults_are_told_at_once(load: Load) -> None:
    text = BASE.replace("epochs: 3", "epochs: 0, batch: 5").replace("step: 5m", "step: 5x").replace("node: ", "nod: ")
    found = faults(load, text)
    assert len(found) == 4
    assert all(line.startswith("a.yaml:") for line in found)
    assert any("did you mean 'node'?" in line for line in found)


def test_an_unknown_key_far_from_all_names_is_answered_with_the_names(load: Load) -> None:
    (found,) = faults(load, BASE + "zzz: 1\n")
    assert found == "a.yaml:15:1: zzz: unknown key (known: dataset, pipeline, trainer)"


def test_a_fault_is_placed_in_the_file_that_wrote_it(load: Load) -> None:
    assert faults(load, BASE, "trainer:\n  training:\n    epochs: -1\n") == [
        "b.yaml:3:5: trainer.training.epochs: must be greater than or equal to 1 (got -1)"
    ]
    assert faults(load, BASE, overrides=["trainer.training.epochs=-1"])[0].startswith("override: trainer.training.ep")


def test_later_files_win_and_lists_are_replaced_whole(load: Load) -> None:
    more = "trainer: {training: {epochs: 5}, model: {hidden_units: [1]}}\n"
    settings = load(BASE + "  model: {hidden_units: [2, 3]}\n", more, "trainer: {training: {batch_size: 8}}\n")
    assert settings.trainer.training.epochs == 5
    assert settings.trainer.training.batch_size == 8
    assert settings.trainer.model.hidden_units == (1,)


def test_files_lose_to_the_environment_and_that_to_overrides(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATESHARD__TRAINER__TRAINING__EPOCHS", "7")
    monkeypatch.setenv("DATESHARD__TRAINER__TRAINING__BATCH_SIZE", "9")
    monkeypatch.setenv("DATESHARD_DATA", "elsewhere")  # one underscore: no setting
    settings = load(BASE, overrides=["trainer.training.batch_size=11"])
    assert (settings.trainer.training.epochs, settings.trainer.training.batch_size) == (7, 11)
    monkeypatch.setenv("DATESHARD__TRAINER__EPOCS", "7")
    (found,) = faults(load, BASE)
    assert found.startswith("environment DATESHARD__TRAINER__EPOCS: trainer.epocs: unknown key")


def test_a_section_of_another_type_starts_afresh(load: Load) -> None:
    settings = load(BASE, "trainer: {scheduler: {type: none}}\n")
    assert settings.trainer.scheduler.model_dump() == {"warmup_steps": 0, "type": "none"}
    (found,) = faults(load, BASE.replace("type: step", "type: none"))
    assert found.startswith("a.yaml:14:5: trainer.scheduler.step_size: unknown key")


def test_an_overrides_value_is_read_as_yaml(load: Load) -> None:
    settings = load(
        BASE,
        overrides=[
            "trainer.model.hidden_units=[4, 5]",
            "pipeline.exclude=[2024-03-01, 20240302]",
            "pipeline.nodes=",
            "trainer.training={batch_size: 3}",
        ],
    )
    assert settings.trainer.model.hidden_units == (4, 5)
    assert settings.preparing().exclude == tuple((dt.date(2024, 3, day),) * 2 for day in (1, 2))
    assert settings.preparing().nodes is None
    assert (settings.trainer.training.batch_size, settings.trainer.training.epochs) == (3, 3)


@pytest.mark.parametrize("text", ["trainer.training.epochs", "trainer.model.hidden_units=[1", "a=" + "[" * 700])
def test_an_override_that_cannot_be_read_is_refused(load: Load, text: str) -> None:
    with pytest.raises(UsageError):
        load(BASE, overrides=[text])


def test_dates_are_read_as_text_date_or_number(load: Load) -> None:
    text = BASE.replace("  step: 5m", '  step: 5m\n  exclude: ["2024-03-01", 2024-03-02, 20240303, "20240304"]')
    text = text.replace(
        "  step: 5m", "  step: 5m\n  split: {train: ..2024-03-04, validation: 2024-03-05, test: 20240306}"
    )
    pipeline = load(text).preparing()
    assert [(low.day, high.day) for low, high in pipeline.exclude] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert pipeline.split is not None
    assert (pipeline.split.validation, pipeline.split.test) == ("2024-03-05", "20240306")


def test_yaml_1_2_leaves_no_on_and_times_of_day_as_text(load: Load) -> None:
    settings = load(BASE.replace("node: sensor", "node: NO").replace("time: timestamp", "time: on"))
    assert (settings.preparing().source.node, settings.preparing().source.time) == ("NO", "on")
    assert load("dataset: off").dataset == "off"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset: a\ndataset: b\n", 'a.yaml:2:1: found duplicate key "dataset"'),
        ("dataset: [a\n", "a.yaml:2:1: "),
        ("dataset: a\n\ttrainer: {}\n", "a.yaml:2:1: "),
        ("- dataset\n", "a.yaml: a configuration is a mapping of keys"),
        ("", "a.yaml: a configuration is a mapping of keys"),
        ("dataset: a\n---\ndataset: b\n", "a.yaml:2:1: "),
        ("dataset: ../escape\n", "a.yaml:1:1: dataset: "),
        ("dataset: a\x00b\n", "a.yaml: not YAML"),
        ("x: " + "[" * 700, "a.yaml"),
        ("dataset: &a [*a]\n", "a.yaml:1:1: dataset: must be a valid string"),
        ("dataset: &a {b: *a}\n", "a.yaml:1:1: dataset: must be a valid string"),
        ("dataset: 2024\n", "a.yaml:1:1: dataset: must be a text: write 2024 in quotes"),
        ("dataset: a\n" + "# padding\n" * 30_000, "a.yaml: larger than 256 kB"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_error_with_its_name(load: Load, text: str, words: str) -> None:
    found = faults(load, text)
    assert words in found[0]


@pytest.mark.parametrize(("wide", "deep"), [(9, 12), (4, 12), (3, 16)])
def test_a_bomb_of_aliases_is_refused_before_it_explodes(load: Load, wide: int, deep: int) -> None:
    lines = ["a0: &a0 [x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * wide)}]" for k in range(1, deep + 1)]
    (found,) = faults(load, "\n".join(lines) + "\n")
    assert "alias" in found


def test_a_few_aliases_are_welcome(load: Load) -> None:
    text = BASE.replace("speed: {", "speed: &same {") + "x: 1\n"
    text = text.replace("    speed:", "    flow: &other {}\n    volume: *other\n    speed:").replace("x: 1\n", "")
    assert list(load(text).preparing().features) == ["flow", "volume", "speed"]


def test_a_file_that_is_missing_or_no_text_is_refused_with_its_name(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.yaml: cannot be read: No such file"):
        load_settings(["nowhere.yaml"])
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_settings([tmp_path])
    Path("latin.yaml").write_bytes(b"dataset: caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin.yaml: not UTF-8"):
        load_settings(["latin.yaml"])
    with pytest.raises(UsageError, match="no configuration"):
        load_settings([])


def test_resolved_settings_come_back_from_their_own_json(load: Load) -> None:
    settings = load(BASE.replace("  step: 5m", "  step: 5m\n  exclude: [2024-03-02]\n  split: {train: ..2024-03-04}"))
    assert validate(settings.model_dump(mode="json")) == settings
    changed = apply(settings, ["trainer.training.epochs=9"])
    assert changed.trainer.training.epochs == 9
    assert changed.pipeline == settings.pipeline
    with pytest.raises(UsageError, match="epochs"):
        apply(settings, ["trainer.training.epochs=none"])


@pytest.mark.parametrize("flag", ["--save-freq", "--save_freq"])
def test_flags_are_written_with_hyphens_or_underscores(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(BASE)
    assert run(["train", "-c", "a.yaml", flag, "0"]) == 2
    said = capsys.readouterr().err
    assert said == "Error: override: trainer.checkpoint.save_freq: must be greater than or equal to 1 (got 0)\n"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "trainer.scheduler={type: cosin}",
            "trainer.scheduler: there is no type 'cosin'; did you mean 'cosine'? Use step,",
        ),
        (
            "trainer.scheduler={type: cosine, gamma: 3}",
            "gamma: unknown key of type cosine, it is one of step (known: w",
        ),
        ("trainer.scheduler={T_max: 3}", "T_max: unknown key of type step, it is one of cosine (known: warmup_steps"),
        ("trainer.scheduler={type: cosine, t_max: 3}", "t_max: unknown key; did you mean 'T_max'?"),
        ("trainer.inputs=speed", "trainer.inputs: must be a list, as [a, b] (got 'speed')"),
        ("trainer.model=mlp", "trainer.model: must be a section, as {name: value} (got 'mlp')"),
        ("trainer.training.losses=[speed]", "losses: must be a section, as {name: value} (got ['speed'])"),
        ("trainer.loading.days_per_batch=two", "days_per_batch: must be a whole number or 'auto' (got 'two')"),
        ("trainer.model.revin=afine", "revin: must be true, false or 'affine' (got 'afine')"),
        ("trainer.training.class_weights=b", "must be a section, as {name: value}, or 'balanced' (got 'b')"),
        ("trainer.metrics.custom=worst", "trainer.metrics.custom: must be my_module:function (got 'worst')"),
        ("pipeline.source.path=raw/{day}.csv", "'{day}' is not a placeholder; {date} and {date:%Y%m%d} stand for"),
    ],
)
def test_what_a_value_should_be_is_said_in_words_and_once(load: Load, override: str, said: str) -> None:
    (line,) = faults(load, BASE, overrides=[override])
    assert said in line


def test_a_configuration_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=f"; paths begin at {Path.cwd()}"):
        load_settings(["configs/traffic.yml"])
    Path("configs").mkdir()
    Path("configs/traffic.yaml").write_text(BASE)
    with pytest.raises(UsageError, match=r"; here there is configs/traffic\.yaml"):
        load_settings(["configs/traffic.yml"])


def test_an_environment_variable_in_capitals_meets_names_as_they_are_spelled(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = BASE.replace("type: step\n    step_size: 30", "type: cosine").replace("    speed:", "    Ort:") + (
        "  metrics: {custom: null}\n"
    )
    for name, value in {
        "TRAINER__SCHEDULER__T_MAX": "17",
        "trainer__training__Batch_Size": "9",
        "PIPELINE__FEATURES__ORT__FILL_LIMIT": "3",
        "PIPELINE__FEATURES__NEU__FILL": "zero",  # a name of its own is written in small letters
    }.items():
        monkeypatch.setenv(f"DATESHARD__{name}", value)
    settings = load(text)
    assert getattr(settings.trainer.scheduler, "T_max") == 17  # noqa: B009
    assert settings.trainer.training.batch_size == 9
    features = settings.preparing().features
    assert {name: (f.fill, f.fill_limit) for name, f in features.items()} == {
        "Ort": ("forward", 3),
        "neu": ("zero", None),
    }
    monkeypatch.setenv("DATESHARD__TRAINER__SCHEDULER__T_MAXX", "17")
    with pytest.raises(UsageError, match="t_maxx: unknown key; did you mean 'T_max'"):
        load(text)
