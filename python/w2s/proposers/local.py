"""`LocalProposer`: a transformers model that writes, with its own KV cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from w2s.errors import SearchError
from w2s.flags import DeferredFlag
from w2s.kv import RowMap
from w2s.models import Model, as_model
from w2s.plan import SearchPlan
from w2s.prompts import Prompt
from w2s.proposers import Chunk
from w2s.reader import Reader
from w2s.seeds import prompt_seeds
from w2s.stopping import START, stop_table
from w2s_kernels import guided_sample, guided_topk


class LocalProposer:
    """Writes with one transformers causal LM (a `Model`, or whatever `load` takes).

    Every draw is fixed by (plan.seed, the prompt's index), the row's place in its pool and the
    token's position in the response; nothing else in the batch touches it. Children of one
    hypothesis are alike until they draw, so the model reads them as one row (`Twins`) and all draw
    from its logits. With `plan.beams` nothing is drawn: child k of a hypothesis takes the k-th
    likeliest token, and as the children's caches are one, a hypothesis occupies one cache row
    instead of K.
    """

    beta = 0.0
    _rows: RowMap

    def __init__(self, model: Any, plan: SearchPlan) -> None:
        self._set_up((as_model(model),), plan)

    def _set_up(self, models: Sequence[Model], plan: SearchPlan) -> None:
        self.model = models[0]
        self.plan = plan
        self.device = self.model.device
        self.eos_token_ids = self.model.eos_token_ids
        self._readers = [Reader(model) for model in models]
        if plan.beams and plan.pool > min(model.vocab for model in models):
            raise SearchError(
                f"beam search of width {plan.width} takes the {plan.pool} likeliest tokens and the "
                f"vocabulary has {self.model.vocab}; lower width or samples"
            )
        vocab = [model.vocab for model in models]
        self._valid_vocab = vocab[0] if len(vocab) == 1 else (vocab[0], vocab[1], vocab[2])
        self._next_state = stop_table(
            self.model.columns, self.eos_token_ids, plan.stop, self.model.tokenizer, self.device
        )  # [S, V]

    def start(
        self, prompts: Sequence[Prompt], rows_per_prompt: int, *, index: Sequence[int] | None = None
    ) -> None:
        """Reads every prompt once; see `Proposer`. `PromptError` for one that does not fit."""
        device = self.device
        pools, rows = len(prompts), len(prompts) * rows_per_prompt
        # A cache row serves `fan` candidates: as beams, the children of one hypothesis.
        self._fan = self.plan.samples if self.plan.beams else 1
        cache_rows = rows_per_prompt // self._fan
        self._shape = (pools, rows_per_prompt)
        self._rows = RowMap(pools, cache_rows, device)
        # The whole pool takes its first token from one row of logits.
        self._logits = [self._read_prompts(r, prompts, cache_rows) for r in self._readers]
        self._logits_row = torch.arange(pools, device=device).repeat_interleave(rows_per_prompt)
        seeds = prompt_seeds(self.plan.seed, range(pools) if index is None else index)
        self._seed = torch.tensor(seeds, device=device).repeat_interleave(rows_per_prompt)
        self._candidate = torch.arange(rows_per_prompt, device=device).repeat(pools)
        self._child = self._candidate % self._fan
        # Cache rows that begin a chunk alike, the children of one hypothesis; 1 where none do.
        self._alike = self.plan.samples // self._fan
        self._family = torch.arange(rows, device=device) // self.plan.samples  # [R]
        self._parted = True  # children have drawn tokens of their own
        self._first = torch.arange(pools, device=device)[:, None] * rows_per_prompt  # [P, 1]
        self._draw = torch.zeros(rows, dtype=torch.long, device=device)  # position in the response
        self._pending = torch.zeros(rows, dtype=torch.long, device=device)
        self._state = torch.full((rows,), START, dtype=torch.long, device=device)
        self._finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self._length = torch.zeros(rows, dtype=torch.long, device=device)
        self._all_finished = DeferredFlag(device)
        self._written = 0  # tokens of a response so far; the same for every unfinished row

    def _read_prompts(self, reader: Reader, prompts: Sequence[Prompt], cache_rows: int) -> Tensor:
        """The logits [P, V] that follow each prompt."""
        limit = self.plan.max_new_tokens
        encoded = reader.model.encode(prompts, limit)
        hidden = reader.start(encoded, cache_rows, limit, whole=True)
        assert hidden is not None  # encode() refuses empty prompts
        return reader.model.logits(hidden)

    def extend(self, max_new: int) -> Chunk:
        """Up to `max_new` tokens a row; see `Proposer.extend`."""
        before = self._length.clone()
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        for _ in range(max_new):
            if self._written and self._all_finished.read():
                break
            if self._written:
                self._read_pending()
            token, logprob = self._best() if self.plan.beams else self._sample()
            tokens.append(token)
            logprobs.append(logprob)
            self._length += ~self._finished
            state = self._next_state[self._state, token]
            self._state.copy_(torch.where(self._finished, self._state, state))
            self._finished.copy_(self._state < START)
            self._pending.copy_(token)
            self._draw += 1
            self._written += 1
            self._all_finished.write(self._finished.all())
        if not tokens:
            nothing = self._pending[:, None][:, :0]  # [R, 0]
            return Chunk(nothing, nothing.float(), self._length - before, self._finished.clone())
        return Chunk(
            torch.stack(tokens, dim=1),
            torch.stack(logprobs, dim=1),
            self._length - before,
            self._finished.clone(),
        )

    def _sample(self) -> tuple[Tensor, Tensor]:
        """A token [R] for each row, drawn from its law, and its log-prob."""
        plan = self.plan
        return guided_sample(
            *self._logits,
            beta=self.beta,
            temperature=plan.temperature,
            top_k=plan.top_k,
            top_p=plan.top_p,
            min_p=plan.min_p,
            seed=self._seed,
            position=self._draw,
            candidate=self._candidate,
            row=self._logits_row,
            finished=self._finished,
            pad_id=0,
            valid_vocab=self._valid_vocab,
        )

    def _best(self) -> tuple[Tensor, Tensor]:
        """Each row's share of its hypothesis' likeliest tokens; the first time, of the prompt's."""
        base, (tuned, untuned) = self._logits[0], self._logits[1:] or (None, None)
        rank = self._child if self._written else self._candidate
        logprobs, ids = guided_topk(
            base,
            tuned,
            untuned,
            self._fan if self._written else self._shape[1],
            beta=self.beta,
            temperature=self.plan.temperature,
            valid_vocab=self._valid_vocab,
        )  # [B', k] each
        token, logprob = ids[self._logits_row, rank], logprobs[self._logits_row, rank]
        return token.masked_fill(self._finished, 0), logprob.masked_fill(self._finished, 0.0)

    def _read_pending(self) -> None:
        """Reads the pending tokens into the caches; leaves the next logits, one row a cache row."""
        if self._parted or self._alike == 1:
            twins = None
            ids = self._pending[:: self._fan][self._rows.logical][:, None]  # [cache rows, 1]
            self._logits_row = self._cache_row()
        else:
            twins = self._rows.twins(self._alike)
            ids = self._pending[:: self._alike, None]  # [families, 1]
            self._logits_row = self._family
        for number, reader in enumerate(self._readers):
            self._logits[number] = reader.model.logits(reader.read(ids, twins)[:, -1])
        self._parted = True

    def _cache_row(self) -> Tensor:
        if self._fan == 1:
            return self._rows.physical
        return self._rows.physical[:, None].expand(-1, self._fan).flatten()

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """See `Proposer.reorder`."""
        fan = self._fan
        moves = self._rows.reorder(
            parent[:, ::fan] // fan,
            share[:, ::fan, ::fan],
            self._length.view(self._shape)[:, ::fan],
        )
        for reader in self._readers:
            reader.move(*moves)
        row = (parent + self._first).flatten()  # [R] old search row of each new one
        for state in (self._pending, self._state, self._finished, self._length):
            state.copy_(state[row])
        self._parted = False
