"""The product of bf16 hidden states and bf16 weights in pairs (instruction set avx512bf16)."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support import float64, linear
from w2s_kernels import Head, _library, linear_logprob, linear_logprob_diff
from w2s_kernels.ops import _linear_cpu  # declares the primitives
from w2s_kernels.ops.linear_logprob import tolerance
from w2s_kernels.ops.linear_logprob_diff import tolerance as diff_tolerance

_PRESENT = torch.ops.w2s_library.isas().split() if _library.load() else []
pytestmark = pytest.mark.skipif(
    "avx512bf16" not in _PRESENT,
    reason=_library.reason() or "this processor has no AVX512_BF16",
)


@pytest.fixture(autouse=True)
def pairs() -> Iterator[None]:
    before = torch.ops.w2s_library.isa()
    assert torch.ops.w2s_library.set_isa("avx512bf16")
    yield
    torch.ops.w2s_library.set_isa(before)


def product(hidden: Tensor, weight: Tensor) -> Tensor:
    """The logits that the pair product makes, fp32."""
    assert hidden.dtype == weight.dtype == torch.bfloat16
    logits = torch.full((hidden.shape[0], weight.shape[0] + 3), 7.0)  # a strided output
    torch.ops.w2s_cpu.linear_logits_(logits[:, :-3], hidden, weight, None, None, 1.0)
    assert (logits[:, -3:] == 7.0).all()
    return logits[:, :-3]


def allowed(hidden: Tensor, weight: Tensor) -> Tensor:
    """8·2⁻²⁴·‖h‖·max‖w‖ of each row, [N, 1]."""
    widest = weight.double().norm(dim=1).max()
    return 8 * 2.0**-24 * hidden.double().norm(dim=1, keepdim=True) * widest


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 77, 320, 321, 577, 700, 2048, 4096])
def test_products_match_float64_for_every_number_of_rows(width):
    generator = linear.generator(width)
    # Rows of a wider tensor; the padding beside them is NaN.
    hidden = torch.full((70, width + 5), float("nan")).bfloat16()
    weight = torch.full((75, width + 3), float("nan")).bfloat16()
    hidden, weight = hidden[:, :width], weight[:, :width]
    hidden.copy_(torch.randn(70, width, generator=generator))
    weight.copy_(torch.randn(75, width, generator=generator))
    exact = hidden.double() @ weight.double().T
    for rows in range(1, 71):
        error = (product(hidden[:rows], weight) - exact[:rows]).abs()
        assert (error <= allowed(hidden[:rows], weight)).all(), rows


@pytest.mark.parametrize("width", [64, 96, 320, 576, 2048, 4096])
def test_sums_whose_terms_all_have_one_sign_stay_within_the_bound(width):
    weight = torch.rand(64, width, generator=linear.generator(0)).bfloat16()
    for rows in (4, 64):
        hidden = weight[:rows].contiguous()  # the diagonal is the largest sum there is
        error = (product(hidden, weight) - hidden.double() @ weight.double().T).abs()
        assert (error <= allowed(hidden, weight)).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 16, 17, 23, 37, 64])
def test_nan_and_infinity_reach_their_own_rows_and_columns_only(rows):
    generator = linear.generator(rows)
    hidden = torch.randn(rows, 65, generator=generator).bfloat16()
    weight = torch.randn(50, 65, generator=generator).bfloat16()
    weight[3, 64], weight[20, 1], weight[33, 5] = float("nan"), float("inf"), float("-inf")
    hidden[rows // 2, 7] = float("inf")
    hidden[rows - 1, 64] = float("nan")
    exact = hidden.double() @ weight.double().T
    found = product(hidden, weight)
    assert torch.equal(found.isnan(), exact.isnan())
    infinite = exact.isinf()
    assert torch.equal(found[infinite].double(), exact[infinite])
    assert found[exact.isfinite()].isfinite().all()


KINDS = ("bf16", "bf16+bias", "bf16+softcap+scale", "bf16+padding", "bf16+bias+softcap+scale")


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_and_entropies_match_float64(kind):
    head = linear.head(4211, 83, kind)
    for rows in (1, 4, 16, 23, 70, 300):
        hidden, target = linear.inputs(rows, head, targets=3)
        hidden[0] = float("nan")
        target[0] = -100
        value, entropy = linear_logprob(hidden, head, target, temperature=0.7, entropy=True)
        assert (value[0] == 0).all()
        assert entropy[0].isnan()
        hidden, target, value = hidden[1:], target[1:], value[1:]
        exact = linear.logprob(hidden, head, target, temperature=0.7)
        bound = tolerance(exact, hidden, head, temperature=0.7)
        assert float64.within(value, exact, bound), float64.largest_error(value, exact)
        exact = linear.entropy(hidden, head, temperature=0.7)
        assert float64.within(entropy[1:], exact, tolerance(exact, hidden, head, temperature=0.7))


def test_a_pair_matches_float64_and_may_mix_dtypes():
    tuned, untuned = linear.head(4211, 96, "bf16+bias"), linear.head(4211, 50, "fp32", seed=2)
    hidden_t, target = linear.inputs(33, tuned)
    hidden_u, _ = linear.inputs(33, untuned)
    value = linear_logprob_diff(hidden_t, tuned, hidden_u, untuned, target)
    exact = linear.logprob(hidden_t, tuned, target) - linear.logprob(hidden_u, untuned, target)
    bound = diff_tolerance(exact, hidden_t, tuned, hidden_u, untuned)
    assert float64.within(value, exact, bound)


def test_thread_counts_change_no_bit():
    head = linear.head(4211, 576, "bf16+bias")
    before = torch.get_num_threads()
    try:
        for rows in (3, 21, 40):
            hidden, target = linear.inputs(rows, head)
            values = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                values.append(linear_logprob(hidden, head, target))
            assert torch.equal(values[0], values[1])
            assert torch.equal(values[0], values[2])
    finally:
        torch.set_num_threads(before)


def test_invariant_and_other_dtypes_do_not_take_this_product():
    head = linear.head(900, 83, "bf16")
    hidden, target = linear.inputs(20, head)
    wide = replace(head, weight=head.weight.float())
    values = []
    for isa in ("avx512bf16", "avx512"):
        assert torch.ops.w2s_library.set_isa(isa)
        values.append(
            torch.stack(
                [
                    linear_logprob(hidden, head, target, invariant=True),
                    linear_logprob(hidden.float(), head, target),
                    linear_logprob(hidden, wide, target),
                ]
            )
        )
    assert torch.equal(values[0], values[1])
    # The one that does: other bits, so the test would see it.
    plain = linear_logprob(hidden, head, target)
    assert torch.ops.w2s_library.set_isa("avx512bf16")
    assert not torch.equal(plain, linear_logprob(hidden, head, target))


def test_bf16_hidden_states_are_refused_where_nothing_multiplies_them():
    hidden, weight = torch.ones(2, 8).bfloat16(), torch.ones(5, 8)
    logits = torch.empty(2, 5)
    assert _linear_cpu.NEEDS
    with pytest.raises(RuntimeError, match="bf16 weight"):
        torch.ops.w2s_cpu.linear_logits_(logits, hidden, weight, None, None, 1.0)
    assert torch.ops.w2s_library.set_isa("avx512")
    with pytest.raises(RuntimeError, match="avx512bf16"):
        torch.ops.w2s_cpu.linear_logits_(logits, hidden, weight.bfloat16(), None, None, 1.0)


def test_empty_batches_and_strided_rows_are_taken():
    head = Head(torch.randn(40, 24, generator=linear.generator(1)).bfloat16())
    hidden, target = linear.inputs(3, head)
    assert linear_logprob(hidden[:0], head, target[:0]).shape == (0,)
    spread = hidden.repeat_interleave(2, dim=0)[::2]
    assert torch.equal(linear_logprob(spread, head, target), linear_logprob(hidden, head, target))
