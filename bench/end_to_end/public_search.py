"""Chunk-level beam search the way that the paper's public code goes about it, written from its
description: transformers' `generate` for each chunk, whole sequences scored again after each.

* One prompt a call, repeated W·K times before it is read; so W·K rows of it are prefilled.
* `generate` keeps its KV cache between chunks; a selection copies all of it (`index_select`).
* After every chunk both pair models read prompt and response of all rows from the start, without a
  cache, and a fp32 log-softmax [rows, T, V] is taken over all positions, the prompt's too.
* Copies of one finished hypothesis fill several places (`SearchPlan(clones=True)`).

What it does not repeat is what would change the result: an EOS counts only where it was produced.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from part_clock import UNCOUNTED, PartClock
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

import w2s
from w2s.models import Model
from w2s.seeds import prompt_seeds
from w2s_kernels import guided_sample

# Nats: scores that differ by less may rank either way. Reading a sequence at once and token by
# token rounds differently, in 16 bits by as much as this over 50 tokens.
NEAR, NEAR_16_BIT = 1e-3, 0.5


class SelectionMismatch(AssertionError):
    """The two searches kept different hypotheses, and not for a near-tie."""


class Writer(Protocol):
    """Says which tokens are written, so that two searches make equal draws."""

    def choose(self, logits: Tensor, column: int) -> Tensor:
        """Tokens [R] at place `column` of the responses, from the large model's logits [R, V]."""

    def parents(self, chunk: int) -> Sequence[int] | None:
        """The rows [R] that go on after a chunk, when they are prescribed."""


class Drawn:
    """Draws by the contract of `guided_sample` from the logits at hand: nothing is prescribed."""

    def __init__(self, plan: w2s.SearchPlan, index: int, model: Model) -> None:
        self._plan, self._model = plan, model
        device = model.device
        seed = prompt_seeds(plan.seed, [index])[0]
        self._seed = torch.full((plan.pool,), seed, device=device)
        self._candidate = torch.arange(plan.pool, device=device)

    def choose(self, logits: Tensor, column: int) -> Tensor:
        plan = self._plan
        return guided_sample(
            logits,
            temperature=plan.temperature,
            top_k=plan.top_k,
            seed=self._seed,
            position=torch.full_like(self._seed, column),
            candidate=self._candidate,
            valid_vocab=self._model.vocab,
        )[0]

    def parents(self, chunk: int) -> None:
        return None


