"""What is counted over a pass of windows, exact and in bounded memory; docs/metrics.md has every formula.

sums (errors of numbers), raw (in the data's units, by node and hour, quantiles), classes (categories), sample and
custom (a user's own metric over a uniform sample), epoch (all of them beside each other).
"""

from dateshard.trainer.metrics.epoch import EpochMetrics, Form
from dateshard.trainer.metrics.sums import Sums

__all__ = ["EpochMetrics", "Form", "Sums"]
