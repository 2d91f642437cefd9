"""The tests of the gradients of the log-prob family, on the interpreter."""

import pytest
import torch
from test_logprob_gradient import *  # noqa: F403
from test_logprob_gradient import V

import w2s_kernels
from support import float64, rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_are_rounded_once_to_the_logits_dtype(backend, dtype):
    logits = rows.random_rows(3, V, dtype=dtype).requires_grad_()
    target = rows.random_targets(3, V)
    (ours,) = torch.autograd.grad(w2s_kernels.logprob(logits, target).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    (theirs,) = torch.autograd.grad(float64.logprob(exact, target).sum(), exact)
    assert ours.dtype == dtype
    # The interpreter cuts fp32 to bf16 where a GPU rounds to the nearest.
    share = 1.01 if dtype == torch.bfloat16 else 0.51
    assert float64.within(ours, theirs, theirs.abs() * torch.finfo(dtype).eps * share + 1e-6)
