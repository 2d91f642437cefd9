"""Who judges text. A scorer keeps each row's running score; the loop feeds it the new tokens."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from w2s.prompts import Prompt
from w2s.proposers import Chunk


class Scorer(Protocol):
    """Scores R = P·C rows, C rows a prompt, in the proposer's order."""

    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        """Begins a search: all scores are 0."""

    def score(self, chunk: Chunk) -> Tensor:
        """Adds the chunk; returns the cumulative scores [R] float64. Called once a chunk."""

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """Row j of prompt p becomes a copy of its old row `parent[p, j]`; see `Proposer`."""
