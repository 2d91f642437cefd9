"""`Reader`: one model reading the rows of a search, and its KV cache's place in the response."""

from collections.abc import Sequence

import torch
from torch import Tensor

from w2s.kv import KVCache, Twins
from w2s.models import Model


class Reader:
    """What a proposer or scorer needs of one model: read tokens, move rows.

    Response token i of a row is read at position `base + 1 + i`; `base` is the place of the
    prompt's last token. Positions lie on the device and are advanced there; how many slots are in
    use is known on the host without asking, because all rows read equally many tokens.
    """

    _cache: KVCache
    _base: Tensor  # [R] tokens of the prompt without its last
    _next: Tensor  # [R] position of the next token to read
    last: Tensor  # [P] each prompt's last token

    def __init__(self, model: Model) -> None:
        self.model = model

    def start(
        self, encoded: Sequence[Sequence[int]], rows_per_prompt: int, limit: int, *, whole: bool
    ) -> Tensor | None:
        """Reads each prompt once, for all rows of its pool.

        limit: response tokens there must be room for. whole: read the last prompt token too and
        return its hidden state [P, D]; otherwise it is left for the first `read`.
        """
        device = self.model.device
        body = [len(ids) - 1 for ids in encoded]
        now = [ids if whole else ids[:-1] for ids in encoded]
        lengths = [len(ids) for ids in now]
        self._cache = self.model.new_cache(lengths, rows_per_prompt, max(body) + 1 + limit)
        hidden = self.model.prefill(now, self._cache)
        self._slots = max(lengths)
        self._base = torch.tensor(body, device=device).repeat_interleave(rows_per_prompt)
        self._next = self._base + int(whole)
        self._step = torch.arange(limit + 1, device=device)
        self.last = torch.tensor([ids[-1] for ids in encoded], device=device)
        return hidden

    def read(self, ids: Tensor, twins: Twins | None = None) -> Tensor:
        """Hidden states [R, Q, D] of the next Q tokens [R, Q]; rows in the cache's order.

        All rows read Q tokens. A row that has ended reads padding: its slots are never looked at.
        twins: groups of rows that hold the same and read the same. ids and the result then have one
        row a group, [G, Q] and [G, Q, D]; the model works for one row a group, and all rows of the
        group get what it adds to the cache.
        """
        columns = ids.shape[1]
        self._slots += columns
        begin = self._next if twins is None else self._next[twins.first]
        position = begin[:, None] + self._step[:columns]  # [R, Q] or [G, Q]
        self._cache.read_as(twins)
        hidden = self.model.hidden(ids, position, self._slots, self._cache)
        self._cache.read_as(None)
        self._next += columns
        return hidden

    def move(self, source: Tensor, start: Tensor, stop: Tensor) -> None:
        """Row r takes row source[r]'s response tokens [start[r], stop[r]); each [R], cache order.

        The last token of a response is not read yet; the slot before the first one's holds the
        prompt's last token. Counting from there moves one slot more than a prefix requires, and
        keeps every row's cache equal to its parent's bit for bit.
        """
        self._cache.move(source, self._base + start, self._base + stop)
