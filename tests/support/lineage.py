"""A search without models: pools that grow and are selected from, and what has to move for it.

A law of survival is a function (dice, pool) -> parent [P, C]: which old row each new row continues.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from w2s.kv import RowMap
from w2s.plan import SearchPlan
from w2s.pool import Pool
from w2s.proposers import Chunk

Survival = Callable[[torch.Generator, Pool], Tensor]


class Lineage:
    """The rows of P prompts: their `Pool`, and the `RowMap` of a cache that follows it."""

    def __init__(self, prompts: int, width: int, samples: int, chunk: int, rounds: int) -> None:
        plan = SearchPlan(
            width=width, samples=samples, chunk=chunk, max_new_tokens=chunk * rounds, seed=0
        )
        self.chunk = chunk
        self.pool = Pool(prompts, plan, torch.device("cpu"))
        self.rows = RowMap(prompts, self.pool.size, torch.device("cpu"))

    @property
    def length(self) -> Tensor:
        """[P, C] tokens of each row."""
        return self.pool.length.view(self.pool.prompts, self.pool.size)

    def grow(self, lengths: Tensor | None = None) -> None:
        """Every row gains a chunk, or its own lengths [R] of it."""
        rows = self.pool.length.shape[0]
        if lengths is None:
            lengths = torch.full((rows,), self.chunk)
        nothing = torch.zeros(rows, self.chunk, dtype=torch.long)
        self.pool.admit(Chunk(nothing, nothing.float(), lengths, torch.zeros(rows).bool()))

    def select(self, parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row j becomes a copy of row parent[p, j]; returns what `RowMap.reorder` says to move."""
        moves = self.rows.reorder(parent, self.pool.share, self.length)
        self.pool.reorder(parent)
        return moves


def by_score(dice: torch.Generator, pool: Pool) -> Tensor:
    """What a search does: each chunk adds noise to its row's score, and the best rows survive."""
    noise = torch.randn(pool.score.shape, generator=dice, dtype=torch.float64)
    pool.score += noise
    return pool.select().parent


def at_random(dice: torch.Generator, pool: Pool) -> Tensor:
    """Any `width` different rows, whatever their descent, in any order."""
    kept = torch.rand(pool.prompts, pool.size, generator=dice).argsort(1)[:, : pool.plan.width]
    return kept.repeat_interleave(pool.plan.samples, 1)


def repeating(dice: torch.Generator, pool: Pool) -> Tensor:
    """A row may be kept several times, as with `plan.clones`."""
    kept = torch.randint(pool.size, (pool.prompts, pool.plan.width), generator=dice)
    return kept.repeat_interleave(pool.plan.samples, 1)


def any_map(dice: torch.Generator, pool: Pool) -> Tensor:
    """Any parent for any row: siblings apart, chains, cycles."""
    return torch.randint(pool.size, (pool.prompts, pool.size), generator=dice)


def permuted(dice: torch.Generator, pool: Pool) -> Tensor:
    """Every row goes on, in another place: nothing but cycles."""
    return torch.rand(pool.prompts, pool.size, generator=dice).argsort(1)


def rotated(dice: torch.Generator, pool: Pool) -> Tensor:
    """One cycle through some of the rows, a -> b -> c -> a; the others stay."""
    order = permuted(dice, pool)
    part = torch.randint(pool.size + 1, (), generator=dice)
    ring = order[:, :part]
    return order.argsort(1).sort(1).values.scatter(1, ring, ring.roll(1, 1))


def unchanged(dice: torch.Generator, pool: Pool) -> Tensor:
    """Every row goes on where it is, as in a frozen prompt."""
    return torch.arange(pool.size).repeat(pool.prompts, 1)


EVERY_LAW: tuple[Survival, ...] = (
    by_score,
    at_random,
    repeating,
    any_map,
    permuted,
    rotated,
    unchanged,
)


def mixed(dice: torch.Generator, pool: Pool) -> Tensor:
    """Each prompt under a law of its own, another one every time."""
    laws = [law(dice, pool) for law in EVERY_LAW]
    pick = torch.randint(len(laws), (pool.prompts,), generator=dice)
    return torch.stack(laws)[pick, torch.arange(pool.prompts)]
