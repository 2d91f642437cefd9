"""Our search with its seconds by part, and a record of it that the public way can follow."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from part_clock import PartClock
from public_search import PublicResult, Recorded

import w2s
import w2s.proposers.local
import w2s.scorers.pair
from w2s.kv import KVCache, RowMap
from w2s.loop import OnChunk
from w2s.models import Model
from w2s.pool import Pool


@dataclass
class Record:
    """A search's results, and of every round what `ChunkTrace` tells."""

    results: list[w2s.SearchResult]
    rounds: list[w2s.ChunkTrace]

    def of_prompt(self, number: int, plan: w2s.SearchPlan, model: Model) -> Recorded:
        """What was written and kept for one prompt, up to the round in which it was done."""
        rows = slice(number * plan.pool, (number + 1) * plan.pool)
        tokens, kept = [], []
        for chunk in self.rounds:
            tokens.append(chunk.tokens[rows])
            kept.append(chunk.parents[number])
            if chunk.frozen[number]:
                break
        return Recorded(tokens, kept, plan.chunk_length, model.device)


class OurSearch:
    """`w2s.search` over all prompts at once, part by part."""

    def __init__(
        self, large: Model, tuned: Model, untuned: Model, plan: w2s.SearchPlan, clock: PartClock
    ) -> None:
        self.large, self.pair, self.plan, self.clock = large, (tuned, untuned), plan, clock

    def record(self, prompts: Sequence[Sequence[int]]) -> Record:
        """Searches and keeps every round; not for timing."""
        rounds: list[w2s.ChunkTrace] = []
        return Record(self._search(prompts, rounds.append), rounds)

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[w2s.SearchResult]:
        """Searches with the clock running in: its `start` and `stop` are the caller's."""
        local, pair = w2s.proposers.local, w2s.scorers.pair
        parts = [
            (self.large, "hidden", "large forward"),
            (self.large, "logits", "large forward"),
            *((model, "hidden", "pair forward") for model in self.pair),
            (local, "guided_sample", "sampling"),
            (pair, "linear_logprob_diff", "scoring"),
            (pair, "segment_score_", "scoring"),
            (Pool, "select", "selection and KV"),
            (Pool, "rank", "selection and KV"),
            (Pool, "reorder", "selection and KV"),
            (RowMap, "reorder", "selection and KV"),
            (KVCache, "move", "selection and KV"),
            (KVCache, "end_prefill", "selection and KV"),
        ]
        with ExitStack() as patches:
            for owner, name, part in parts:
                patches.enter_context(self.clock.timed(owner, name, part))
            return self._search(prompts, None)

    def _search(
        self, prompts: Sequence[Sequence[int]], on_chunk: OnChunk | None
    ) -> list[w2s.SearchResult]:
        proposer = w2s.LocalProposer(self.large, self.plan)
        scorer = w2s.PairScorer(*self.pair, self.plan)
        return w2s.search(prompts, proposer, scorer, self.plan, on_chunk=on_chunk)


def differences(ours: w2s.SearchResult, public: PublicResult, near: float) -> list[str]:
    """What two searches of one prompt ended with differently, beyond near-ties; empty if nothing.

    The scores of the last pool, best first, agree to `near` nats; a row in another place is allowed
    where its score is that near.
    """
    pool = ours.candidates
    if len(pool) != len(public.tokens):
        return [f"{len(pool)} and {len(public.tokens)} candidates"]
    found = []
    for place, candidate in enumerate(pool):
        apart = abs(candidate.score - public.scores[place])
        if not apart <= near:
            found.append(f"scores at place {place} are {apart:.2g} apart")
        twins = [
            other
            for other in range(len(pool))
            if public.tokens[other] == candidate.tokens
            and abs(public.scores[other] - candidate.score) <= near
        ]
        if not twins:
            found.append(f"the candidate at place {place} is not among the others")
        elif public.texts[twins[0]] != candidate.text:
            found.append(f"texts at place {place} differ")
    return found
