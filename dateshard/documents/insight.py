"""What `inspect`, `statistics` and `diff` print with `--json`."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dateshard.documents.preparing import DateText, Split

DateRanges = list[Annotated[list[DateText], Field(min_length=2, max_length=2)]]
Share = Annotated[float | None, Field(description="of its cells; null where it has none")]
LeftOut = Annotated[int, Field(description="beyond --limit")]


class Moments(TypedDict):
    """The distribution of observed cells in four figures, each null where there is none."""

    mean: float | None
    std: float | None
    min: float | None
    max: float | None


class Quartiles(TypedDict):
    """The three quartiles of observed cells, each null where there is none."""

    q25: float | None
    median: float | None
    q75: float | None


class DatesHeld(TypedDict):
    """How many dates, and which."""

    count: int
    ranges: Annotated[str, Field(description="as people write them: 2013-03-01..2013-03-31, 2013-04-02")]


class DatesInspected(DatesHeld):
    """The dates that were read."""

    first: DateText | None
    last: DateText | None


class ClockChange(TypedDict):
    """A date that has not 24 hours."""

    date: DateText
    hours: float


class CategoryCount(TypedDict):
    """How often a category was observed."""

    name: str
    cells: int


class Categories(TypedDict):
    """The categories of a categorical feature."""

    count: int
    unseen: Annotated[int, Field(description="observed cells whose category the training data lacks")]
    most: Annotated[list[CategoryCount], Field(description="the ten most frequent")]


class InspectedFeature(TypedDict):
    """One feature over the dates that were read."""

    feature: str
    aggregate: str
    fill: str
    transform: str
    scale: str
    scale_per: str
    cells: Annotated[int, Field(description="steps x nodes, observed or not")]
    observed: int
    missing_share: Share
    raw: Moments
    scaled: Moments
    categories: NotRequired[Annotated[Categories, Field(description="of a categorical feature")]]


class FirstRow(TypedDict):
    """One node at one step, in raw units."""

    time: Annotated[str, Field(description="with its offset from UTC")]
    node: str
    values: Annotated[
        dict[str, float | str | None], Field(description="by feature; a category's name; null: not observed")
    ]


class InspectDocument(TypedDict):
    """What the shards hold: figures are of observed cells, raw and scaled."""

    dataset: str
    generation: int
    layout: str
    timezone: str
    step_seconds: Annotated[float, Field(description="0 where dates hold records, not steps")]
    dates: DatesInspected
    steps: Annotated[int, Field(description="of all these dates")]
    nodes: int
    unseen_nodes: Annotated[
        int, Field(description="of these, nodes that training never saw (pipeline.nodes.unknown: keep)")
    ]
    nodes_without_position: int
    bytes: Annotated[int, Field(description="of these dates' shards")]
    split: Split
    clock_changes: list[ClockChange]
    features: list[InspectedFeature]
    rows: Annotated[list[FirstRow], Field(description="of the first date, --rows of them")]
    warnings: Annotated[list[str], Field(description="what a person should know of the dataset")]


class NodeFigures(Moments):
    """One node of a feature that is scaled per node, after the transform."""

    node: str
    observed: int
    mean_shift: Annotated[
        float | None, Field(description="from the mean of all nodes, in their deviations; null: never observed")
    ]


class StatisticsFeature(Moments):
    """One feature over the training dates, after the transform."""

    feature: str
    transform: str
    scale: str
    scale_per: str
    observed: int
    q25: NotRequired[Annotated[float | None, Field(description="of a robust scale")]]
    median: NotRequired[Annotated[float | None, Field(description="of a robust scale")]]
    q75: NotRequired[Annotated[float | None, Field(description="of a robust scale")]]
    nodes: NotRequired[Annotated[list[NodeFigures], Field(description="scaled per node: the farthest first")]]
    nodes_left_out: NotRequired[LeftOut]


class DateFigures(Moments, Quartiles):
    """One feature of one date, in raw units."""

    date: DateText
    feature: str
    observed: int
    missing_share: Share


class DriftRow(TypedDict):
    """How far one feature of one date stands from the training dates, in training deviations."""

    date: DateText
    feature: str
    split: Annotated[str | None, Field(description="null: in none")]
    mean_shift: float | None
    std_ratio: float | None
    distance: Annotated[float | None, Field(description="Wasserstein's first distance")]


class StatisticsDocument(TypedDict):
    """The frozen statistics, in units after the transform; with `--by-date` and `--drift` the rows of dates."""

    dataset: str
    generation: int
    statistics: Annotated[str, Field(description="their id")]
    file: Annotated[str, Field(description="that holds them; trainer.loading.statistics takes it")]
    dates: Annotated[DatesHeld, Field(description="the training dates that they were made of")]
    provisional: Annotated[list[DateText], Field(description="training dates that they lack")]
    features: list[StatisticsFeature]
    by_date: NotRequired[Annotated[list[DateFigures], Field(description="with --by-date")]]
    drift: NotRequired[Annotated[list[DriftRow], Field(description="with --drift: the largest distance first")]]
    drift_left_out: NotRequired[LeftOut]


class DatesMoved(TypedDict):
    """Dates that only the later or only the earlier generation has."""

    added: list[DateText]
    removed: list[DateText]


class SourcesChanged(DatesMoved):
    """The training dates that two statistics were made of."""

    changed: Annotated[list[DateText], Field(description="in both, with other cells")]


class DatesChanged(SourcesChanged):
    """The dates of two generations."""

    unchanged: int


_Numbers = TypedDict("_Numbers", {"from": int, "to": int})
_Ids = TypedDict("_Ids", {"from": str, "to": str})
_Figures = TypedDict("_Figures", {"from": Moments, "to": Moments})
_Values = TypedDict("_Values", {"from": Any, "to": Any})
_Ranges = TypedDict("_Ranges", {"from": DateRanges | None, "to": DateRanges | None})


class NamesChanged(_Numbers):
    """How many names there were and are, and which came and went."""

    num_added: int
    num_removed: int
    added: Annotated[list[str], Field(description="100 at most")]
    removed: Annotated[list[str], Field(description="100 at most")]


class NodesChanged(NamesChanged):
    """The nodes of two generations."""

    moved: Annotated[int, Field(description="whose position differs")]


class FeatureMoved(_Figures):
    """One feature that both statistics have under the same transform."""

    feature: str
    mean_shift: Annotated[float | None, Field(description="in deviations of the earlier; null: other features")]
    spread_ratio: float | None


class StatisticsChanged(_Ids):
    """The statistics of two generations, by id."""

    sources: Annotated[SourcesChanged | None, Field(description="null where the ids are equal")]
    features: Annotated[list[FeatureMoved], Field(description="none where the ids are equal")]


class SettingChanged(_Values):
    """A setting that differs: null where a generation lacks it."""

    key: str


class SplitChanged(_Ranges):
    """A split whose dates differ: null where a generation lacks it."""

    name: str


class DiffDocument(_Numbers):
    """What changed between two generations."""

    dataset: str
    dates: DatesChanged
    failed: DatesMoved
    provisional: DatesMoved
    statistics: StatisticsChanged
    nodes: NodesChanged
    features: NamesChanged
    settings: list[SettingChanged]
    split: list[SplitChanged]
