"""Which α to take, and which to try next: decisions from the figures alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2s.reproduce.bootstrap import Estimate

# A grid is not extended beyond these; the largest α of the paper is 25.
LARGEST, SMALLEST = 30.0, 0.01
_STEP = 3.0  # factor of an extension where there are no two α to take it from
_DIGITS = 3  # of a new α, so that it can be typed again


@dataclass(frozen=True)
class Point:
    """One α as a choice sees it.

    gain: of the reward over α = 0, paired by prompt; None where the model broke down. guard: its
    perplexity on the held-out text over that of α = 0; None without such a text.
    """

    alpha: float
    gain: Estimate | None
    guard: float | None = None

    def is_allowed(self, limit: float | None) -> bool:
        """Whether it may be chosen at all, whatever it gains."""
        if self.gain is None:
            return False
        return limit is None or self.guard is None or self.guard <= limit

    @property
    def bound(self) -> float:
        """Lower end of the gain's 95 % interval."""
        return -math.inf if self.gain is None else self.gain.low


@dataclass(frozen=True)
class Choice:
    """alpha: the recommended one; 0.0 where none is better than θ₁ itself. why: in a sentence."""

    alpha: float
    why: str


def best_point(points: Sequence[Point], limit: float | None) -> Point | None:
    """The allowed α ≠ 0 with the highest lower bound (of equal ones the nearest to 0), or None."""
    allowed = [one for one in points if one.alpha != 0 and one.is_allowed(limit)]
    return max(allowed, key=lambda one: (one.bound, -abs(one.alpha)), default=None)


def recommend(points: Sequence[Point], limit: float | None) -> Choice:
    """By the lower confidence bound of the paired gain, among the α that the guard allows.

    limit: of `Point.guard`; None leaves it out. A bound of 0 or less recommends α = 0.
    """
    best = best_point(points, limit)
    refused = sum(not one.is_allowed(limit) for one in points if one.alpha != 0)
    if best is None:
        return Choice(0.0, f"no α is left to choose from: {_refusals(points, limit)}")
    gain = best.gain
    assert gain is not None  # `best_point` takes allowed ones only
    interval = f"{gain.mean:+.4g}, 95 % interval {gain.low:+.4g} to {gain.high:+.4g}"
    passed_over = f" ({_refusals(points, limit)})" if refused else ""
    if gain.low <= 0:
        return Choice(
            0.0,
            f"nothing beats α = 0: the best bound is α = {best.alpha:g}'s, and its gain ({interval}"
            f") is not told apart from 0; more prompts or samples may do so{passed_over}",
        )
    guard = (
        f" and its guard perplexity is {best.guard:.3f} times that of α = 0"
        f"{f', within the limit of {limit:g}' if limit is not None else ''}"
        if best.guard is not None
        else ""
    )
    return Choice(
        best.alpha,
        f"α = {best.alpha:g} has the highest lower bound of the paired gain over α = 0 ({interval})"
        f"{guard}{passed_over}",
    )


def _refusals(points: Sequence[Point], limit: float | None) -> str:
    """Which α were passed over, and why."""
    broken = [one for one in points if one.alpha != 0 and one.gain is None]
    high = [
        one for one in points if one.alpha != 0 and one.gain is not None
        if not one.is_allowed(limit)
    ]  # fmt: skip
    parts = []
    if high:
        parts.append(f"the guard perplexity is beyond {limit:g} times that of α = 0 at {_of(high)}")
    if broken:
        parts.append(f"the model broke down at {_of(broken)}")
    return "; ".join(parts) or "only α = 0 was tried"


def _of(points: Sequence[Point]) -> str:
    return "α = " + ", ".join(f"{one.alpha:g}" for one in sorted(points, key=lambda one: one.alpha))


def refinement(points: Sequence[Point], limit: float | None) -> list[float]:
    """The α to try next: between the best one and its neighbours, and beyond an end of the grid.

    Works on magnitudes, on the side of 0 where the best α lies: geometric means with its
    neighbours; at the largest (smallest) one the grid is extended by the factor between the last
    two, not beyond `LARGEST` (`SMALLEST`). Where no α is allowed, the smallest is extended. The
    result has three digits, and nothing that was tried before; it may be empty.
    """
    best = best_point(points, limit)
    sign = 1.0 if best is None else math.copysign(1.0, best.alpha)
    tried = sorted(abs(one.alpha) for one in points if one.alpha * sign > 0)
    if not tried:
        return []
    if best is None:
        found = [_beyond(tried[0], tried[:2], -1)]
    else:
        place = tried.index(abs(best.alpha))
        near = tried[max(0, place - 1) : place + 2]
        found = [math.sqrt(one * abs(best.alpha)) for one in near if one != abs(best.alpha)]
        if place == 0:
            found.append(_beyond(tried[0], tried[:2], -1))
        if place == len(tried) - 1:
            found.append(_beyond(tried[-1], tried[-2:], 1))
    return sorted(sign * value for value in {_short(one) for one in found} - set(tried))


def _beyond(end: float, ends: Sequence[float], direction: int) -> float:
    """An end of the grid moved on by the factor of the two α there; `end` itself at the limit."""
    factor = ends[1] / ends[0] if len(ends) == 2 else _STEP
    if direction > 0:
        return max(end, min(LARGEST, end * factor))
    return min(end, max(SMALLEST, end / factor))


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
