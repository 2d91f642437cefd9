"""logprob_diff against eager log_softmax + gather of both models.

pytest bench/bench_logprob_diff.py
`test_reading` is the ceiling: the same bytes summed. Three pairs take turns, so that a pair is
mostly out of the cache when it is read again.
"""

import itertools

import pytest
import torch
from torch import Tensor

from w2s_kernels import logprob_diff
from w2s_kernels.ops.logprob_diff import example_inputs

ROWS = 256


def eager(tuned: Tensor, untuned: Tensor, target: Tensor) -> Tensor:
    found = [
        torch.log_softmax(logits.float(), dim=-1).gather(-1, target[:, None])[:, 0]
        for logits in (tuned, untuned)
    ]
    return found[0] - found[1]


def reading(tuned: Tensor, untuned: Tensor, target: Tensor) -> None:
    for logits in (tuned, untuned):
        logits.view(torch.float32).sum()


@pytest.mark.parametrize("run", [logprob_diff, eager, reading])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [49152, 128256])
def test_forward(benchmark, vocab, dtype, run):
    sets = itertools.cycle([example_inputs(ROWS, vocab, dtype=dtype, seed=i) for i in range(3)])
    benchmark(lambda: run(*next(sets)))
    benchmark.extra_info["bytes"] = 2 * ROWS * vocab * dtype.itemsize


@pytest.mark.parametrize("run", [logprob_diff, eager])
def test_forward_and_backward(benchmark, run):
    tuned, untuned, target = example_inputs(ROWS, 49152)
    models = (tuned.requires_grad_(), untuned.requires_grad_())
    benchmark(lambda: torch.autograd.grad(run(*models, target).sum(), models))
