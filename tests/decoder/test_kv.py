"""The cache: what it holds as it grows, and what its masks show. Moves: test_moves.py."""

import torch

from w2s.kv import KVCache

CPU = torch.device("cpu")


def test_the_cache_grows_by_doubling_and_keeps_what_it_holds():
    cache = KVCache([200, 180], 2, 2000, CPU, {"full_attention": None}, None)
    written = []
    for begin in range(0, 1200, 150):
        position = torch.arange(begin, begin + 150).expand(4, -1)
        cache.advance(position, begin + 150)
        states = torch.randn(4, 1, 150, 3)
        written.append(states)
        keys, values = cache.update(states, -states, 0)
        assert torch.equal(keys, torch.cat(written, 2))
        assert torch.equal(values, -keys)
    assert cache.capacity == 2000


def test_masks_show_a_row_its_own_slots_and_its_window():
    cache = KVCache(
        [1, 3], 1, 8, CPU, {"full_attention": None, "sliding_attention": 2}, torch.float32
    )
    masks = cache.advance(torch.tensor([[1, 2], [3, 4]]), 5)
    seen = (masks["full_attention"] == 0).int().tolist()
    assert seen == [[[[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]], [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]]
    seen = (masks["sliding_attention"] == 0).int().tolist()
    assert seen == [[[[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]], [[[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]]]
