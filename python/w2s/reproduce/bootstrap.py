"""Bootstrap intervals over openings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_SEED = 20240519
_AT_ONCE = 1000  # resamples; bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval [low, high]."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on one side of 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean_interval(values: NDArray[np.float64], resamples: int = RESAMPLES) -> Estimate:
    """The mean of values [openings], with the percentiles 2.5 and 97.5 of resampled means.

    Openings are what is resampled, with one value each, since texts after one opening are alike;
    give the difference of two methods opening by opening for a paired interval. The same values
    give the same interval: the resampling has a seed of its own.

    Raises:
        ValueError: there are no values.
    """
    count = len(values)
    if count == 0:
        raise ValueError("a mean of no openings; at least one is needed")
    draw = np.random.Generator(np.random.PCG64(_SEED))
    means = np.empty(resamples)
    for first in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - first)
        picked = draw.integers(0, count, size=(size, count))  # [resamples, openings]
        means[first : first + size] = values[picked].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high))
