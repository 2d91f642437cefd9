"""linear_logprob_diff against the two bare products of its heads.

pytest bench/bench_linear_logprob_diff.py
`ratio` in a row's extra info is time / both products, medians of interleaved calls.
"""

import pytest
import torch

from support.timing import interleaved
from w2s_kernels import Head, linear_logprob_diff

VOCAB = 49152


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("width", [128, 576, 2048])
@pytest.mark.parametrize("rows", [1, 16, 64, 256])
def test_the_pair(benchmark, rows, width, dtype):
    hidden = [torch.randn(rows, width).to(dtype) for _ in range(2)]
    weight = [(torch.randn(VOCAB, width) / width**0.5).to(dtype) for _ in range(2)]
    target = torch.randint(VOCAB, (rows,))
    wide = [w.float() for w in weight]
    out = torch.empty(rows, VOCAB)

    def call():
        return linear_logprob_diff(hidden[0], Head(weight[0]), hidden[1], Head(weight[1]), target)

    def products():
        for h, w in zip(hidden, wide, strict=True):
            torch.mm(h.float(), w.T, out=out)

    ours, bare = interleaved(call, products)
    benchmark.extra_info["ratio"] = ours / bare
    benchmark.pedantic(call, rounds=3)
