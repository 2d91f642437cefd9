"""The cache's moves: as few as the rows differ, and exactly those of a full gather."""

import pytest
import torch

from w2s.kv import KVCache, RowMap
from w2s.plan import SearchPlan
from w2s.pool import Pool
from w2s.proposers import Chunk

CPU = torch.device("cpu")


def play(prompts, width, samples, length, rounds, seed, survivors):
    """Random selections over caches that are written in place; yields (moved cells, all cells).

    The reference is a plain tensor re-ordered by a full gather. Each cell holds a number of its
    own, so a cell that was not moved, or moved wrongly, shows.
    """
    dice = torch.Generator().manual_seed(seed)
    size, slots, base = width * samples, rounds * length + 3, 3
    plan = SearchPlan(width=width, samples=samples, chunk=length, max_new_tokens=rounds * length)
    pool, rows = Pool(prompts, plan, CPU), RowMap(prompts, size, CPU)
    cache = KVCache([3] * prompts, size, slots, CPU, {"full_attention": None}, None)
    prompt = torch.arange(prompts * base).view(prompts, 1, base, 1).double()
    start = prompt.repeat_interleave(size, 0)  # [R, 1, base, 1]
    cache._keys = [torch.nn.functional.pad(start, (0, 0, 0, slots - base)).clone()]
    expected = cache._keys[0].clone()
    fresh = 1000.0
    first = torch.arange(prompts)[:, None] * size
    for number in range(rounds):
        stop = base + (number + 1) * length
        new = torch.arange(prompts * size * length).view(-1, 1, length, 1).double() + fresh
        fresh += new.numel()
        expected[:, :, stop - length : stop] = new
        cache._keys[0][:, :, stop - length : stop] = new[rows.logical]
        lengths = torch.full((prompts * size,), length)
        pool.admit(Chunk(torch.zeros(prompts * size, length).long(), None, lengths, lengths < 0))
        parent = survivors(dice, prompts, size, width).sort(1).values
        parent = parent.repeat_interleave(samples, 1)  # [P, C]
        source, begin, end = rows.reorder(parent, pool.share, pool.length.view(prompts, size))
        cache.move(source, base + begin, base + end)
        pool.reorder(parent)
        expected = expected[(parent + first).flatten()]
        assert torch.equal(cache._keys[0][rows.physical][:, :, :stop], expected[:, :, :stop])
        yield int((end - begin).clamp(min=0).sum()), prompts * size * (stop - base)


def distinct(dice, prompts, size, width):
    return torch.stack([torch.randperm(size, generator=dice)[:width] for _ in range(prompts)])


def repeating(dice, prompts, size, width):
    return torch.randint(size, (prompts, width), generator=dice)


@pytest.mark.parametrize("survivors", [distinct, repeating])
@pytest.mark.parametrize(
    ("prompts", "width", "samples"), [(1, 4, 4), (3, 2, 3), (2, 1, 5), (2, 6, 1), (1, 1, 1)]
)
def test_minimal_moves_equal_a_full_gather_bit_for_bit(prompts, width, samples, survivors):
    for moved, full in play(prompts, width, samples, 2, 60, 1, survivors):
        assert moved <= full


def test_moves_are_a_small_part_of_a_full_gather():
    """Random survivors, the worst case: 12 of 16 rows change hands, about 3 chunks each."""
    counts = list(play(2, 4, 4, 5, 100, 7, distinct))
    moved, full = map(sum, zip(*counts, strict=True))
    assert moved <= 0.05 * full
    assert moved <= len(counts) * 2 * 16 * 3 * 5


def test_rows_that_continue_themselves_move_nothing():
    def stay(dice, prompts, size, width):
        return torch.arange(size).expand(prompts, -1)

    assert sum(moved for moved, _ in play(2, 5, 1, 3, 10, 0, stay)) == 0


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
