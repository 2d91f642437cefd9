"""A selection of a search, whole: select_beams, `RowMap.reorder`, gather_beams_.

    pytest bench/bench_select_and_move.py

It replaces index_select of the whole KV by the parents, which is timed beside it. W=K=4, L=5, the
selections that follow the 100th chunk, rows that survive by their scores. `moved / KV` is the bytes
a selection moves over those of the whole KV, `time / copy` compares with one contiguous copy of as
many bytes; `selections` says how many a time is for, each with moves of its own.
"""

import pytest
import torch

from support.lineage import Lineage, by_score
from support.timing import note_ratio
from w2s_kernels import gather_beams_, select_beams

PROMPT, CHUNK, CHUNKS, LATE = 32, 5, 100, 10
# layers, key-value heads, head size, dtype, prompts
SHAPES = {
    "SmolLM2-135M fp32, 1 prompt": (30, 3, 64, torch.float32, 1),
    "SmolLM2-135M bf16, 4 prompts": (30, 3, 64, torch.bfloat16, 4),
    "Llama-3.2-1B bf16, 1 prompt": (16, 8, 64, torch.bfloat16, 1),
}


class Late:
    """A search's state before each of its late selections, and a KV cache of its shape."""

    def __init__(self, layers, heads, size, dtype, prompts):
        dice = torch.Generator().manual_seed(0)
        self.lineage = Lineage(prompts, 4, 4, CHUNK, CHUNKS + LATE)
        self.states, self.moved = [], 0
        slots = PROMPT + CHUNK * (CHUNKS + LATE)
        for chunk in range(CHUNKS + LATE):
            self.lineage.grow()
            length, share = self.lineage.length.clone(), self.lineage.pool.share.clone()
            parent = by_score(dice, self.lineage.pool)
            score = self.lineage.pool.score.view(prompts, 16).clone()
            _, start, stop = self.lineage.select(parent)
            if chunk >= CHUNKS:
                self.states.append((score, share, length))
                self.moved += int((stop - start).sum()) * 2 * layers * heads * size * dtype.itemsize
        self.caches = [
            torch.zeros(prompts * 16, heads, slots, size, dtype=dtype) for _ in range(2 * layers)
        ]
        self.kv = sum(cache.nbytes for cache in self.caches)

    def select_and_move(self):
        for score, share, length in self.states:
            parent, _, _ = select_beams(score, 4, repeat=4)
            source, start, stop = self.lineage.rows.reorder(parent, share, length)
            gather_beams_(self.caches, source, PROMPT + start, PROMPT + stop)

    def only_reorder(self):
        for score, share, length in self.states:
            parent, _, _ = select_beams(score, 4, repeat=4)
            self.lineage.rows.reorder(parent, share, length)


@pytest.mark.parametrize("shape", SHAPES)
def test_select_and_move_after_100_chunks(benchmark, shape):
    late = Late(*SHAPES[shape])
    benchmark(late.select_and_move)
    benchmark.extra_info["selections"] = LATE
    benchmark.extra_info["moved / KV"] = round(late.moved / LATE / late.kv, 4)
    note_ratio(benchmark, late.moved)


@pytest.mark.parametrize("prompts", [1, 8, 64])
def test_select_and_find_the_moves(benchmark, prompts):
    """What of it does not depend on the models: who survives, and what has to move."""
    benchmark(Late(0, 0, 0, torch.float32, prompts).only_reorder)
    benchmark.extra_info["selections"] = LATE


@pytest.mark.parametrize("shape", SHAPES)
def test_index_select_of_the_whole_kv(benchmark, shape):
    late = Late(*SHAPES[shape])
    score = late.states[0][0]
    first = torch.arange(0, score.numel(), 16)[:, None]

    def gather():
        parent, _, _ = select_beams(score, 4, repeat=4)
        row = (parent + first).flatten()
        for cache in late.caches:
            cache.index_select(0, row)

    benchmark(gather)
    benchmark.extra_info["selections"] = 1
    note_ratio(benchmark, late.kv)
