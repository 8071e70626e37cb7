"""The `pipeline:` half of a configuration, and the identities of the settings that change bytes."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.source import Date, Section, Source, Step
from shardstore.calendar import parse_step
from shardstore.identity import identity
from shardstore.layouts.grid import Feature

MEASURE_CODE = 1  # raised by hand when the same dump and settings give other staged bytes; a golden test holds it
NORMALISE_CODE = 1  # likewise for staged bytes -> shard bytes


class NodeTable(Section):
    """A CSV of all nodes. Without it the nodes are those found over the training dates."""

    table: str
    id: str = Field(description="column that names the node")
    position: tuple[str, ...] = Field((), description="numeric columns; an empty cell is an unknown coordinate")


class FeatureConfig(Section):
    """One feature: which column, how a step's records become one value, and how that is filled and scaled."""

    column: str | None = Field(None, description="default: the feature's name; count without a column counts records")
    aggregate: Literal["mean", "sum", "count", "last"] = "mean"
    fill: Literal["none", "zero", "forward"] = "none"
    fill_limit: int | None = Field(None, ge=1, description="most steps that forward carries a value on")
    transform: Literal["none", "log1p"] = "none"
    scale: Literal["none", "zscore"] = "zscore"
    scale_per: Literal["feature", "node"] = "feature"

    @model_validator(mode="after")
    def _limit_needs_forward(self) -> FeatureConfig:
        if self.fill_limit is not None and self.fill != "forward":
            raise ValueError("fill_limit has no effect unless fill is forward")
        return self


def _dates_as_text(value: Any) -> Any:
    """YAML gives 2012-03-06 as a date and 20120306 as a number, alone and in lists."""
    if isinstance(value, list | tuple):
        return [_dates_as_text(item) for item in value]
    is_date = isinstance(value, dt.date) or (isinstance(value, int) and value > 1)  # 0 and 1 are fractions
    return str(value) if is_date else value


Share = Annotated[str | float | list[str] | None, BeforeValidator(_dates_as_text)]


class Split(Section):
    """Ranges such as `2013-01-01..2013-09-30` or `2013-11-16..`, or a fraction of the dates each."""

    train: Share = None
    validation: Share = None
    test: Share = None


class StoreConfig(Section):
    """What is written."""

    formats: tuple[Literal["zarr"], ...] = ("zarr",)
    keep_staged: Literal[True] = True


class Pipeline(Section):
    """The offline stage."""

    source: Source
    nodes: NodeTable | None = None
    layout: Literal["grid"] = "grid"
    step: Step = Field(description="length of a step: 30s, 5m, 1h")
    features: dict[str, FeatureConfig] = Field(min_length=1)
    split: Split | None = Field(None, description="default: validation is the last date, training all before it")
    store: StoreConfig = StoreConfig()
    exclude: tuple[Date, ...] = Field((), description="dates that are left out")

    @model_validator(mode="after")
    def _columns_apart(self) -> Pipeline:
        for name in self.features:
            if (column := self.column_of(name)) in (*self.source.time_columns, self.source.node) and column is not None:
                raise ValueError(f"feature '{name}' reads '{column}', the column of times or nodes; count needs none")
            if self.source.wide and column not in (None, self.source.wide.value):
                raise ValueError(
                    f"feature '{name}' reads '{column}', but a wide dump holds one value: '{self.source.wide.value}'"
                )
        return self

    def column_of(self, name: str) -> str | None:
        """The raw column of a feature; None where records are counted."""
        feature = self.features[name]
        return feature.column if feature.column or feature.aggregate == "count" else name

    def raw_columns(self) -> list[str]:
        """The raw columns that features read, each once, sorted."""
        if self.source.wide is not None:
            return [self.source.wide.value]
        return sorted({column for name in self.features if (column := self.column_of(name)) is not None})

    def feature_specs(self) -> tuple[Feature, ...]:
        """What the encoder needs of each feature, in configuration order."""
        return tuple(Feature(name, **feature.model_dump(exclude={"column"})) for name, feature in self.features.items())

    def measure_identity(self, node_names: tuple[str, ...] | None) -> str:
        """Of the settings that decide a staged array's bytes; `node_names` of the table, None where nodes are found."""
        features = [[name, self.column_of(name), feature.aggregate] for name, feature in self.features.items()]
        nodes = None if node_names is None else identity(list(node_names))
        return identity([self.source.measuring(), nodes, self.layout, parse_step(self.step), features])

    def normalise_settings(self) -> str:
        """Identity of the settings that decide a shard's bytes beside staged array, statistics and nodes."""
        keys = ("fill", "fill_limit", "transform", "scale", "scale_per")
        return identity([[name, *(getattr(f, key) for key in keys)] for name, f in self.features.items()])

    def transforms(self) -> list[str]:
        """Each feature's transform, in order."""
        return [feature.transform for feature in self.features.values()]
