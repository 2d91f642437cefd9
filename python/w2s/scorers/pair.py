"""`PairScorer`: log p_tuned − log p_untuned of what was written (arXiv 2405.19262, equation 5)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from w2s.adapters import require_two
from w2s.errors import ModelError
from w2s.kv import RowMap
from w2s.models import Model, as_model
from w2s.plan import SearchPlan
from w2s.prompts import Prompt
from w2s.proposers import Chunk
from w2s.reader import Reader
from w2s.vocabulary import require_same_tokens
from w2s_kernels import linear_logprob_diff, segment_score_

# Rows × tokens that one forward takes: bounds its memory whatever the chunk's length.
_TOKENS_PER_FORWARD = 4096
_IGNORE = -100


class PairScorer:
    """Σ_t [log p_tuned(y_t) − log p_untuned(y_t)] over all response tokens so far.

    tuned, untuned: `Model`s (or whatever `load` takes) with one vocabulary. Both keep their own KV
    cache and see the prompt their own way; each response token is read once. Hidden states go into
    `linear_logprob_diff`, so no [tokens, vocab] tensor exists.

    Raises `VocabularyError` when the two differ, `HeadError` when a head cannot be used,
    `ModelError` when they are on different devices.
    """

    _rows: RowMap

    def __init__(self, tuned: Any, untuned: Any, plan: SearchPlan) -> None:
        self.tuned, self.untuned = as_model(tuned), as_model(untuned)
        self.plan = plan
        self.device = self.tuned.device
        require_same_tokens(self.tuned, self.untuned)
        require_two(self.tuned, self.untuned)
        if self.untuned.device != self.device:
            raise ModelError(
                f"the tuned model is on {self.device}, the untuned on {self.untuned.device}; "
                "load both on one device"
            )
        self._heads = (self.tuned.head, self.untuned.head)
        self._readers = (Reader(self.tuned), Reader(self.untuned))

    @property
    def models(self) -> tuple[Model, Model]:
        return self.tuned, self.untuned

    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        """Reads every prompt once but for its last token, which goes in with the first chunk."""
        limit, rows = self.plan.max_new_tokens, len(prompts) * rows_per_prompt
        device = self.device
        self._shape = (len(prompts), rows_per_prompt)
        self._rows = RowMap(len(prompts), rows_per_prompt, device)
        self._first = torch.arange(len(prompts), device=device)[:, None] * rows_per_prompt  # [P, 1]
        self._column = torch.arange(limit, device=device)
        self._score = torch.zeros(rows, dtype=torch.float64, device=device)
        self._length = torch.zeros(rows, dtype=torch.long, device=device)
        pending = []
        for reader in self._readers:
            encoded = reader.model.encode(prompts, limit)
            reader.start(encoded, rows_per_prompt, limit, whole=False)
            pending.append(reader.last.repeat_interleave(rows_per_prompt))
        # [R] the token that each model reads next: the prompts' last ones may differ.
        self._pending = (pending[0], pending[1])

    def score(self, chunk: Chunk) -> Tensor:
        """Cumulative scores [R] float64; see `Scorer.score`."""
        rows, columns = chunk.tokens.shape
        piece = max(1, _TOKENS_PER_FORWARD // rows)
        behind = self._column[:columns] >= chunk.lengths[:, None]  # [R, L]
        target = chunk.tokens.masked_fill(behind, _IGNORE)
        for begin in range(0, columns, piece):
            self._score_piece(target[:, begin : begin + piece])
        self._length += chunk.lengths
        return self._score.clone()

    def _score_piece(self, target: Tensor) -> None:
        rows, columns = target.shape
        order = self._rows.logical  # the models read in the caches' row order
        tokens = target.clamp(min=0)  # what is ignored still needs an id to read
        hidden = []
        for reader, pending in zip(self._readers, self._pending, strict=True):
            ids = torch.cat((pending[:, None], tokens[:, :-1]), dim=1)  # [R, L]
            hidden.append(reader.read(ids[order]).flatten(0, 1))  # [R·L, D]
            pending.copy_(tokens[:, -1])
        diff = linear_logprob_diff(
            hidden[0], self._heads[0], hidden[1], self._heads[1], target[order].flatten()
        )  # [R·L]
        segment_score_(self._score, diff.view(rows, columns)[self._rows.physical])

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """See `Scorer.reorder`. One row map serves both caches: they hold the same rows."""
        moves = self._rows.reorder(parent, share, self._length.view(self._shape))
        for reader in self._readers:
            reader.move(*moves)
        row = (parent + self._first).flatten()
        for state in (*self._pending, self._score, self._length):
            state.copy_(state[row])
