"""What a search gives back, and what it tells while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from w2s.errors import SearchError
from w2s.prompts import Prompt

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Candidate:
    """One response.

    text: without special tokens, and ending before a stop string. tokens: with a produced EOS.
    score: Σ (log p_tuned − log p_untuned), nats; without a scorer, the proposer's log-prob.
    finished: it ended by itself. finish_reason: "eos", "stop" or "length".
    """

    text: str
    tokens: list[int]
    score: float
    finished: bool
    finish_reason: FinishReason


@dataclass(frozen=True)
class SearchResult:
    """A prompt's last scored pool: its valid candidates, best first."""

    prompt: Prompt
    candidates: list[Candidate]

    @property
    def best(self) -> Candidate:
        """The best candidate; `SearchError` when every score of the pool is NaN."""
        if not self.candidates:
            raise SearchError(
                f"no candidate of the prompt {self.prompt!r:.60} has a score: all are NaN; check "
                "the models' weights and dtypes"
            )
        return self.candidates[0]


@dataclass(frozen=True)
class ChunkTrace:
    """One round of a search, as it was before its rows were re-ordered.

    chunk: the round, from 0. written, limit: tokens of an unfinished row so far, and at most.
    tokens [R][≤ L]: what each row gained. scores [P][C]: running scores. finished [R].
    parents [P][C]: the rows that go on, in their new order. valid [P][W]: whether each kept
    hypothesis counts. frozen [P]: prompts that are done. best [P]: best score so far.
    new_tokens: tokens produced in this round. seconds: since the search began.
    """

    chunk: int
    written: int
    limit: int
    tokens: Sequence[Sequence[int]]
    scores: Sequence[Sequence[float]]
    finished: Sequence[bool]
    parents: Sequence[Sequence[int]]
    valid: Sequence[Sequence[bool]]
    frozen: Sequence[bool]
    best: Sequence[float]
    new_tokens: int
    seconds: float
