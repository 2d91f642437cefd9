"""gather_beams_: the KV re-order of a search, against the bytes it has to move.

    pytest bench/bench_gather_beams.py

`moved / generated` is the share of the generated part so far that a selection moves, `moved / KV`
the share of the KV at the end; `time / copy` compares with one contiguous copy of as many bytes.
Buffers rotate, so that the processor's caches do not flatter.
"""

import pytest
import torch

from support.lineage import Lineage, by_score
from support.timing import note_ratio
from w2s_kernels import gather_beams_

LAYERS, HEADS, SIZE = 30, 3, 64  # SmolLM2-135M, fp32
POSITION_BYTES = 2 * LAYERS * HEADS * SIZE * 4
CHUNK, PROMPT = 5, 32


@pytest.mark.parametrize("prompts", [1, 8])
def test_ten_selections_of_cbs_4_4_5_after_100_chunks(benchmark, prompts):
    chunks, late = 100, 10
    dice, lineage = torch.Generator().manual_seed(0), Lineage(prompts, 4, 4, CHUNK, chunks + late)
    moves, generated = [], []
    for _ in range(chunks + late):
        lineage.grow()
        generated.append(int(lineage.length.sum()))
        source, start, stop = lineage.select(by_score(dice, lineage.pool))
        moves.append((source, PROMPT + start, PROMPT + stop))
    moved = [int((stop - start).sum()) for _, start, stop in moves]
    kv = prompts * 16 * (PROMPT + CHUNK * chunks)
    benchmark.extra_info["moved / generated"] = round(
        sum(moved[:chunks]) / sum(generated[:chunks]), 4
    )
    benchmark.extra_info["moved / KV"] = round(sum(moved[:chunks]) / chunks / kv, 4)

    length = PROMPT + CHUNK * (chunks + late)
    caches = [torch.randn(prompts * 16, HEADS, length, SIZE) for _ in range(2 * LAYERS)]

    def selections() -> None:
        for move in moves[chunks:]:
            gather_beams_(caches, *move)

    benchmark(selections)
    note_ratio(benchmark, sum(moved[chunks:]) * POSITION_BYTES)


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
