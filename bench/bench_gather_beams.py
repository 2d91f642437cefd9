"""gather_beams_: the KV re-order of a search, against the bytes it has to move.

    pytest bench/bench_gather_beams.py

`moved / generated` is the share of the generated part so far that a selection moves, `moved / KV`
the share of the KV at the end; `time / copy` compares with one contiguous copy of as many bytes.
Buffers rotate, so that the processor's caches do not flatter.
"""

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from w2s_kernels import gather_beams_, select_beams

LAYERS, HEADS, SIZE = 30, 3, 64  # SmolLM2-135M, fp32
POSITION_BYTES = 2 * LAYERS * HEADS * SIZE * 4
CHUNK, PROMPT = 5, 32


class Lineage:
    """A search's rows over random scores: which moves each selection asks for (as w2s.kv does)."""

    def __init__(self, prompts: int, width: int, repeat: int, seed: int = 0) -> None:
        from w2s.kv import RowMap

        self.width, self.repeat, size = width, repeat, width * repeat
        self.generator = torch.Generator().manual_seed(seed)
        self.rows = RowMap(prompts, size, torch.device("cpu"))
        self.share = torch.full((prompts, size, size), PROMPT)
        self.score = torch.zeros(prompts, size, dtype=torch.float64)
        self.length = PROMPT

    def select(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next chunk and selection: (source, start, stop) by physical row."""
        self.length += CHUNK
        noise = torch.randn(self.score.shape, generator=self.generator, dtype=torch.float64)
        parent, self.score, _ = select_beams(
            self.score + noise, self.width, repeat=self.repeat
        )  # [P, C]
        size = parent.shape[1]
        moves = self.rows.reorder(parent, self.share, torch.full_like(parent, self.length))
        same = parent[:, :, None] == parent[:, None, :]
        inherited = self.share.gather(1, parent[:, :, None].expand(-1, -1, size))
        inherited = inherited.gather(2, parent[:, None, :].expand(-1, size, -1))
        self.share = torch.where(same, self.length, inherited)
        return moves


def moved_positions(source: Tensor, start: Tensor, stop: Tensor) -> int:
    other = source != torch.arange(len(source))
    return int(((stop - start).clamp(min=0) * other).sum())


def seconds_to_copy(size: int, rounds: int = 20) -> float:
    """The best time of one contiguous copy of `size` bytes, between buffers that rotate."""
    pieces = 2 + int(256e6 // size)
    source, target = (torch.ones(pieces, size, dtype=torch.uint8) for _ in range(2))
    best = float("inf")
    for turn in range(rounds):
        before = time.perf_counter()
        target[turn % pieces].copy_(source[turn % pieces])
        best = min(best, time.perf_counter() - before)
    return best


def note_ratio(benchmark: Any, size: int) -> None:
    """Adds the bytes moved and the time as a multiple of a plain copy's (best of both)."""
    benchmark.extra_info["MB moved"] = round(size / 1e6, 2)
    if benchmark.stats is not None:
        ratio = benchmark.stats.stats.min / seconds_to_copy(size)
        benchmark.extra_info["time / copy"] = round(ratio, 2)


@pytest.mark.parametrize("prompts", [1, 8])
def test_ten_selections_of_cbs_4_4_5_after_100_chunks(benchmark, prompts):
    chunks, late = 100, 10
    lineage = Lineage(prompts, 4, 4)
    moved, generated = 0, 0
    for _ in range(chunks):
        moved += moved_positions(*lineage.select())
        generated += prompts * 16 * (lineage.length - PROMPT)
    kv = prompts * 16 * lineage.length
    benchmark.extra_info["moved / generated"] = round(moved / generated, 4)
    benchmark.extra_info["moved / KV"] = round(moved / chunks / kv, 4)

    moves = [lineage.select() for _ in range(late)]
    caches = [torch.randn(prompts * 16, HEADS, lineage.length, SIZE) for _ in range(2 * LAYERS)]

    def selections() -> None:
        for move in moves:
            gather_beams_(caches, *move)

    benchmark(selections)
    note_ratio(benchmark, sum(moved_positions(*move) for move in moves) * POSITION_BYTES)


@pytest.mark.parametrize("positions", [5, 50, 500])
def test_half_of_16_rows_take_the_last_positions_of_the_other_half(benchmark, positions):
    length = 512
    caches = [torch.randn(16, HEADS, length, SIZE) for _ in range(2 * LAYERS)]
    source = torch.arange(16)
    source[8:] = torch.arange(8)
    start = torch.full((16,), length - positions)
    benchmark(gather_beams_, caches, source, start, torch.full((16,), length))
    note_ratio(benchmark, 8 * positions * POSITION_BYTES)


def test_a_full_gather_by_index_select(benchmark):
    """What moving only the difference replaces: the whole KV of 16 rows, copied."""
    caches = [torch.randn(16, HEADS, 512, SIZE) for _ in range(2 * LAYERS)]
    parent = torch.randint(16, (16,))
    benchmark(lambda: [cache.index_select(0, parent) for cache in caches])
