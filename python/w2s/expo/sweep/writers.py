"""Who writes the responses of an α: the extrapolated model, or a model that it steers.

Every draw is fixed by the plan's seed and the prompt's place, whatever the α, so α are compared on
equal draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from w2s.loop import search
from w2s.proposers.local import LocalProposer
from w2s.scorers.text_bridge import scorer_for

if TYPE_CHECKING:
    from w2s.models import Model
    from w2s.plan import SearchPlan
    from w2s.prompts import Prompt
    from w2s.results import ChunkTrace


class BrokenModel(Exception):
    """At this α the model's logits are not finite; the message says after which prompt."""


@dataclass(frozen=True)
class Response:
    """One response: its prompt's place in the input, its number there, text and length."""

    place: int
    sample: int
    text: str
    tokens: int


class Writer(Protocol):
    """Writes responses with the α that is served at the time."""

    @property
    def models(self) -> tuple[Model, ...]: ...

    def __call__(self, prompts: Sequence[Prompt], first: int) -> list[Response]:
        """The responses to prompts that begin at place `first` of the input, prompt by prompt.

        Raises:
            BrokenModel: a logit was not finite.
        """


class Sampler:
    """Plain samples of `model`: `plan.samples` of each prompt (width 1, chunk None)."""

    def __init__(self, model: Model, plan: SearchPlan) -> None:
        self.models = (model,)
        self._plan, self._proposer = plan, LocalProposer(model, plan)

    def __call__(self, prompts: Sequence[Prompt], first: int) -> list[Response]:
        traces: list[ChunkTrace] = []
        places = range(first, first + len(prompts))
        search(prompts, self._proposer, None, self._plan, on_chunk=traces.append, index=places)
        (trace,) = traces  # the results have the samples best first, the only round in their order
        found = []
        for row, tokens in enumerate(trace.tokens):
            prompt, sample = divmod(row, self._plan.pool)
            _require_finite(trace.scores[prompt][sample], first + prompt)
            text = self.models[0].decode(tokens)
            found.append(Response(first + prompt, sample, text, len(tokens)))
        return found


class Searcher:
    """The best of a search by `large` that `tuned`, against `untuned`, steers."""

    def __init__(self, large: Model, tuned: Model, untuned: Model, plan: SearchPlan) -> None:
        self.models = (large, tuned, untuned)
        self._plan, self._proposer = plan, LocalProposer(large, plan)
        self._scorer: Any = scorer_for(large, tuned, untuned, plan)

    def __call__(self, prompts: Sequence[Prompt], first: int) -> list[Response]:
        places = range(first, first + len(prompts))
        results = search(prompts, self._proposer, self._scorer, self._plan, index=places)
        found = []
        for place, result in zip(places, results, strict=True):
            _require_finite(result.best.score if result.candidates else math.nan, place)
            found.append(Response(place, 0, result.best.text, len(result.best.tokens)))
        return found


def _require_finite(score: float, place: int) -> None:
    if not math.isfinite(score):
        raise BrokenModel(f"logits are not finite after prompt {place}")
