"""linear_logprob against the bare product of its head (the faster of native dtype and fp32).

pytest bench/bench_linear_logprob.py
`ratio` in a row's extra info is time / bare product, medians of interleaved calls.
"""

import pytest
import torch

from support.timing import interleaved
from w2s_kernels import Head, linear_logprob

VOCAB = 49152


def bare_products(hidden, weight):
    """Calls that make all logits at once, nothing else: fp32, and the weight's own dtype."""
    rows = hidden.shape[0]
    calls = []
    for dtype in {torch.float32, weight.dtype}:
        if dtype != torch.float32 and rows > 16:
            continue  # a 16-bit product of many rows takes seconds where there is no AMX
        h, w = hidden.to(dtype), weight.to(dtype)
        out = torch.empty(rows, weight.shape[0], dtype=dtype)
        calls.append(lambda h=h, w=w, out=out: torch.mm(h, w.T, out=out))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("width", [128, 576, 2048])
@pytest.mark.parametrize("rows", [1, 16, 64, 256])
@pytest.mark.parametrize("invariant", [False, True], ids=["free", "invariant"])
def test_forward(benchmark, rows, width, dtype, invariant):
    hidden = torch.randn(rows, width).to(dtype)
    weight = (torch.randn(VOCAB, width) / width**0.5).to(dtype)
    target = torch.randint(VOCAB, (rows,))

    def call():
        return linear_logprob(hidden, Head(weight), target, invariant=invariant)

    ours, *bare = interleaved(call, *bare_products(hidden, weight))
    benchmark.extra_info["ratio"] = ours / min(bare)
    benchmark.pedantic(call, rounds=3)


@pytest.mark.parametrize("rows", [512, 2048])
def test_training_step(benchmark, rows):
    """Forward and backward in units of one bare product: 4 is the least that recomputing costs."""
    hidden = torch.randn(rows, 128, requires_grad=True)
    weight = (torch.randn(VOCAB, 128) / 12).requires_grad_()
    target = torch.randint(VOCAB, (rows,))

    def call():
        hidden.grad = weight.grad = None
        linear_logprob(hidden, Head(weight), target).mean().backward()

    ours, *bare = interleaved(call, *bare_products(hidden.detach(), weight.detach()), rounds=3)
    benchmark.extra_info["ratio"] = ours / min(bare)
    benchmark.pedantic(call, rounds=2)
