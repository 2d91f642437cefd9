"""invariant=True on the interpreter (`tests/test_linear_invariance.py`)."""

import pytest
import test_linear_invariance
import torch
from test_linear_invariance import (  # noqa: F401
    test_a_pair_is_antisymmetric_and_zero_with_itself,
    test_appended_masked_columns_change_no_bit,
)

from support import linear
from w2s_kernels import linear_logprob
from w2s_kernels.triton_kernels import linear_plan
from w2s_kernels.triton_kernels.linear_settings import use_path

# Many calls: left out of `make test-fast`.
test_rows_do_not_depend_on_the_batch = pytest.mark.slow(
    test_linear_invariance.test_rows_do_not_depend_on_the_batch
)


def test_rows_do_not_depend_on_their_group_or_stride_or_the_path_of_others(backend, monkeypatch):
    head = linear.head(700, 83, "bf16")
    hidden, target = linear.inputs(40, head)
    whole = linear_logprob(hidden, head, target, invariant=True)
    wide = torch.zeros(40, 200, dtype=hidden.dtype)
    wide[:, :83] = hidden
    assert torch.equal(whole, linear_logprob(wide[:, :83], head, target, invariant=True))
    monkeypatch.setattr(linear_plan, "_PARTS", 12 * 2 * 16)  # groups of 16 rows
    with use_path("chunked"):
        assert torch.equal(whole, linear_logprob(hidden, head, target, invariant=True))
    for row in (0, 17, 39):
        one = linear_logprob(hidden[row], head, target[row], invariant=True)
        assert torch.equal(whole[row], one)
