"""`OwnScorer`: the proposer's own log-prob, which a search without a scorer ranks by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from w2s.prompts import Prompt
from w2s.proposers import Chunk
from w2s_kernels import segment_score_


class OwnScorer:
    """Σ log p of the tokens under the law they were drawn from, in float64."""

    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        self._shape = (len(prompts), rows_per_prompt)
        self._score: Tensor | None = None
        self._column = torch.empty(0, dtype=torch.long)

    def score(self, chunk: Chunk) -> Tensor:
        rows, columns = chunk.tokens.shape
        if self._score is None:
            self._score = torch.zeros(rows, dtype=torch.float64, device=chunk.tokens.device)
        if self._column.shape[0] < columns:
            self._column = torch.arange(columns, device=chunk.tokens.device)
        behind = self._column[:columns] >= chunk.lengths[:, None]
        segment_score_(self._score, chunk.logprobs.masked_fill(behind, 0.0))
        return self._score.clone()

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        assert self._score is not None
        self._score.copy_(self._score.view(self._shape).gather(1, parent).flatten())
