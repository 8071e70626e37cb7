"""Daily dumps of five-minute traffic sensors: any size, known truth, and any defect on demand.

Read `city.py` (what everything depends on), `truth.py` (the noiseless values), `readings.py` (noise and gaps),
`formats.py` (the same rows in every format), then `faults.py` (defects with exact counts).
"""

from __future__ import annotations

import datetime as dt

from dateshard.pipeline.synthetic import damage, faults
from dateshard.pipeline.synthetic.city import City, node_table, sensors
from dateshard.pipeline.synthetic.faults import Fault, Spoiled
from dateshard.pipeline.synthetic.formats import (
    FORMATS,
    encode,
    write_hours,
    write_long,
    write_one,
    write_rows,
    write_wide,
)
from dateshard.pipeline.synthetic.readings import records, whole_date, working
from dateshard.pipeline.synthetic.truth import FEATURES, expected, expected_value, incidents

__all__ = [
    "FAULTS",
    "FEATURES",
    "FORMATS",
    "City",
    "Fault",
    "Spoiled",
    "encode",
    "expected",
    "expected_value",
    "incidents",
    "node_table",
    "records",
    "sensors",
    "spoil",
    "whole_date",
    "working",
    "write_hours",
    "write_long",
    "write_one",
    "write_rows",
    "write_wide",
]

_ALL: tuple[Fault, ...] = (
    faults.equal_duplicates,
    faults.conflicting_duplicates,
    faults.rows_of_another_date,
    faults.unknown_nodes,
    faults.missing_node,
    faults.not_a_number,
    faults.nan_values,
    faults.infinite_values,
    faults.huge_values,
    faults.negative_values,
    faults.out_of_range,
    faults.bad_times,
    faults.ambiguous_times,
    faults.header_only,
    faults.missing_column,
    faults.renamed_column,
    faults.reordered_columns,
    faults.too_large_integer,
    faults.other_types,
    faults.shuffled_rows,
    faults.constant_column,
    faults.null_column,
    damage.cut_file,
    damage.no_final_newline,
    damage.empty_file,
    damage.byte_order_mark,
    damage.utf_16,
    damage.crlf,
    damage.semicolons,
    damage.duplicate_column,
    damage.invalid_utf8,
    damage.nul_byte,
    damage.quoted_newline,
    damage.short_rows,
    damage.long_rows,
    damage.truncated_gzip,
    damage.corrupt_gzip,
    damage.cut_parquet,
    damage.flipped_parquet,
)
FAULTS: dict[str, Fault] = {fault.__name__: fault for fault in _ALL}


def spoil(city: City, date: dt.date, name: str, many: int = 5) -> Spoiled:
    """One date's dump with a defect of that name; the same city, date and name hit the same rows.

    Memory: the date's rows two to four times.
    """
    return FAULTS[name](whole_date(city, date), city.stream(f"fault {name}", date.toordinal()), many)
