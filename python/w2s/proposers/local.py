"""`LocalProposer`: a transformers model that writes, with its own KV cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from w2s.flags import DeferredFlag
from w2s.kv import KVCache, RowMap
from w2s.models import as_model
from w2s.plan import SearchPlan
from w2s.prompts import Prompt
from w2s.proposers import Chunk
from w2s.seeds import prompt_seeds
from w2s.stopping import START, stop_table
from w2s_kernels import guided_sample


class LocalProposer:
    """Samples from one transformers causal LM (a `Model`, or whatever `load` takes).

    Every draw is fixed by (plan.seed, the prompt's index), the row's place in its pool and the
    token's position in the response; nothing else in the batch touches it.
    """

    _cache: KVCache
    _rows: RowMap

    def __init__(self, model: Any, plan: SearchPlan) -> None:
        self.model = as_model(model)
        self.plan = plan
        self.device = self.model.device
        self.eos_token_ids = self.model.eos_token_ids
        self._next_state = stop_table(
            self.model.columns, self.eos_token_ids, plan.stop, self.model.tokenizer, self.device
        )  # [S, V]

    def start(
        self, prompts: Sequence[Prompt], rows_per_prompt: int, *, index: Sequence[int] | None = None
    ) -> None:
        """Reads every prompt once; see `Proposer`. `PromptError` for one that does not fit."""
        device, limit = self.device, self.plan.max_new_tokens
        encoded = self.model.encode(prompts, limit)
        lengths = [len(ids) for ids in encoded]
        pools, rows = len(prompts), len(prompts) * rows_per_prompt
        self._longest = max(lengths)
        self._written = 0  # tokens of a response so far; the same for every unfinished row
        self._shape = (pools, rows_per_prompt)
        self._rows = RowMap(pools, rows_per_prompt, device)
        self._cache = self.model.new_cache(lengths, rows_per_prompt, self._longest + limit)
        hidden = self.model.prefill(encoded, self._cache)
        assert hidden is not None  # encode() refuses empty prompts
        # The whole pool draws its first token from one row of logits.
        self._logits = self.model.logits(hidden)  # [P, V]
        self._logits_row = torch.arange(pools, device=device).repeat_interleave(rows_per_prompt)
        prompt_length = torch.tensor(lengths, device=device).repeat_interleave(rows_per_prompt)
        self._base = prompt_length - 1  # [R] slots of the prompt without its last token
        self._position = prompt_length[:, None].clone()  # [R, 1] where the pending token belongs
        self._draw = torch.zeros(rows, dtype=torch.long, device=device)  # position in the response
        seeds = prompt_seeds(self.plan.seed, range(pools) if index is None else index)
        self._seed = torch.tensor(seeds, device=device).repeat_interleave(rows_per_prompt)
        self._candidate = torch.arange(rows_per_prompt, device=device).repeat(pools)
        self._pending = torch.zeros(rows, dtype=torch.long, device=device)
        self._state = torch.full((rows,), START, dtype=torch.long, device=device)
        self._finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self._length = torch.zeros(rows, dtype=torch.long, device=device)
        self._all_finished = DeferredFlag(device)

    def extend(self, max_new: int) -> Chunk:
        """Up to `max_new` sampled tokens a row; see `Proposer.extend`."""
        rows = self._pending.shape[0]
        tokens = torch.zeros(rows, max_new, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(rows, max_new, device=self.device)
        lengths = torch.zeros_like(self._length)
        plan, width = self.plan, max_new
        for column in range(max_new):
            if self._written and self._all_finished.read():
                width = column
                break
            if self._written:
                self._step()
            token, logprob = guided_sample(
                self._logits,
                beta=0.0,
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
                valid_vocab=self.model.vocab,
            )  # [R], [R]
            tokens[:, column] = token
            logprobs[:, column] = logprob
            lengths += ~self._finished
            state = self._next_state[self._state, token]
            self._state = torch.where(self._finished, self._state, state)
            self._finished = self._state < START
            self._pending = token
            self._draw += 1
            self._written += 1
            self._all_finished.write(self._finished.all())
        self._length += lengths
        return Chunk(tokens[:, :width], logprobs[:, :width], lengths, self._finished)

    def _step(self) -> None:
        """Reads the pending tokens into the cache; leaves the next logits, one row a cache row."""
        slots = self._longest + self._written
        ids = self._pending[self._rows.logical][:, None]  # [R, 1] in the cache's row order
        hidden = self.model.hidden(ids, self._position, slots, self._cache)
        self._logits = self.model.logits(hidden[:, -1])  # [R, V]
        self._logits_row = self._rows.physical
        self._position = self._position + 1

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """See `Proposer.reorder`."""
        pools, rows_per_prompt = self._shape
        source, start, stop = self._rows.reorder(parent, share, self._length.view(self._shape))
        self._cache.move(source, self._base + start, self._base + stop)
        first = torch.arange(0, pools * rows_per_prompt, rows_per_prompt, device=self.device)
        row = (parent + first[:, None]).flatten()  # [R] old search row of each new one
        self._pending, self._state = self._pending[row], self._state[row]
        self._finished, self._length = self._finished[row], self._length[row]
