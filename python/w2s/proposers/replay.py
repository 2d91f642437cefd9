"""`ReplayProposer`: recorded chunks instead of a model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from w2s.errors import SearchError
from w2s.prompts import Prompt
from w2s.proposers import Chunk


class ReplayProposer:
    """Plays back recorded chunks: for tests, debugging, comparing with other implementations.

    rounds: `rounds[i]` is an integer array [R, L], −1 behind a row's end; row r of round i extends
      row r as re-ordered by then.
    eos_token_id: what ends a row (also without a −1 behind it). A row that has ended gains nothing,
      whatever is recorded for it.
    tokenizer: to give the results text; without it their text is empty.

    All log-probs are 0. When the rounds are used up the search ends, as at its token limit.
    """

    def __init__(
        self, rounds: Sequence[Any], eos_token_id: int | None = None, tokenizer: Any = None
    ) -> None:
        self._rounds = [torch.as_tensor(r).to(torch.long) for r in rounds]
        for number, tokens in enumerate(self._rounds):
            if tokens.ndim != 2:
                raise SearchError(
                    f"round {number} of the recording must be [rows, L], got {list(tokens.shape)}"
                )
        self.eos_token_ids = frozenset([] if eos_token_id is None else [eos_token_id])
        self.device = self._rounds[0].device if self._rounds else torch.device("cpu")
        self.tokenizer = tokenizer
        self._eos = -2 if eos_token_id is None else eos_token_id
        self._next = 0
        self._finished = torch.empty(0)

    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        """Rewinds; `SearchError` when a round has another number of rows than the search."""
        rows = len(prompts) * rows_per_prompt
        for number, tokens in enumerate(self._rounds):
            if tokens.shape[0] != rows:
                raise SearchError(
                    f"round {number} of the recording has {tokens.shape[0]} rows; {len(prompts)} "
                    f"prompts of {rows_per_prompt} rows need {rows}"
                )
        self._next = 0
        self._shape = (len(prompts), rows_per_prompt)
        self._finished = torch.zeros(rows, dtype=torch.bool, device=self.device)

    def extend(self, max_new: int) -> Chunk:
        """The next round; of no length when there is none. `SearchError` when it is too long."""
        rows = self._finished.shape[0]
        if self._next == len(self._rounds):
            tokens = torch.zeros(rows, 0, dtype=torch.long, device=self.device)
        else:
            tokens = self._rounds[self._next].to(self.device)
            self._next += 1
        if tokens.shape[1] > max_new:
            raise SearchError(
                f"round {self._next - 1} of the recording has {tokens.shape[1]} tokens a row; the "
                f"plan asks for at most {max_new}"
            )
        ends = (tokens == -1) | (tokens == self._eos)  # [R, L]
        is_eos = tokens == self._eos
        # A token belongs to its row when nothing before it ended the row, and it is no −1 itself.
        before = ends.cumsum(1) - ends.long()
        own = (before == 0) & ~(ends & ~is_eos) & ~self._finished[:, None]
        self._finished = self._finished | ends.any(1)
        return Chunk(
            torch.where(own, tokens, 0),
            torch.zeros(tokens.shape, device=self.device),
            own.sum(1),
            self._finished,
        )

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """Only the ends are re-ordered: the recording already is."""
        self._finished = self._finished.view(self._shape).gather(1, parent).flatten()

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of response tokens, without special tokens; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
