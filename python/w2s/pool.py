"""The pools of a search: every prompt's candidates and all that is known of them, on the device."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from w2s.plan import SearchPlan
from w2s.proposers import Chunk
from w2s_kernels import select_beams


class Selection(NamedTuple):
    """parent [P, C]: which row each new row continues. valid [P, W]: kept places that count."""

    parent: Tensor
    valid: Tensor


class Pool:
    """C = width · samples candidates of each of P prompts; row p·C + c is p's candidate c.

    Every tensor is allocated here and written in place, so a round that is captured as a graph
    finds it where it was.
    """

    def __init__(self, prompts: int, plan: SearchPlan, device: torch.device) -> None:
        self.plan, self.prompts, self.size = plan, prompts, plan.pool
        rows = prompts * self.size
        self.tokens = torch.zeros(rows, plan.max_new_tokens, dtype=torch.long, device=device)
        self.length = torch.zeros(rows, dtype=torch.long, device=device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self.score = torch.zeros(rows, dtype=torch.float64, device=device)
        self.frozen = torch.zeros(prompts, dtype=torch.bool, device=device)
        # Copies of one finished row bear one number; -1 for the unfinished, who are no clones.
        self.clone_of = torch.full((rows,), -1, dtype=torch.long, device=device)
        # [P, C, C] tokens that two rows have in common because both were copied from one row.
        self.share = torch.zeros(prompts, self.size, self.size, dtype=torch.long, device=device)
        self._stay = torch.arange(self.size, device=device).expand(prompts, -1)  # [P, C]
        self._first = torch.arange(prompts, device=device)[:, None] * self.size  # [P, 1]
        # [R] the number that a row ending in this round gets: no two ends have one number.
        self._number = torch.arange(self.size, device=device).repeat(prompts)
        self.written = 0

    def admit(self, chunk: Chunk) -> Chunk:
        """Takes a chunk in; returns it without what it gave to the rows of frozen prompts."""
        frozen = self.frozen[:, None].expand(-1, self.size).flatten()  # [R]
        chunk = replace(
            chunk,
            lengths=chunk.lengths.masked_fill(frozen, 0),
            finished=torch.where(frozen, self.finished, chunk.finished),
        )
        columns = chunk.tokens.shape[1]
        self.tokens[:, self.written : self.written + columns] = chunk.tokens
        self.written += columns
        self.length += chunk.lengths
        ended_now = chunk.finished & ~self.finished
        self.clone_of.copy_(torch.where(ended_now, self._number, self.clone_of))
        self._number += self.size
        self.finished.copy_(chunk.finished)
        return chunk

    def select(self) -> Selection:
        """Keeps the best `width` of each prompt; freezes prompts whose kept rows have all ended."""
        parent, valid = self._ranked(self.plan.width, self.plan.samples)
        kept = parent[:, :: self.plan.samples]  # [P, W]
        ended = self.finished.view(self.prompts, -1).gather(1, kept) | ~valid
        self.frozen |= ended.all(1)
        return Selection(torch.where(self.frozen[:, None], self._stay, parent), valid)

    def rank(self) -> Selection:
        """All candidates, best first, with those that count."""
        return Selection(*self._ranked(self.size, 1))

    def _ranked(self, width: int, repeat: int) -> tuple[Tensor, Tensor]:
        shape = (self.prompts, self.size)
        clone_of = None if self.plan.clones else self.clone_of.view(shape)
        parent, _, valid = select_beams(
            self.score.view(shape), width, repeat=repeat, clone_of=clone_of
        )
        return parent, valid[:, ::repeat]

    def reorder(self, parent: Tensor) -> None:
        """Row j of prompt p becomes a copy of row parent[p, j]."""
        row = (parent + self._first).flatten()  # [R]
        same = parent[:, :, None] == parent[:, None, :]  # [P, C, C]
        length = self.length.view(self.prompts, self.size).gather(1, parent)  # [P, C]
        inherited = self.share.gather(1, parent[:, :, None].expand(-1, -1, self.size))
        inherited = inherited.gather(2, parent[:, None, :].expand(-1, self.size, -1))
        self.share.copy_(torch.where(same, length[:, :, None], inherited))
        for state in (self.tokens, self.length, self.finished, self.clone_of, self.score):
            state.copy_(state[row])
