"""`plan.estimate`: the bytes a search will take, before any of them is allocated.

A search is in one of three states when it needs most: reading the prompts, writing a token, or
scoring a chunk. Weights and KV caches are there in all of them; each has working memory of its own
and the largest counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from w2s.errors import SearchError
from w2s.footprint import CacheBytes, Footprint, footprint
from w2s.models import Model
from w2s.plan import SearchPlan
from w2s.prompts import Prompt
from w2s.scorers.pair import _TOKENS_PER_FORWARD
from w2s.sizes import size as size

_ROLES = ("large", "tuned", "untuned")
_REFERENCE_BLOCK = 1 << 24  # elements that a reference op works on at once


@dataclass(frozen=True)
class RoleEstimate:
    """Bytes of one model: its weights, its KV caches when full, and the working memory of its
    largest pass. loaded: the weights are in memory already."""

    role: str
    name: str
    weights: int
    kv: int
    workspace: int
    loaded: bool


@dataclass(frozen=True)
class Estimate:
    """Bytes that a search of `prompts` prompts (`rows` rows) takes when it takes most.

    longest: tokens of the longest prompt. roles: each model's share. state: candidates, scores and
    tables. workspace: what is in use for a while: logits, hidden states, masks, a cache's old layer
    while it grows. total: all of it.
    per_prompt: what one prompt more, as long as the longest, adds.
    """

    roles: tuple[RoleEstimate, ...]
    prompts: int
    rows: int
    longest: int
    state: int
    workspace: int
    total: int
    per_prompt: int
    _total_of: Callable[[int], int] = field(repr=False, compare=False)

    @property
    def needed(self) -> int:
        """Bytes still to be allocated: the total without the weights that are loaded already."""
        return self.total - self._loaded

    @property
    def _loaded(self) -> int:
        return sum(role.weights for role in self.roles if role.loaded)

    def needed_for(self, prompts: int) -> int:
        """`needed`, for another number of prompts as long as the longest."""
        return self._total_of(prompts) - self._loaded

    def prompts_that_fit(self, available: int) -> int:
        """How many prompts as long as the longest one fit into so many free bytes; 0 for none.

        Weights that are loaded already need no room, the others do.
        """

        def fits(prompts: int) -> bool:
            return self.needed_for(prompts) <= available

        if not fits(1):
            return 0
        low, high = 1, 2
        while fits(high):
            low, high = high, 2 * high
            if high > 1 << 30:
                return low
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def __str__(self) -> str:
        lines = [
            f"{role.role}: weights {size(role.weights)}, KV cache {size(role.kv)} ({role.name})"
            for role in self.roles
        ]
        return "\n".join(
            [
                f"{size(self.total)} for {self.prompts} prompts at once ({self.rows} rows)",
                *lines,
                f"state {size(self.state)}, workspace {size(self.workspace)}",
                f"each further prompt {size(self.per_prompt)}",
            ]
        )


def estimate(
    plan: SearchPlan,
    models: Any,
    prompts: Sequence[Prompt | int],
    *,
    guided: bool = False,
    judged: bool = True,
    at_once: int | None = None,
) -> Estimate:
    """What `plan.estimate` does.

    models: the large one, or (large, tuned, untuned): each a `Model`, or (config, dtype, device)
      when no weights are loaded; then prompts are lengths.
    prompts: prompts, or their lengths in tokens.
    guided: the pair takes part in the writing (`GuidedProposer`). judged: the pair scores.
    at_once: how many of the prompts are searched at once; None for all.

    Raises `SearchError` for no prompts or another number of models; `ModelError`, `PromptError`.
    """
    members = [models] if _is_one(models) else list(models)
    if len(members) not in (1, 3):
        raise SearchError(
            f"an estimate takes one model or (large, tuned, untuned), got {len(members)}"
        )
    if isinstance(prompts, str) or not prompts:
        raise SearchError("an estimate takes a list of at least one prompt, or of their lengths")
    sizes = [footprint(member) for member in members]
    for number, member in enumerate(members):  # a model that is given twice has its weights once
        if isinstance(member, Model) and member.module in (
            other.module for other in members[:number] if isinstance(other, Model)
        ):
            sizes[number] = replace(sizes[number], weights=0)
    longest = [max(_lengths(prompts, member, plan)) for member in members]
    budget = _Budget(plan, sizes, longest, guided, judged)
    return budget.estimate(len(prompts) if at_once is None else at_once)


def from_configs(
    configs: Sequence[Any],
    plan: SearchPlan,
    prompt_tokens: Sequence[int],
    *,
    dtype: Any = "float32",
    device: Any = "cpu",
    guided: bool = False,
    judged: bool = True,
) -> Estimate:
    """The estimate before any weight is loaded.

    configs: transformers configs of the large model, or of (large, tuned, untuned). prompt_tokens:
    each prompt's tokens. dtype, device: of all of them. guided, judged: as for `estimate`.
    """
    members = [(config, dtype, device) for config in configs]
    return estimate(plan, members, list(prompt_tokens), guided=guided, judged=judged)


def _is_one(models: Any) -> bool:
    """A `Model`, or a (config, dtype, device)."""
    return isinstance(models, Model) or (
        isinstance(models, tuple) and len(models) == 3 and hasattr(models[0], "model_type")
    )


def _lengths(prompts: Sequence[Prompt | int], model: Any, plan: SearchPlan) -> list[int]:
    lengths = [prompt for prompt in prompts if isinstance(prompt, int)]
    if len(lengths) == len(prompts):
        return lengths
    if not isinstance(model, Model):
        raise SearchError(
            "without a loaded model the prompts must be lengths in tokens (whole numbers)"
        )
    return [len(ids) for ids in model.encode(prompts, plan.max_new_tokens)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Budget:
    """The sums behind an `Estimate`, for any number of prompts."""

    plan: SearchPlan
    sizes: Sequence[Footprint]  # large, or large, tuned, untuned
    longest: Sequence[int]  # tokens of the longest prompt, as each model sees it
    guided: bool
    judged: bool

    def estimate(self, prompts: int) -> Estimate:
        total = self.total(prompts)
        caches = [0] * len(self.sizes)
        for number, cache in self._in_turn(prompts):
            caches[number] += cache.final
        roles = tuple(
            RoleEstimate(
                role,
                one.name,
                one.weights,
                caches[number],
                max(one.prefill(prompts, self.longest[number]), self._working(number, prompts)),
                one.loaded,
            )
            for number, (role, one) in enumerate(zip(_ROLES, self.sizes, strict=False))
        )
        state = self._state(prompts)
        return Estimate(
            roles=roles,
            prompts=prompts,
            rows=prompts * self.plan.pool,
            longest=max(self.longest),
            state=state,
            workspace=max(0, total - state - sum(role.weights + role.kv for role in roles)),
            total=total,
            per_prompt=self.total(prompts + 1) - total,
            _total_of=self.total,
        )

    def total(self, prompts: int) -> int:
        """The most that is in use at one time."""
        weights = sum(one.weights for one in self.sizes)
        return weights + self._state(prompts) + max(self._reading(prompts), self._running(prompts))

    def _reading(self, prompts: int) -> int:
        """While the prompts are read, writers first: each cache is made in its turn."""
        there = most = 0
        for number, cache in self._in_turn(prompts):
            one = self.sizes[number]
            there += cache.first
            most = max(most, there + one.prefill(prompts, self.longest[number]))
            there += one.logits(prompts) if self._writes(number) else 0
        return most

    def _running(self, prompts: int) -> int:
        """In the last rounds: full caches, a row of logits for each cache row of a writer."""
        caches = [cache for _, cache in self._in_turn(prompts)]
        rows = self._cache_rows(prompts)
        logits = sum(
            one.logits(rows) for number, one in enumerate(self.sizes) if self._writes(number)
        )
        working = max(self._working(number, prompts) for number in range(len(self.sizes)))
        growth = max(cache.growth for cache in caches)
        return sum(cache.final for cache in caches) + logits + max(working, growth)

    def _in_turn(self, prompts: int) -> list[tuple[int, CacheBytes]]:
        """(model, its cache) of each reader of the search, in the order in which they start."""
        found = []
        new = self.plan.max_new_tokens
        for number, one in enumerate(self.sizes):
            if self._writes(number):  # the last token is written and not read
                rows, longest = self._cache_rows(prompts), self.longest[number]
                cache = one.cache(rows, longest + new - 1, longest, longest + new)
                found.append((number, cache))
        for number, one in enumerate(self.sizes):
            if self._judges(number):
                rows, longest = prompts * self.plan.pool, self.longest[number]
                cache = one.cache(rows, longest + new - 1, longest - 1, longest + new)
                found.append((number, cache))
        return found

    def _writes(self, number: int) -> bool:
        return number == 0 or self.guided

    def _judges(self, number: int) -> bool:
        return number > 0 and self.judged

    def _cache_rows(self, prompts: int) -> int:
        return prompts * (self.plan.width if self.plan.beams else self.plan.pool)

    def _working(self, number: int, prompts: int) -> int:
        """What a model's largest pass needs beside its caches and the logits kept."""
        one, plan, longest = self.sizes[number], self.plan, self.longest[number]
        slots = longest + plan.max_new_tokens
        passes = [0]
        if self._writes(number):
            rows = self._cache_rows(prompts)
            sampling = self._sampling(one, prompts * plan.pool)
            passes.append(max(one.forward(rows, 1, slots), one.logits(rows) * (1 + one.copies)))
            passes.append(sampling)
            if plan.samples > 1 and not plan.beams and plan.chunk_length < plan.max_new_tokens:
                # A chunk's first pass looks at one child's slots of each family, in a layer's copy.
                families = prompts * plan.width
                seen = families * slots * one.layer_slot
                passes.append(one.forward(families, 1, slots) + seen)
        if self._judges(number):
            rows = prompts * plan.pool
            piece = min(plan.chunk_length, max(1, _TOKENS_PER_FORWARD // rows))
            tokens = rows * piece
            states = sum(tokens * other.width * other.item for other in self.sizes[1:])
            passes.append(states + max(one.forward(rows, piece, slots), one.linear(tokens)))
        return max(passes)

    def _sampling(self, one: Footprint, rows: int) -> int:
        if one.device.type == "cpu":
            return rows * 64  # the compiled kernel keeps its scratch to a row
        return 64 * min(rows * one.columns, _REFERENCE_BLOCK)

    def _state(self, prompts: int) -> int:
        """Tokens, scores and shared prefixes of all candidates, twice while they are re-ordered;
        the table of ends."""
        plan = self.plan
        rows = prompts * plan.pool
        tokens = rows * (2 * 8 * plan.max_new_tokens + 40 * plan.chunk_length + 400)
        shared = prompts * plan.pool**2 * 8 * 6
        stop = sum(len(text.encode()) for text in plan.stop)
        return tokens + shared + (3 + stop) * self.sizes[0].columns * 8
