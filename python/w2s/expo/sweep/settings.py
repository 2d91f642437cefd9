"""`SweepSettings`: which α are tried, how responses are drawn, when an α is passed over."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2s.errors import ExpoError
from w2s.plan import SearchPlan

GUARD_LIMIT = 1.1


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep; validated at once.

    alphas: finite numbers; 0 (θ₁ itself, what all others are compared with) is added when missing.
    plan: how a response is drawn. With width 1 and chunk None every one of its `samples` counts,
      else the best response of a search.
    refine: rounds in which α near the best one are added to the grid.
    guard_limit: an α is passed over where its guard perplexity is above so many times that of
      α = 0; None passes none over.

    Raises:
        ExpoError: names the field, its value and what is allowed.
    """

    alphas: tuple[float, ...]
    plan: SearchPlan
    refine: int = 0
    guard_limit: float | None = GUARD_LIMIT

    def __post_init__(self) -> None:
        for alpha in self.alphas:
            if not math.isfinite(alpha):
                raise ExpoError(f"alphas has {alpha!r}; every α must be a finite number")
        if not any(alpha != 0 for alpha in self.alphas):
            raise ExpoError(
                f"alphas is {list(self.alphas)!r}; it must have one number other than 0, which is "
                "always tried"
            )
        if self.refine < 0:
            raise ExpoError(f"refine is {self.refine}; it must be a whole number >= 0")
        if self.guard_limit is not None and not self.guard_limit >= 1:
            raise ExpoError(f"guard_limit is {self.guard_limit}; it must be a number >= 1")

    @property
    def grid(self) -> list[float]:
        """The α of the first round in the order of their turn: 0, then by distance from it."""
        distinct = {float(alpha) + 0.0 for alpha in self.alphas} | {0.0}  # -0.0 is 0.0
        return sorted(distinct, key=lambda alpha: (abs(alpha), alpha))
