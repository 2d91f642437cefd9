"""logprob_stats of vocabulary shards, merged and finished, against eager log_softmax + gather.

pytest bench/bench_logprob_stats.py
"""

import itertools

import pytest
import torch
from torch import Tensor

from w2s_kernels import finish_stats, logprob_stats, merge_stats
from w2s_kernels.ops.logprob import example_inputs

ROWS, VOCAB = 256, 128256


def eager(logits: Tensor, target: Tensor) -> Tensor:
    q = torch.log_softmax(logits.float(), dim=-1)
    return q.gather(-1, target[:, None])[:, 0]


def in_shards(logits: Tensor, target: Tensor) -> Tensor:
    width = 32768
    parts = [
        logprob_stats(logits[:, start : start + width], target, vocab_start=start)
        for start in range(0, VOCAB, width)
    ]
    return finish_stats(merge_stats(parts), target, vocab=VOCAB)


@pytest.mark.parametrize("run", [in_shards, eager])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_in_four_shards(benchmark, dtype, run):
    sets = itertools.cycle([example_inputs(ROWS, VOCAB, dtype=dtype, seed=i) for i in range(3)])
    benchmark(lambda: run(*next(sets)))


def test_merging_eight_ranks(benchmark):
    logits, target = example_inputs(ROWS, 1024)
    benchmark(merge_stats, [logprob_stats(logits, target)] * 8)
