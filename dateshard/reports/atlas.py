"""The nodes where they stand: an equirectangular projection with a graticule, each circle shaded by one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from dateshard.reports.charts import HALF, canvas, legend, nice_marks, short, text
from dateshard.reports.raster import colour
from dateshard.shardstore.scaling.transform import Floats, Integers

MOST_CIRCLES, MOST_NAMES, TILES = 400, 45, 26
WIDTH, MARGIN, HEAD = float(HALF), 56.0, 26.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlaces:
    """Where the nodes stand, on a plane.

    Attributes:
        name: of each circle; of several nodes their number.
        x_K, y_K: in degrees (or in the table's own units), y upwards.
        node_count_K: nodes behind each circle.
        group_N: the circle of each node, -1 for one without a position.
        degrees: whether x and y are longitude and latitude.
    """

    names: tuple[str, ...]
    x_K: Floats
    y_K: Floats
    node_count_K: Integers
    group_N: Integers
    degrees: bool


def places(names: Sequence[str], axes: Sequence[str], positions_NP: Floats) -> NodePlaces | None:
    """Circles of the nodes that have two coordinates; None if there are none. Many nodes are put into square tiles."""
    if len(axes) < 2:
        return None
    lat, lon = _axes(axes)
    known = np.flatnonzero(np.isfinite(positions_NP[:, [lat, lon]]).all(axis=1))
    if not len(known):
        return None
    degrees = axes[lat].lower().startswith("lat")
    x, y = positions_NP[known, lon], positions_NP[known, lat]
    x = _unwrapped(x) if degrees else x
    group = np.full(len(names), -1, dtype=np.int64)
    if len(known) <= MOST_CIRCLES:
        group[known] = np.arange(len(known))
        return NodePlaces(
            names=tuple(names[k] for k in known.tolist()),
            x_K=x,
            y_K=y,
            node_count_K=np.ones(len(known), dtype=np.int64),
            group_N=group,
            degrees=degrees,
        )
    tile = _tiles(x, y)
    tiles, first, place, counts = np.unique(tile, return_index=True, return_inverse=True, return_counts=True)
    group[known] = place
    middle_x, middle_y = (np.bincount(place, weights=values) / counts for values in (x, y))
    labels = tuple(
        f"{count:,} nodes" if count > 1 else names[known[at]]
        for at, count in zip(first.tolist(), counts.tolist(), strict=True)
    )
    return (
        NodePlaces(names=labels, x_K=middle_x, y_K=middle_y, node_count_K=counts, group_N=group, degrees=degrees)
        if len(tiles)
        else None
    )


def _axes(axes: Sequence[str]) -> tuple[int, int]:
    """Returns (place of latitude or y, place of longitude or x) among the two axes."""
    first = axes[0].lower()
    return (1, 0) if first.startswith(("lon", "lng", "x", "east")) else (0, 1)


def _unwrapped(longitude: Floats) -> Floats:
    """Longitudes cut at their widest gap, so that nodes on both sides of the date line stay together."""
    around = np.sort(longitude % 360)
    gaps = np.diff(np.append(around, around[0] + 360))
    start = around[(int(np.argmax(gaps)) + 1) % len(around)]
    turned = start + (longitude - start) % 360
    unwrapped: Floats = turned - 360 * np.round(np.median(turned) / 360)
    return unwrapped


def _tiles(x: Floats, y: Floats) -> Integers:
    width = max(float(np.ptp(x)), float(np.ptp(y)), 1e-12)
    column, row = (np.floor((v - v.min()) / width * (TILES - 1e-6)).astype(np.int64) for v in (x, y))
    tile: Integers = row * TILES + column
    return tile


def by_circle(where: NodePlaces, value_N: Floats, weight_N: Floats) -> Floats:
    """Returns [K] sums of values over sums of weights of each circle's nodes; NaN where no weight is."""
    known = where.group_N >= 0
    total, weight = (
        np.bincount(where.group_N[known], weights=array[known], minlength=len(where.names))
        for array in (value_N, weight_N)
    )
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


def atlas(where: NodePlaces, value_K: Floats, title: str, unit: str = "") -> str:
    """Draws one map of the nodes, as SVG text."""
    squeeze = math.cos(math.radians(float(np.clip(where.y_K.mean(), -80, 80)))) if where.degrees else 1.0
    (x0, x1), (y0, y1) = _frame(where.x_K), _frame(where.y_K)
    inner = WIDTH - 2 * MARGIN
    tall = min(max(inner * (y1 - y0) / ((x1 - x0) * squeeze), 150.0), 380.0)
    factor = min(inner / ((x1 - x0) * squeeze), tall / (y1 - y0))
    left = MARGIN + (inner - (x1 - x0) * squeeze * factor) / 2

    def put(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) * squeeze * factor, HEAD + tall / 2 + ((y0 + y1) / 2 - y) * factor

    box = f'<rect class="sea" x="{MARGIN}" y="{HEAD}" width="{inner}" height="{tall:.1f}" rx="6"/>'
    parts = [box, _graticule((left, MARGIN), (tall, factor * squeeze, factor), where.degrees, (x0, y0, y1))]
    low, high = (float(f(value_K)) if np.isfinite(value_K).any() else 0.0 for f in (np.nanmin, np.nanmax))
    points = [put(x, y) for x, y in zip(where.x_K.tolist(), where.y_K.tolist(), strict=True)]
    count_K = where.node_count_K
    radius = np.where(count_K == 1, 4.6, np.minimum(4.0 + np.log2(count_K), 12.0)).tolist()
    for (x, y), r, value, name in zip(points, radius, value_K.tolist(), where.names, strict=True):
        label = f"{name}: {short(value)}{unit}"
        fill = colour(value, low, high)
        parts.append(
            f'<circle class="node" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{fill}"><title>{escape(label)}</title></circle>'
        )
    if len(points) <= MOST_NAMES:
        parts += _names(points, where.names, tall)
    parts.append(legend(WIDTH - MARGIN - 150, 8, f"{short(low)}{unit}", f"{short(high)}{unit}"))
    return canvas(WIDTH, HEAD + tall + 22, title, parts)


def _frame(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = (high - low) * 0.07 or 0.01
    return low - pad, high + pad


def _graticule(
    sides: tuple[float, float], sizes: tuple[float, float, float], degrees: bool, start: tuple[float, float, float]
) -> str:
    """Meridians and parallels at round degrees, over the whole box."""
    (left, margin), (tall, across, up), (x0, y0, y1) = sides, sizes, start
    parts, middle = [], (y0 + y1) / 2
    low_x, high_x = x0 - (left - margin) / across, x0 + (WIDTH - margin - left) / across
    low_y, high_y = middle - tall / 2 / up, middle + tall / 2 / up
    for mark in nice_marks(low_x, high_x, 5):
        x = left + (mark - x0) * across
        parts.append(f'<path class="grid" d="M{x:.1f},{HEAD}v{tall:.1f}"/>')
        words = _degrees((mark + 180) % 360 - 180, "EW") if degrees else short(mark)
        parts.append(text(x, HEAD + tall + 15, words, anchor="middle"))
    for mark in nice_marks(low_y, high_y, 4):
        y = HEAD + tall / 2 + (middle - mark) * up
        parts.append(f'<path class="grid" d="M{margin},{y:.1f}H{WIDTH - margin}"/>')
        parts.append(text(margin - 4, y + 3.5, _degrees(mark, "NS") if degrees else short(mark), anchor="end"))
    return "".join(parts)


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):g}°" + (letters[0] if value > 0 else letters[1] if value < 0 else "")


def _names(points: Sequence[tuple[float, float]], names: Sequence[str], tall: float) -> list[str]:
    """Names beside their circles wherever one of four places is free."""
    taken: list[tuple[float, float, float, float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    parts = []
    for (x, y), full in zip(points, names, strict=True):
        name = full if len(full) <= 12 else full[:11] + "…"
        wide = 6.3 * len(name)
        for dx, dy, anchor in ((7, 4, "start"), (-7, 4, "end"), (0, -8, "middle"), (0, 16, "middle")):
            low = x + dx - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
            box = (low, y + dy - 9, low + wide, y + dy + 2)
            inside = box[0] > MARGIN and box[2] < WIDTH - MARGIN and box[1] > HEAD and box[3] < HEAD + tall
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                parts.append(text(x + dx, y + dy, name, anchor=anchor, css="label place"))
                break
    return parts


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def spread_of(names: Sequence[str], mask_N: NDArray[np.bool_], most: int = 12) -> str:
    """The names that a mask picks, the first few and how many more."""
    chosen = [names[k] for k in np.flatnonzero(mask_N).tolist()]
    more = f" and {len(chosen) - most:,} more" if len(chosen) > most else ""
    return ", ".join(chosen[:most]) + more
