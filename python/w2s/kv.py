"""The KV cache of a search: one preallocated tensor a layer, written in place, re-ordered in place.

A row's token at position i lies in slot i, whatever the other prompts' lengths, so there is no
padding to account for: a mask `slot <= position` is all that attention needs. A search row may lie
in any physical row of its prompt; `RowMap` says in which, so that a selection moves only what
differs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from w2s_kernels import gather_beams_

_FIRST_BUCKET = 256


class Twins(NamedTuple):
    """Groups of physical rows that hold the same up to now, each with the row that stands for it.

    first [G]: the row whose slots a group's one reader sees. group [R]: each physical row's group.
    """

    first: Tensor
    group: Tensor


class RowMap:
    """Where the search rows lie, and the fewest moves that bring a selection about.

    `row[P, C]` is the physical row (in [0, C), within its prompt) of each search row;
    `physical[R]` the same counted over all prompts, and `logical[R]` its inverse. The three are
    written in place by `reorder`.
    """

    def __init__(self, prompts: int, rows_per_prompt: int, device: torch.device) -> None:
        self._column = torch.arange(rows_per_prompt, device=device)  # [C]
        self._base = torch.arange(prompts, device=device)[:, None] * rows_per_prompt  # [P, 1]
        self._every = (self._base + self._column).flatten()  # [R]
        self._itself = self._column[:, None] == self._column  # [C, C]
        self._earlier = self._column[:, None] > self._column  # [C, C]
        self.row = self._column.repeat(prompts, 1)  # [P, C]
        self.physical = self._every.clone()  # [R] search row -> physical row
        self.logical = self._every.clone()  # [R] the inverse

    def reorder(
        self, parent: Tensor, share: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Makes search row j a copy of the old search row `parent[p, j]`.

        parent [P, C]: old search rows, in [0, C). share [P, C, C]: tokens that two old rows have in
        common from the start. length [P, C]: tokens of each old row. Returns (source, start, stop),
        each [R] by physical row, start and stop in tokens: what `gather_beams_` must copy.

        The first child of a parent stays where its parent lies; every other child takes the place
        of a row that nobody continues, and copies only beyond what that row shares with its parent.
        No other choice of places copies fewer tokens, now or later: a selection leaves the same
        rows behind, whichever of them are the copies.
        """
        rows = parent.shape[1]
        occupant = self._occupant(parent, share)
        stop = length.gather(1, parent)  # [P, C]
        common = share.gather(1, occupant[:, :, None].expand(-1, -1, rows))
        common = common.gather(2, parent[:, :, None]).squeeze(2)
        start = torch.where(occupant == parent, stop, torch.minimum(common, stop))

        place = self.row.gather(1, occupant)
        source = place.scatter(1, place, self.row.gather(1, parent) + self._base)
        self.row.copy_(place)
        self.physical.copy_((place + self._base).flatten())
        self.logical.scatter_(0, self.physical, self._every)
        start = start.flatten().gather(0, self.logical)
        return source.flatten(), start, stop.flatten().gather(0, self.logical)

    def twins(self, size: int) -> Twins:
        """Groups of `size` search rows in a run: the children of one row, before they part."""
        return Twins(self.physical[::size], self.logical // size)

    def _occupant(self, parent: Tensor, share: Tensor) -> Tensor:
        """[P, C]: the old search row in whose place each new row shall lie; `parent` is no move.

        `share` makes the old rows the leaves of a tree: two rows part at depth share[i, j]. A row
        with n children stands for n - 1 opening brackets, a row without for a closing one, and a
        bracket and its partner are a child and its place. The tokens saved are the sum of the
        depths at which partners part, which is greatest if every subtree holds as many pairs as it
        can. Written branch by branch, at each fork those with more opening brackets first, no
        subtree's brackets close more of the outer ones than it has closing ones to spare, so the
        usual partners are such pairs.
        """
        rows = parent.shape[1]
        same = parent[:, :, None] == parent[:, None, :]  # [P, C, C]
        ordinal = (same & self._earlier).sum(2)  # [P, C] how many siblings come before
        excess = (parent[:, :, None] == self._column).sum(1) - 1  # [P, C] brackets of each row

        # From row i, nearest first, so that each branch that holds i is a beginning of the list.
        distance = share.neg().masked_fill_(self._itself, torch.iinfo(share.dtype).min)
        sorted_distance, order = distance.sort(2)  # [P, C, C]
        excess = excess * rows  # room for a row's number below it
        branch = excess.gather(1, order.flatten(1)).view_as(order).cumsum(2)
        branch -= order.cummin(2).values  # opening brackets first; among equals, the first row
        members = torch.searchsorted(sorted_distance, distance)  # of i's branch where j's parts
        branch = branch.gather(2, (members - 1).clamp_(min=0))  # [P, C, C]
        before = branch.transpose(1, 2) > branch  # [P, i, j] row j is written before row i

        # Brackets open before a row, and how many rows are written before it. Of the brackets of
        # one depth, the written order alternates: the n-th to open is closed by the n-th to close.
        place = (before * (excess + 1)[:, None, :]).sum(2)  # [P, C] depth · C + rank
        last = 2 * rows * rows
        opening = place.gather(1, parent) + ordinal * rows
        opening = opening.masked_fill(ordinal == 0, last).argsort(1)
        closing = place.masked_fill(excess >= 0, last).argsort(1)
        return torch.where(ordinal == 0, parent, parent.scatter(1, opening, closing))


class KVCache(Cache):  # type: ignore[misc]
    """A transformers cache of `rows = P·C` rows with slots `[rows, heads, T, D]`, P prompts.

    lengths: tokens of each prompt. limit: the most slots a row may need. The buffers start with a
    bucket of slots and grow by doubling. `layer_windows` is the attention window of each kind of
    layer (None for full attention), by the name transformers has for it. ragged: rows of equal
    prompts may be written at different positions.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        rows_per_prompt: int,
        limit: int,
        device: torch.device,
        layer_windows: dict[str, int | None],
        additive: torch.dtype | None,
        ragged: bool = False,
    ) -> None:
        super().__init__(layers=[])
        self.rows_per_prompt = rows_per_prompt
        self.rows = len(lengths) * rows_per_prompt
        self.limit = limit
        self.capacity = min(limit, max(_FIRST_BUCKET, _bucket(max(lengths) + 1)))
        self.slots = 0  # slots that attention looks at: all that any row has filled
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._windows = layer_windows
        self._additive = additive
        self._uniform = len(set(lengths)) == 1 and not ragged
        self._every_row = torch.arange(self.rows, device=device)
        self._slot = torch.arange(limit, device=device)  # [limit]
        if additive is not None:
            self._zero = torch.zeros((), dtype=additive, device=device)
            self._lowest = torch.full_like(self._zero, torch.finfo(additive).min)
        # While a prompt is prefilled, the first row of its pool stands for all of them.
        self._filling = slice(None)
        # While rows that are still alike are read, one of them stands for its group.
        self._twins: Twins | None = None
        self._position = torch.empty(0, dtype=torch.long, device=device)

    # What transformers calls -------------------------------------------------------------------

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes `[rows, heads, Q, D]` at the positions `advance` set; returns all slots in use.

        With twins there is one row a group: it is written to all rows of the group.
        """
        while len(self._keys) <= layer_idx:
            for store, states in ((self._keys, key_states), (self._values, value_states)):
                store.append(
                    # Zeros: a masked slot has weight 0, and 0 · NaN would still be NaN.
                    states.new_zeros(self.rows, states.shape[1], self.capacity, states.shape[3])
                )
        keys, values = self._keys[layer_idx][self._filling], self._values[layer_idx][self._filling]
        position, twins = self._position, self._twins  # [rows, Q]
        if twins is not None:
            key_states, value_states = (s[twins.group] for s in (key_states, value_states))
            position = position[twins.group]
        if self._uniform or self._filling.step:  # all rows write the same slots, as in a prefill
            begin = self.slots - position.shape[1]
            keys[:, :, begin : self.slots] = key_states
            values[:, :, begin : self.slots] = value_states
        else:
            row = self._every_row[: keys.shape[0], None]  # [rows, 1]
            keys[row, :, position] = key_states.transpose(1, 2)  # [rows, Q, heads, D]
            values[row, :, position] = value_states.transpose(1, 2)
        if twins is not None:  # [G, heads, slots, D]
            return keys[:, :, : self.slots][twins.first], values[:, :, : self.slots][twins.first]
        return keys[:, :, : self.slots], values[:, :, : self.slots]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.slots

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.slots, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.capacity

    @property
    def is_compileable(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._keys)

    # What the decoder calls --------------------------------------------------------------------

    @property
    def caches(self) -> list[Tensor]:
        """All key and value tensors, `[rows, heads, T, D]` each."""
        return [*self._keys, *self._values]

    def advance(self, position: Tensor, slots: int) -> Tensor | dict[str, Tensor]:
        """Prepares a forward that writes positions `[rows, Q]`, the highest of them `slots - 1`.

        Returns the 4-D attention mask [rows, 1, Q, slots] (boolean, True is seen; additive for a
        model on eager attention), or one for each kind of layer in a dict.
        """
        self._reserve(slots)
        self.slots = slots
        self._position = position
        slot = self._slot[:slots]
        query = position[:, None, :, None]  # [rows, 1, Q, 1]
        seen = slot <= query
        masks = {
            kind: self._finish(seen if window is None else seen & (slot > query - window))
            for kind, window in self._windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _finish(self, seen: Tensor) -> Tensor:
        if self._additive is None:
            return seen
        return torch.where(seen, self._zero, self._lowest)

    def begin_prefill(self) -> None:
        """From here to `end_prefill`, forwards have one row a prompt."""
        self._filling = slice(None, None, self.rows_per_prompt)

    def end_prefill(self) -> None:
        """Copies each prompt's slots to all rows of its pool."""
        self._filling = slice(None)
        if self.rows_per_prompt == 1:
            return
        for cache in self.caches:
            pool = cache.unflatten(0, (-1, self.rows_per_prompt))[:, :, :, : self.slots]
            pool[:, 1:] = pool[:, :1]

    def read_as(self, twins: Twins | None) -> None:
        """From here on, forwards have one row a group of twins; None: one for each row again."""
        self._twins = twins

    def allow(self, limit: int) -> None:
        """Raises the most slots that a row may need."""
        if limit > self.limit:
            self.limit = limit
            self._slot = torch.arange(limit, device=self._slot.device)

    def _reserve(self, slots: int) -> None:
        if slots <= self.capacity:
            return
        self.capacity = min(self.limit, max(_bucket(slots), 2 * self.capacity))
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                new = old.new_zeros(*old.shape[:2], self.capacity, old.shape[3])
                new[:, :, : old.shape[2]] = old
                store[layer] = new

    def move(self, source: Tensor, start: Tensor, stop: Tensor) -> None:
        """Physical row r takes row source[r]'s slots [start[r], stop[r]); all layers at once."""
        if self._keys:
            gather_beams_(self.caches, source, start, stop)


def _bucket(slots: int) -> int:
    return 1 << max(0, slots - 1).bit_length()
