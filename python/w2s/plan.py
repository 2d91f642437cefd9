"""`SearchPlan`: every setting of a search, validated once."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2s.errors import PlanError

if TYPE_CHECKING:
    from w2s.estimate import Estimate

_SEED_LIMIT = 2**63


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


@dataclass(frozen=True)
class SearchPlan:
    """How to search: CBS(W, K, L) of arXiv 2405.19262, section 4.2, and its special cases.

    width: W, the hypotheses kept after a selection.
    samples: K, the continuations each hypothesis spawns.
    chunk: L, the tokens between two selections; None for whole responses (best-of-N).
    max_new_tokens: the token limit of a response.
    temperature: of the proposer; 0 takes the arg max.
    top_k: sample among the k likeliest tokens; 0 for all.
    top_p, min_p: nucleus and minimum-probability filters; 1 and 0 turn them off.
    stop: strings that end a response; the text ends before them.
    seed: with a prompt's index it fixes every draw for that prompt.
    clones: True lets copies of one finished hypothesis fill several places (as the paper does).
    beams: nothing is drawn: the k-th continuation of a hypothesis takes its k-th likeliest token.
      Needs chunk 1 and no filters; with samples >= width it is beam search.

    Raises `PlanError` naming the field, its value and what is allowed.
    """

    width: int = 4
    samples: int = 4
    chunk: int | None = 5
    max_new_tokens: int = 50
    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    clones: bool = False
    beams: bool = False

    def __post_init__(self) -> None:
        for field in ("width", "samples", "max_new_tokens"):
            self._require(field, lambda v: _is_int(v) and v >= 1, "a whole number >= 1")
        self._require(
            "chunk", lambda v: v is None or (_is_int(v) and v >= 1), "a whole number >= 1, or None"
        )
        self._require(
            "temperature", lambda v: _is_real(v) and 0 <= v < math.inf, "a finite number >= 0"
        )
        self._require("top_k", lambda v: _is_int(v) and v >= 0, "a whole number >= 0 (0 is off)")
        self._require("top_p", lambda v: _is_real(v) and 0 < v <= 1, "in (0, 1] (1 is off)")
        self._require("min_p", lambda v: _is_real(v) and 0 <= v <= 1, "in [0, 1] (0 is off)")
        self._require(
            "seed",
            lambda v: _is_int(v) and -_SEED_LIMIT <= v < _SEED_LIMIT,
            "a whole number that fits 64 bits",
        )
        for field in ("clones", "beams"):
            self._require(field, lambda v: isinstance(v, bool), "True or False")
        if self.beams:
            for field, off in (("chunk", 1), ("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
                self._require(field, lambda v, off=off: v == off, f"{off} with beams=True")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        self._require(
            "stop",
            lambda v: isinstance(v, tuple) and all(isinstance(s, str) and s for s in v),
            "a tuple of non-empty strings",
        )

    def _require(self, field: str, is_allowed: Any, allowed: str) -> None:
        value = getattr(self, field)
        if not is_allowed(value):
            raise PlanError(field, value, allowed)

    @property
    def pool(self) -> int:
        """C = width · samples, the rows a prompt occupies."""
        return self.width * self.samples

    @property
    def chunk_length(self) -> int:
        """The tokens of a full chunk: `chunk`, or the whole response."""
        return self.max_new_tokens if self.chunk is None else min(self.chunk, self.max_new_tokens)

    def estimate(self, models: Any, prompts: Any, **options: Any) -> "Estimate":
        """The bytes that a search of `prompts` takes at most; see `w2s.estimate.estimate`."""
        from w2s.estimate import estimate

        return estimate(self, models, prompts, **options)

    @classmethod
    def cbs(
        cls, width: int = 4, samples: int = 4, chunk: int | None = 5, **settings: Any
    ) -> "SearchPlan":
        """Chunk-level beam search CBS(W, K, L)."""
        return cls(width=width, samples=samples, chunk=chunk, **settings)

    @classmethod
    def bon(cls, samples: int = 16, **settings: Any) -> "SearchPlan":
        """Best-of-N: N whole responses, the best by score."""
        return cls(width=1, samples=samples, chunk=None, **settings)

    @classmethod
    def sample(cls, **settings: Any) -> "SearchPlan":
        """One plain sample."""
        return cls(width=1, samples=1, chunk=None, **settings)

    @classmethod
    def greedy(cls, **settings: Any) -> "SearchPlan":
        """The arg max of each step."""
        return cls(width=1, samples=1, chunk=None, temperature=0.0, **settings)

    @classmethod
    def beam(cls, width: int = 4, **settings: Any) -> "SearchPlan":
        """Beam search: the `width` likeliest responses found by extending all of them in step.

        Finished hypotheses keep their place and their log-prob; there is no length penalty. Search
        with `scorer=None`, so that the proposer's own log-prob ranks.
        """
        fixed = {"samples": width, "chunk": 1, "top_k": 0, "beams": True}
        return cls(width=width, **{**fixed, "temperature": 1.0, **settings})
