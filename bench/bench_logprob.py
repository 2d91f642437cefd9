"""logprob against eager log_softmax + gather: forward, forward with entropy, backward.

pytest bench/bench_logprob.py
Three sets of inputs take turns, so a set is mostly out of the cache when it is read again.
"""

import itertools

import pytest
import torch
from torch import Tensor

from w2s_kernels import logprob
from w2s_kernels.ops.logprob import example_inputs

ROWS = 256


def eager(logits: Tensor, target: Tensor) -> Tensor:
    q = torch.log_softmax(logits.float(), dim=-1)
    return q.gather(-1, target[:, None])[:, 0]


def with_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return logprob(logits, target, entropy=True)


@pytest.mark.parametrize("run", [logprob, with_entropy, eager])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [49152, 128256])
def test_forward(benchmark, vocab, dtype, run):
    sets = itertools.cycle([example_inputs(ROWS, vocab, dtype=dtype, seed=i) for i in range(3)])
    benchmark(lambda: run(*next(sets)))
    benchmark.extra_info["bytes"] = ROWS * vocab * dtype.itemsize


@pytest.mark.parametrize("run", [logprob, eager])
def test_forward_and_backward(benchmark, run):
    logits, target = example_inputs(ROWS, 49152)
    logits.requires_grad_()
    benchmark(lambda: torch.autograd.grad(run(logits, target).sum(), logits))


@pytest.mark.parametrize("run", [logprob, eager])
def test_the_smallest_call(benchmark, run):
    benchmark(run, *example_inputs(2, 8))