@dataclass
class Recorded:
    """Writes what another search wrote for the prompt, and follows it through near-ties.

    rounds [chunks][R][≤ L]: the tokens that each row gained. kept [chunks][R]: the parents.
    """

    rounds: Sequence[Sequence[Sequence[int]]]
    kept: Sequence[Sequence[int]]
    chunk: int
    device: torch.device

    def choose(self, logits: Tensor, column: int) -> Tensor:
        rows, place = self.rounds[column // self.chunk], column % self.chunk
        tokens = [row[place] if place < len(row) else 0 for row in rows]  # 0: an ended row's
        return torch.tensor(tokens, device=self.device)

    def parents(self, chunk: int) -> Sequence[int]:
        return self.kept[chunk]


class _Choose(LogitsProcessor):  # type: ignore[misc]
    """First in line: sees the model's own logits and notes the tokens; changes nothing."""

    def __init__(self, writer: Writer, ended: Tensor, eos: int, column: int, clock: PartClock):
        self.writer, self.ended, self.eos, self.column, self.clock = (
            writer, ended, eos, column, clock,
        )  # fmt: skip
        self.tokens = torch.empty(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with self.clock.part(UNCOUNTED):
            chosen = self.writer.choose(scores, self.column)
            self.tokens = chosen.masked_fill(self.ended, self.eos)
            self.column += 1
        return scores


class _Force(LogitsProcessor):  # type: ignore[misc]
    """Last in line, behind the filters whose cost is paid: leaves one token to be drawn."""

    def __init__(self, choose: _Choose, clock: PartClock) -> None:
        self.choose, self.clock = choose, clock

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with self.clock.part(UNCOUNTED):
            return scores.fill_(-torch.inf).scatter_(1, self.choose.tokens[:, None], 0.0)


@dataclass
class Work:
    """What the search did, counted where it was done."""

    prefilled_rows: int = 0
    prefilled_tokens: int = 0
    decode_steps: int = 0
    scored_tokens: int = 0  # by one pair model
    logprob_bytes: int = 0  # of the largest log-softmax
    gathered_bytes: int = 0


@dataclass
class PublicResult:
    """tokens [R], texts [R], scores [R]: the last pool, best first. parents [chunks][R]."""

    tokens: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    parents: list[list[int]] = field(default_factory=list)
    near_ties: int = 0
    work: Work = field(default_factory=Work)


class PublicSearch:
    """Searches for one prompt at a time, with the modules of models that `w2s.load` gave.

    clock: gets the seconds by part; its `start` and `stop` are the caller's.
    """

    def __init__(
        self, large: Model, tuned: Model, untuned: Model, plan: w2s.SearchPlan, clock: PartClock
    ) -> None:
        if not plan.clones or plan.stop or plan.top_p != 1.0 or plan.min_p or plan.beams:
            raise ValueError("the public way has clones=True, and only temperature and top-k")
        self.large, self.pair, self.plan, self.clock = large, (tuned, untuned), plan, clock
        self.near = NEAR if large.module.dtype == torch.float32 else NEAR_16_BIT
        self._eos = sorted(large.eos_token_ids)
        self._pad = self._eos[0] if self._eos else 0

    def __call__(self, prompt: Sequence[int], writer: Writer) -> PublicResult:
        """Raises `SelectionMismatch` when it keeps other rows than the writer prescribes."""
        with torch.inference_mode(), ExitStack() as patches:
            for model, part in (
                (self.large, "large forward"),
                *((m, "pair forward") for m in self.pair),
            ):
                patches.enter_context(self.clock.timed(model.module, "forward", part))
            return self._search(prompt, writer)

    def _search(self, prompt: Sequence[int], writer: Writer) -> PublicResult:
        plan, device, found = self.plan, self.large.device, PublicResult()
        ids = torch.tensor([list(prompt)] * plan.pool, device=device)  # [R, T]
        begin, cache = ids.shape[1], DynamicCache()
        ended = torch.zeros(plan.pool, dtype=torch.bool, device=device)
        while True:
            written = ids.shape[1] - begin
            new = min(plan.chunk_length, plan.max_new_tokens - written)
            ids = self._write(ids, cache, new, ended, writer, written, found.work)
            counts = self._counts(ids, begin)
            ended = self._is_eos(ids[:, begin:]).any(1)
            with self.clock.part("scoring"):
                tuned, untuned = (
                    self._log_likelihood(m, ids, counts, found.work) for m in self.pair
                )
                score = tuned - untuned  # [R]
            with self.clock.part("selection and KV"):
                order = score.argsort(descending=True, stable=True)
                kept = order[: plan.width]
                parents = kept.repeat_interleave(plan.samples)  # [R]
                last = ids.shape[1] - begin >= plan.max_new_tokens or bool(ended[kept].all())
                if not last:
                    parents = self._followed(parents, score, writer, found)
                    ids, ended = ids[parents], ended[parents]
                    found.work.gathered_bytes += cache_bytes(cache)
                    cache.reorder_cache(parents)
            if last:
                return self._finish(found, ids[order], counts[order], score[order], begin)
            found.parents.append(parents.tolist())

    def _write(
        self, ids: Tensor, cache: Any, new: int, ended: Tensor, writer: Writer, written: int,
        work: Work,
    ) -> Tensor:  # fmt: skip
        """Prompt and response with up to `new` more tokens; ended rows get padding."""
        choose = _Choose(writer, ended, self._pad, written, self.clock)
        filters = [TopKLogitsWarper(self.plan.top_k)] if self.plan.top_k else []
        warm = [TemperatureLogitsWarper(self.plan.temperature)] if self.plan.temperature else []
        with self.clock.part("sampling"):
            output = self.large.module.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                logits_processor=LogitsProcessorList(
                    [choose, *warm, *filters, _Force(choose, self.clock)]
                ),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,
                max_new_tokens=new,
                eos_token_id=self._eos or None,
                pad_token_id=self._pad,
                return_dict_in_generate=True,
            )
        whole: Tensor = output.sequences
        if not written:
            work.prefilled_rows += ids.shape[0]
            work.prefilled_tokens += ids.numel()
        work.decode_steps += whole.shape[1] - ids.shape[1]
        return whole

    def _log_likelihood(self, model: Model, ids: Tensor, counts: Tensor, work: Work) -> Tensor:
        """log p(response | prompt) [R], every position of [R, T] scored anew."""
        logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        logprob = logits[:, :-1].float().log_softmax(-1)  # [R, T - 1, V]
        token = logprob.gather(2, ids[:, 1:, None]).squeeze(2)  # [R, T - 1]
        if model is self.pair[0]:
            work.scored_tokens += ids.numel()
        work.logprob_bytes = max(work.logprob_bytes, logprob.nbytes)
        return (token * counts[:, 1:]).sum(1)

    def _is_eos(self, tokens: Tensor) -> Tensor:
        return torch.isin(tokens, torch.tensor(self._eos, device=tokens.device))

    def _counts(self, ids: Tensor, begin: int) -> Tensor:
        """[R, T]: the response's tokens up to the first EOS, with it."""
        is_eos = self._is_eos(ids)
        is_eos[:, :begin] = False
        counts = (is_eos.cumsum(1) - is_eos.long()) == 0
        counts[:, :begin] = False
        return counts

    def _followed(
        self, parents: Tensor, score: Tensor, writer: Writer, found: PublicResult
    ) -> Tensor:
        """`parents`, or the prescribed ones where only near-ties differ."""
        prescribed = writer.parents(len(found.parents))
        if prescribed is None or list(prescribed) == parents.tolist():
            return parents
        other = torch.tensor(list(prescribed), device=parents.device)
        apart = float((score[other] - score[parents]).abs().max())
        if not apart <= self.near:
            raise SelectionMismatch(
                f"chunk {len(found.parents)}: kept {parents.tolist()}, expected {other.tolist()}; "
                f"their scores are {apart:.2g} apart"
            )
        found.near_ties += 1
        return other

    def _finish(
        self, found: PublicResult, ids: Tensor, counts: Tensor, score: Tensor, begin: int
    ) -> PublicResult:
        length = counts.sum(1).tolist()
        found.scores = score.tolist()
        for row, n in zip(ids[:, begin:].tolist(), length, strict=True):
            found.tokens.append(row[:n])
            found.texts.append(
                self.large.decode([token for token in row[:n] if token not in self._eos])
            )
        return found


def cache_bytes(cache: Any) -> int:
    """Bytes of all key and value tensors of a transformers cache."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
