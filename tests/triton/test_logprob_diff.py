"""The tests of `logprob_diff`, on the interpreter: its promises, with fewer rows."""

import pytest
import test_logprob_diff
import torch
from test_logprob_diff import *  # noqa: F403

import w2s_kernels
from support import float64
from w2s_kernels.ops.logprob_diff import example_inputs, tolerance

# Of instruction sets, which there are none of here.
del test_every_instruction_set_gives_the_same_bits  # noqa: F821


@pytest.mark.parametrize("vocab", [1, 2, 7, 127, 128, 1000, 32000, 49152, 50257, 128256, 262144])
def test_every_shape_is_as_close_to_float64_as_promised(backend, vocab):
    for n in (0, 1, 3):
        for dtype in test_logprob_diff.DTYPES:
            tuned, untuned, target = example_inputs(n, vocab, dtype=dtype)
            expected = float64.logprob_diff(tuned, untuned, target)
            value = w2s_kernels.logprob_diff(tuned, untuned, target)
            assert value.shape == (n,)
            assert float64.within(value, expected, tolerance(expected)), (n, dtype)


def test_models_of_different_dtypes_swap_like_any_others(backend):
    tuned, untuned, target = example_inputs(3, test_logprob_diff.V)
    tuned = tuned.to(torch.bfloat16)
    forward = w2s_kernels.logprob_diff(tuned, untuned, target)
    assert torch.equal(forward, -w2s_kernels.logprob_diff(untuned, tuned, target))
