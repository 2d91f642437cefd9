"""From the rows of every α to means with intervals over prompts, and gains over α = 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.expo.sweep.choice import Point
from w2s.reproduce.bootstrap import RESAMPLES, Estimate, mean_interval
from w2s.reproduce.measures import distinct_2

_KEPT = ("alpha", "place", "sample", "prompt", "response")  # of a row; all else are numbers


@dataclass(frozen=True)
class AlphaFigures:
    """One α. measures: reward, the reward's other numbers, tokens, words, distinct-2.

    gains: of the same, paired to α = 0 prompt by prompt. guard: perplexity, None without a text.
    guard_ratio: over that of α = 0. failed: why there are no measures, else None.
    """

    alpha: float
    measures: dict[str, Estimate]
    gains: dict[str, Estimate]
    guard: float | None
    guard_ratio: float | None
    seconds: float
    failed: str | None

    @property
    def point(self) -> Point:
        """What a choice needs of it."""
        return Point(self.alpha, self.gains.get("reward"), self.guard_ratio)


def figures(
    rows: Mapping[float, Sequence[Mapping[str, Any]]],
    finished: Mapping[float, Mapping[str, Any]],
    seconds: Mapping[float, float],
    resamples: int = RESAMPLES,
) -> list[AlphaFigures]:
    """The figures of every finished α, by α.

    A prompt counts once, with the mean over its samples; prompts are what is resampled. Where α = 0
    itself failed there are no gains.
    """
    means = {
        alpha: _prompt_means(rows[alpha])
        for alpha in sorted(finished)
        if "failed" not in finished[alpha]
    }
    zero, guard_0 = means.get(0.0, {}), finished.get(0.0, {}).get("guard")
    found = []
    for alpha in sorted(finished):
        mine, guard = means.get(alpha, {}), finished[alpha].get("guard")
        found.append(
            AlphaFigures(
                alpha,
                {name: mean_interval(values, resamples) for name, values in mine.items()},
                {
                    name: mean_interval(values - zero[name], resamples)
                    for name, values in mine.items()
                    if name in zero
                },
                guard,
                guard / guard_0 if guard is not None and guard_0 else None,
                seconds.get(alpha, 0.0) + finished[alpha].get("seconds", 0.0),
                finished[alpha].get("failed"),
            )
        )
    return found


def _prompt_means(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """name -> [prompts]: means over a prompt's samples."""
    by_prompt: dict[int, list[dict[str, float]]] = {}
    for row in rows:
        text = row["response"]
        measures = {name: float(value) for name, value in row.items() if name not in _KEPT}
        measures["words"] = float(len(text.split()))
        measures["distinct-2"] = distinct_2(text)
        by_prompt.setdefault(row["place"], []).append(measures)
    return {
        name: np.array(
            [math.fsum(one[name] for one in group) / len(group) for group in by_prompt.values()]
        )
        for name in next(iter(by_prompt.values()))[0]
    }
