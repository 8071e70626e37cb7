"""An invented table: machines as they were found at an inspection, their wear, and whether they were fit to go on.

Wear grows with age, load and heat, faster for some makers; what an inspector calls a machine follows from its wear.
"""

from __future__ import annotations

import numpy as np
import polars as pl

MAKERS = {"Arbo": 0.0, "Brandt": 0.6, "Corso": -0.4}
NOISE = 0.25  # standard deviation of wear that nothing in the table explains
WORN, FAILED = 3.0, 5.0  # wear from which on a machine is called so


def machines(num_rows: int, seed: int = 3) -> pl.DataFrame:
    """Makes the table: age in years, load as a share, temperature in degrees Celsius, maker, wear in millimetres, state."""
    generator = np.random.default_rng(seed)
    age, load = generator.uniform(0, 15, num_rows), generator.beta(4, 2, num_rows)
    heat = 40 + 45 * load + generator.normal(0, 6, num_rows)
    maker = generator.choice(list(MAKERS), num_rows)
    wear = expected_wear(age, load, heat, np.array([MAKERS[name] for name in maker])) + generator.normal(
        0, NOISE, num_rows
    )
    state = np.select([wear >= FAILED, wear >= WORN], ["failed", "worn"], "good")
    columns = {"age": age.round(2), "load": load.round(3), "temperature": heat.round(1), "maker": maker}
    return pl.DataFrame(columns | {"wear": wear.round(3), "state": state})


def expected_wear(
    age: np.ndarray[tuple[int], np.dtype[np.float64]],
    load: np.ndarray[tuple[int], np.dtype[np.float64]],
    heat: np.ndarray[tuple[int], np.dtype[np.float64]],
    maker: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Returns the wear without its noise: what a model can learn."""
    return 0.5 + 0.35 * age * load**2 + 1.2 / (1 + np.exp((75 - heat) / 4)) + maker * np.minimum(age / 5, 1)
