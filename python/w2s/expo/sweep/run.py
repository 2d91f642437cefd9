"""The sweep itself: each α served, written with, scored and kept; then the grid refined."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from w2s.batching import AUTO, choose_batch
from w2s.errors import ExpoError
from w2s.expo.sweep.choice import refinement
from w2s.expo.sweep.figures import AlphaFigures, figures
from w2s.expo.sweep.guard import GuardText, perplexity
from w2s.expo.sweep.rewards import Reward
from w2s.expo.sweep.serving import Served
from w2s.expo.sweep.settings import SweepSettings
from w2s.expo.sweep.store import SweepStore
from w2s.expo.sweep.writers import BrokenModel, Writer
from w2s.prompts import Prompt


@dataclass(frozen=True)
class Step:
    """Where a sweep is: `done` of `total` prompts at α number `place` of `alphas` known by now."""

    alpha: float
    place: int
    alphas: int
    done: int
    total: int


@dataclass(frozen=True)
class Sweep:
    """Everything that takes part in one sweep.

    prompts: what is continued. batch: prompts written for at once. guard: text whose perplexity is
    watched, or None.
    """

    settings: SweepSettings
    served: Served
    writer: Writer
    reward: Reward
    prompts: Sequence[Prompt]
    batch: int
    guard: GuardText | None = None

    def run(
        self, store: SweepStore, on_step: Callable[[Step], object] | None = None
    ) -> list[AlphaFigures]:
        """Does what `store` does not have yet; the figures of every α it then has.

        on_step: told of every batch before it begins, and of the end of an α.

        Raises:
            ExpoError: a file cannot be read or written, or a reward fails; what is finished is
                kept.
        """
        tell = on_step or (lambda step: None)
        tried: list[float] = []
        grid = self.settings.grid
        for further in range(self.settings.refine + 1):
            for place, alpha in enumerate(grid, start=len(tried)):
                known = len(tried) + len(grid)
                if alpha not in store.finished:
                    self._try(alpha, store, tell, place, known)
                if alpha == 0 and "failed" in store.finished[alpha]:
                    raise ExpoError(
                        "the aligned model itself (α = 0) cannot be compared with: "
                        f"{store.finished[alpha]['failed']}; check its weights and --dtype"
                    )
            tried += grid
            if further == self.settings.refine:
                break
            grid = self._next_grid(store, tried)
        return _figures(store, sorted(store.finished))

    def _next_grid(self, store: SweepStore, tried: Sequence[float]) -> list[float]:
        """From the α tried in this run alone: an interrupted sweep goes on where it was going."""
        points = [one.point for one in _figures(store, tried)]
        found = refinement(points, self.settings.guard_limit)
        return sorted((alpha for alpha in found if alpha not in tried), key=abs)

    def _try(
        self,
        alpha: float,
        store: SweepStore,
        tell: Callable[[Step], object],
        place: int,
        known: int,
    ) -> None:
        total = len(self.prompts)
        began = time.perf_counter()
        self.served.set(alpha)
        seconds = time.perf_counter() - began
        first = store.next_prompt(alpha)
        try:
            while first < total:
                tell(Step(alpha, place, known, first, total))
                end = min(first + self.batch, total)
                began = time.perf_counter()
                rows = self._rows(alpha, first, end)
                store.add(alpha, first, rows, time.perf_counter() - began)
                first = end
            tell(Step(alpha, place, known, total, total))
            began = time.perf_counter()
            found = self._guarded()
        except BrokenModel as error:
            store.finish(alpha, {"failed": str(error), "seconds": seconds})
            return
        store.finish(alpha, {**found, "seconds": seconds + time.perf_counter() - began})

    def _rows(self, alpha: float, first: int, end: int) -> list[dict[str, Any]]:
        written = self.writer(self.prompts[first:end], first)
        scores = self.reward(
            [self.prompts[one.place] for one in written], [one.text for one in written]
        )
        return [
            {
                "alpha": alpha,
                "place": one.place,
                "sample": one.sample,
                "prompt": self.prompts[one.place],
                "response": one.text,
                "tokens": one.tokens,
                **{name: values[number] for name, values in scores.items()},
            }
            for number, one in enumerate(written)
        ]

    def _guarded(self) -> dict[str, float]:
        if self.guard is None:
            return {}
        found = perplexity(self.served.model, self.guard)
        if not math.isfinite(found):
            raise BrokenModel("the guard perplexity is not finite")
        return {"guard": found}


def prompts_at_once(writer: Writer, plan: Any, prompts: Sequence[Prompt], batch: int | str) -> int:
    """How many prompts are written for at once: as given, or "auto" for what pays and fits.

    Raises:
        SearchError: so many, or a single one, do not fit into the free memory.
    """
    chosen = choose_batch(plan, writer.models, prompts, batch, judged=len(writer.models) > 1)
    return min(chosen.prompts, len(prompts)) if batch == AUTO else chosen.prompts


def _figures(store: SweepStore, alphas: Sequence[float]) -> list[AlphaFigures]:
    def of(table: Mapping[float, Any]) -> dict[float, Any]:
        return {alpha: table[alpha] for alpha in alphas if alpha in table}

    return figures(of(store.rows), of(store.finished), store.seconds)
