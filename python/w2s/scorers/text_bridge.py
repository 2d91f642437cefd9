"""`TextBridgeScorer`: a pair whose tokenizer is not the large model's judges the text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from w2s.adapters import require_two
from w2s.errors import ModelError, SearchError
from w2s.kv import KVCache, RowMap
from w2s.models import Model, as_model
from w2s.plan import SearchPlan
from w2s.prompts import Prompt
from w2s.proposers import Chunk
from w2s.scorers.pair import PairScorer
from w2s.scorers.response_text import Writer, writer_of
from w2s.vocabulary import difference, require_same_tokens
from w2s_kernels import linear_logprob_diff

# Rows × tokens that one forward takes: bounds its memory whatever the text's length.
_TOKENS_PER_FORWARD = 4096

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class _Row:
    """A search row. totals[i] is the score of its first i pair tokens, so a roll-back is a cut."""

    written: tuple[int, ...] = ()  # the writer's tokens
    over: bool = False  # nothing will follow them
    text: str = ""
    by_eos: bool = False
    tokens: tuple[int, ...] = ()  # the pair's
    totals: tuple[float, ...] = (0.0,)


class TextBridgeScorer:
    """Σ_t [log p_tuned(y_t) − log p_untuned(y_t)] over the response *text* in the pair's tokens.

    tuned, untuned: `Model`s (or whatever `load` takes) that share a tokenizer with each other, not
      with the large model. They may be on another device than the large model.
    plan: the search's plan; a response of `plan.max_new_tokens` written tokens is over.
    source: who decodes the written tokens: a `Model`, a proposer or a tokenizer. `w2s.search` gives
      the proposer when this is None.

    What is scored: after each chunk a row's tokens are decoded together, without special tokens,
    and that text is tokenized anew, by itself and without special tokens, behind the pair's own
    prompt tokens. A character whose bytes are not all there yet (U+FFFD at the end) is held back
    until they are or the response is over. A produced EOS is the pair's EOS (its tokenizer's, else
    the model's lowest one), where it has one. Text that ran into a stop string is scored as it was
    written, with the stop string and what its last token put behind it.

    Only the tokens behind the longest common prefix with what was scored before are read: the rest
    is in the caches. The score is the float64 sum, left to right, of the present tokens'
    differences, so it depends on the present text alone: what scoring it from scratch gives.

    This scorer reads tokens on the host, once a chunk (a stated exception of the decoder).

    Raises `VocabularyError` when tuned and untuned differ, `HeadError` when a head cannot be used,
    `ModelError` when they are on different devices or have no tokenizer; `SearchError` while
    searching, when a text has more tokens than the pair has positions.
    """

    # The search need not compare this scorer's vocabulary with the proposer's.
    reads_text = True

    _caches: list[KVCache]
    _rows: RowMap

    def __init__(self, tuned: Any, untuned: Any, plan: SearchPlan, *, source: Any = None) -> None:
        self.tuned, self.untuned = as_model(tuned), as_model(untuned)
        self.plan = plan
        for model in self.models:
            if model.tokenizer is None:
                raise ModelError(
                    f"{model.name} has no tokenizer, and TextBridgeScorer tokenizes text; load it "
                    "as (model, tokenizer)"
                )
        require_same_tokens(self.tuned, self.untuned)
        require_two(self.tuned, self.untuned)
        self._device = self.tuned.device
        if self.untuned.device != self._device:
            raise ModelError(
                f"the tuned model is on {self._device}, the untuned on {self.untuned.device}; "
                "load both on one device"
            )
        self._heads = (self.tuned.head, self.untuned.head)
        self._eos = _end_of_text(self.tuned)
        self._given = source is not None
        self._writer: Writer | None = None if source is None else writer_of(source)

    @property
    def models(self) -> tuple[Model, Model]:
        return self.tuned, self.untuned

    def bind(self, proposer: Any) -> None:
        """Tells who writes; `search` calls it. A `source` given at the start keeps decoding."""
        if self._given and self._writer is not None:
            self._writer = Writer(self._writer.decode, frozenset(proposer.eos_token_ids))
        else:
            self._writer = writer_of(proposer)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the writer's tokens."""
        return self._source().decode(tokens)

    def _source(self) -> Writer:
        if self._writer is None:
            raise SearchError(
                "TextBridgeScorer does not know who writes; run it in w2s.search, call "
                "bind(proposer), or pass source=MODEL"
            )
        return self._writer

    @torch.no_grad()
    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        """Reads every prompt once but for its last token, which goes in with the first text."""
        self._source()
        limit, pools = self.plan.max_new_tokens, len(prompts)
        self._shape = (pools, rows_per_prompt)
        self._rows = RowMap(pools, rows_per_prompt, self._device)
        self._states = [_Row()] * (pools * rows_per_prompt)
        self._caches = []
        self._base: list[Ints] = []  # [R] where each model's last prompt token belongs
        self._last: list[Ints] = []  # [R] that token
        for model in self.models:
            encoded = model.encode(prompts, limit)
            body = [ids[:-1] for ids in encoded]
            lengths = [len(ids) for ids in body]
            # Rows differ in their number of pair tokens, even below equal prompts.
            cache = model.new_cache(lengths, rows_per_prompt, max(lengths) + limit, ragged=True)
            model.prefill(body, cache)
            self._caches.append(cache)
            self._base.append(np.repeat(np.array(lengths, dtype=np.int64), rows_per_prompt))
            last = np.array([ids[-1] for ids in encoded], dtype=np.int64)
            self._last.append(np.repeat(last, rows_per_prompt))

    @torch.no_grad()
    def score(self, chunk: Chunk) -> Tensor:
        """Cumulative scores [R] float64, on the chunk's device; see `Scorer.score`."""
        table = torch.cat(
            (chunk.tokens.long(), chunk.lengths[:, None], chunk.finished[:, None].long()), dim=1
        )  # [R, L + 2] in one copy to the host
        old, new = self._states, []
        for row, (*tokens, length, finished) in zip(old, table.tolist(), strict=True):
            new.append(self._extended(row, tokens[:length], bool(finished)))
        new = self._tokenized(old, new)
        common = [_common(a.tokens, b.tokens) for a, b in zip(old, new, strict=True)]
        differences = self._differences([row.tokens for row in new], common)
        self._states = [
            replace(
                row,
                totals=(*before.totals[:keep], *accumulate(found, initial=before.totals[keep])),
            )
            for row, before, keep, found in zip(new, old, common, differences, strict=True)
        ]
        totals = [row.totals[-1] for row in self._states]
        return torch.tensor(totals, dtype=torch.float64, device=chunk.tokens.device)

    def _extended(self, row: _Row, tokens: list[int], finished: bool) -> _Row:
        """The row with its new tokens and their text; its pair tokens are the old ones still."""
        written = (*row.written, *tokens)
        over = finished or len(written) >= self.plan.max_new_tokens
        if not tokens and over == row.over:
            return row
        text, by_eos = self._source().text(written, over)
        return replace(row, written=written, over=over, text=text, by_eos=by_eos)

    def _tokenized(self, old: Sequence[_Row], new: Sequence[_Row]) -> list[_Row]:
        """The rows with the pair's tokens of their text; each changed text is tokenized once."""
        texts = {b.text: () for a, b in zip(old, new, strict=True) if b.text != a.text and b.text}
        ids: dict[str, tuple[int, ...]] = {"": ()}
        if texts:
            encoded = self.tuned.tokenizer(
                list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
            ids.update(zip(texts, map(tuple, encoded), strict=True))
        found = []
        for number, (before, row) in enumerate(zip(old, new, strict=True)):
            if (row.text, row.by_eos) == (before.text, before.by_eos):
                found.append(row)
                continue
            end = (self._eos,) if row.by_eos and self._eos is not None else ()
            # An unchanged text is not tokenized again: a row gains its EOS at most once.
            tokens = (*ids.get(row.text, before.tokens), *end)
            self._check_room(number, len(tokens))
            found.append(replace(row, tokens=tokens))
        return found

    def _check_room(self, row: int, tokens: int) -> None:
        """Refuses a text that some model has no positions for; lets the caches grow otherwise."""
        for model, cache, base in zip(self.models, self._caches, self._base, strict=True):
            prompt = int(base[row]) + 1
            if model.context is not None and prompt + tokens > model.context:
                pool, candidate = divmod(row, self._shape[1])
                raise SearchError(
                    f"the text of row {row} (prompt {pool}, candidate {candidate}) has {tokens} "
                    f"tokens for {model.name}, and with the prompt's {prompt} that is more than "
                    f"its {model.context} positions; lower max_new_tokens or shorten the prompt"
                )
            if prompt + tokens > cache.limit:
                cache.allow(max(prompt + tokens, 2 * cache.limit))

    def _differences(
        self, tokens: Sequence[Sequence[int]], common: Sequence[int]
    ) -> list[list[float]]:
        """Reads each row's tokens from `common` on; their differences, one list a row."""
        keep, length = np.array(common), np.array([len(row) for row in tokens])  # [R]
        missing = length - keep
        width = int(missing.max(initial=0))
        found: Floats = np.zeros((len(tokens), width))
        # Column 0 stands for the prompt's last token, which predicts the first.
        table: Ints = np.zeros((len(tokens), int(length.max(initial=0)) + 1), dtype=np.int64)
        for number, row in enumerate(tokens):
            table[number, 1 : len(row) + 1] = row
        piece = max(1, _TOKENS_PER_FORWARD // len(tokens))
        for begin in range(0, width, piece):
            column = np.arange(begin, min(begin + piece, width))
            # Behind its end a row reads its last token again, in its place: no other slot changes.
            place = np.minimum(keep[:, None] + column, np.maximum(length - 1, 0)[:, None])  # [R, Q]
            rows, at = np.nonzero(column < missing[:, None])  # [N] what is wanted
            target = table[rows, place[rows, at] + 1]
            found[rows, begin + at] = self._read(table, place, rows, at, target)
        return [found[number, :count].tolist() for number, count in enumerate(missing)]

    def _read(self, table: Ints, place: Ints, row: Ints, at: Ints, target: Ints) -> Floats:
        """One forward of both models over column `place` [R, Q] of `table` [R, 1 + T].

        Returns log p_tuned − log p_untuned of `target` [N] behind the tokens (row, at) [N].
        """
        hidden = []
        order = self._rows.logical  # the models read in the caches' row order
        cache_row = self._rows.physical[self._to_device(row)]
        cache_column = self._to_device(at)
        for model, cache, base, last in zip(
            self.models, self._caches, self._base, self._last, strict=True
        ):
            ids = np.where(place == 0, last[:, None], np.take_along_axis(table, place, axis=1))
            position = base[:, None] + place
            states = model.hidden(
                self._to_device(ids)[order],
                self._to_device(position)[order],
                int(position.max()) + 1,
                cache,
            )  # [R, Q, D]
            hidden.append(states[cache_row, cache_column])  # [N, D]
        difference = linear_logprob_diff(
            hidden[0], self._heads[0], hidden[1], self._heads[1], self._to_device(target)
        )
        values: Floats = difference.double().cpu().numpy()
        return values

    def _to_device(self, array: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    @torch.no_grad()
    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """See `Scorer.reorder`. `share` counts the writer's tokens; here the pair's are counted."""
        rows_per_prompt = self._shape[1]
        length = np.array([len(row.tokens) for row in self._states]).reshape(self._shape)
        source, start, stop = self._rows.reorder(
            parent.to(self._device), self._to_device(self._common()), self._to_device(length)
        )
        for cache, base in zip(self._caches, self._base, strict=True):
            first = self._to_device(base)
            cache.move(source, first + start, first + stop)
        self._states = [
            self._states[pool * rows_per_prompt + row]
            for pool, parents in enumerate(parent.tolist())
            for row in parents
        ]

    def _common(self) -> Ints:
        """[P, C, C] pair tokens that two rows of a prompt have in common from the start."""
        pools, rows_per_prompt = self._shape
        found: Ints = np.zeros((pools, rows_per_prompt, rows_per_prompt), dtype=np.int64)
        for pool in range(pools):
            rows = self._states[pool * rows_per_prompt : (pool + 1) * rows_per_prompt]
            length = np.array([len(row.tokens) for row in rows])
            # [C, T + 1] the last column is the same everywhere
            table = np.full((rows_per_prompt, int(length.max()) + 1), -1, dtype=np.int64)
            for number, row in enumerate(rows):
                table[number, : len(row.tokens)] = row.tokens
            for number in range(rows_per_prompt):
                differs = table != table[number]
                first = np.where(differs.any(1), differs.argmax(1), length)  # [C]
                found[pool, number] = np.minimum(first, length[number])
        return found


def scorer_for(
    writer: Model, tuned: Model, untuned: Model, plan: SearchPlan
) -> "PairScorer | TextBridgeScorer":
    """`PairScorer` for a pair that reads the writer's tokens, `TextBridgeScorer` for another.

    Without tokenizers there is no text to go by: it is then a `PairScorer`, which `search` refuses
    with `VocabularyError` when the vocabularies differ.
    """
    models = (writer, tuned, untuned)
    if any(model.tokenizer is None for model in models) or not difference(
        writer.name, writer.tokenizer, writer.vocab, tuned.name, tuned.tokenizer, tuned.vocab
    ):
        return PairScorer(tuned, untuned, plan)
    return TextBridgeScorer(tuned, untuned, plan)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two lists have in common from the start."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _end_of_text(model: Model) -> int | None:
    """The EOS that stands for the writer's: the tokenizer's own, else the model's lowest."""
    own = getattr(model.tokenizer, "eos_token_id", None)
    return int(own) if own is not None else min(model.eos_token_ids, default=None)
